"""Files: whole or not at all, in folders and in buckets; a write that fails is one line."""

import concurrent.futures
import errno
import os
import pathlib

import pytest

from vqjax import files
from vqjax.errors import UserError


@pytest.fixture(params=["folder", "bucket"])
def workdir(request, tmp_path):
  if request.param == "folder":
    return tmp_path / "run"
  return request.getfixturevalue("gs")


def test_paths_keep_their_scheme():
  assert files.path("runs/a") == pathlib.Path("runs/a")
  for text in ("gs://b/runs/a", pathlib.Path("gs://b/runs/a")):
    assert str(files.path(text) / "config.json") == "gs://b/runs/a/config.json"
    assert files.is_remote(files.path(text)) and not files.is_remote(pathlib.Path("/gs/b"))
  with pytest.raises(UserError, match="^ftp://b/a: ftp:// is unknown; give a folder"):
    files.path("ftp://b/a")
  with pytest.raises(UserError, match="mount the bucket"):
    files.make_workdir(files.path("s3://b/a"))


def test_whole_files_and_json(workdir):
  files.make_workdir(workdir)
  files.write_json(workdir / "a.json", {"x": [1, 2]})
  files.write_json(workdir / "a.json", {"x": [3]})
  assert files.read_json(workdir / "a.json") == {"x": [3]}
  assert [p.name for p in workdir.iterdir()] == ["a.json"]
  files.write_bytes(workdir / "a.json", b"{")
  with pytest.raises(UserError, match="a.json: is damaged"):
    files.read_json(workdir / "a.json")


def test_two_writers_of_one_file_leave_the_whole_one_of_either(tmp_path):
  wholes = [bytes([i]) * 200_000 for i in range(2)]
  write = lambda content: [files.write_bytes(tmp_path / "a", content) for _ in range(50)]
  with concurrent.futures.ThreadPoolExecutor() as pool:
    writers = [pool.submit(write, content) for content in wholes]
    while not all(writer.done() for writer in writers):
      assert not (tmp_path / "a").exists() or (tmp_path / "a").read_bytes() in wholes
    assert [writer.result() for writer in writers] and os.listdir(tmp_path) == ["a"]


def test_growing_files_continue_after_what_is_kept(workdir):
  for keep, expected in ((0, b"abcd"), (2, b"ababcd")):
    growing = files.Growing(workdir / "logs" / "lines", workdir, keep)
    growing.write(b"ab")
    growing.write(b"cd")
    growing.flush()
    assert (workdir / "logs" / "lines").read_bytes() == expected
    growing.close()


def test_folders_move(workdir):
  files.write_bytes(workdir / "a" / "b" / "c", b"x")
  files.move(workdir / "a", workdir / "d")
  assert (workdir / "d" / "b" / "c").read_bytes() == b"x" and not (workdir / "a").exists()


def test_saved_steps_are_the_finished_ones(workdir):
  assert files.saved_steps(workdir) == [] and files.kept(workdir) == "no step had been saved"
  for name in ("10/x", "9/x", "11.orbax-checkpoint-tmp/x"):
    files.write_bytes(workdir / "checkpoints" / name, b"x")
  if files.is_remote(workdir):
    assert files.saved_steps(workdir) == []
    for step in (9, 10):
      files.write_bytes(workdir / "checkpoints" / str(step) / "commit_success.txt", b"")
  assert files.saved_steps(workdir) == [9, 10]
  assert files.kept(workdir) == "the last good step is 10"


class OpError(Exception):
  """By name TensorFlow's."""


def caused(outer, inner):
  outer.__cause__ = inner
  return outer


@pytest.mark.parametrize(
  "error, reason",
  [
    (OSError(errno.ENOSPC, "x"), r"No space left on device\): 5 bytes needed, .* free; no step"),
    (ValueError("RESOURCE_EXHAUSTED: … No space left on device [os_error_code='28']"), "No space"),
    (ValueError("INTERNAL: [os_error_code='5']"), r"\(Input/output error\); no step"),
    (caused(RuntimeError("later"), PermissionError(errno.EACCES, "x")), "Permission denied"),
    (OSError(errno.EROFS, "x"), "Read-only file system"),
    (OpError("bucket is gone\nat line 7"), r"\(bucket is gone\); no step"),
  ],
)
def test_what_the_system_refuses_is_one_line(tmp_path, error, reason):
  with pytest.raises(UserError, match=reason) as caught, files.saving(tmp_path / "f", tmp_path, 5):
    raise error
  assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{tmp_path}/f: cannot")


def test_other_errors_pass(tmp_path):
  for error in (TypeError("a mistake of ours"), UserError("told already")):
    with pytest.raises(type(error), match=str(error)), files.saving(tmp_path):
      raise error


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
  file = tmp_path / "a.json"
  files.write_json(file, {"x": 1})

  def full(self, content):
    with open(self, "wb") as f:
      f.write(content[:3])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(pathlib.Path, "write_bytes", full)
  with pytest.raises(UserError, match="No space left"):
    files.write_json(file, {"x": 2})
  assert files.read_json(file) == {"x": 1} and os.listdir(tmp_path) == ["a.json"]
