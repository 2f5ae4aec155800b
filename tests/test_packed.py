"""A file that is read like a run's folder: what is in it, what is not, and what is refused."""

import errno
import json
import pathlib
import random

import numpy as np
import pytest

from vqjax import checkpoint, files, packed, places, tensors
from vqjax.errors import UserError

TEXTS = {"config.json": '{"a": "ü"}', "tokenizer/config.json": "{}"}
W = np.arange(6, dtype=np.float32).reshape(2, 3)
NAMED = {
  "params/model/w": W,
  "tokenizer/params/model/w": W + 1,
  "tokenizer/code_counts.npz": np.frombuffer(b"PK\xff", np.uint8),
}


@pytest.fixture
def file(tmp_path):
  file = tmp_path / "run.safetensors"
  file.write_bytes(packed.content(TEXTS, NAMED))
  return file


def test_it_answers_as_a_folder_does(file):
  run = files.path(file)
  assert isinstance(run, packed.Packed) and str(run) == str(file)
  assert run.exists() and run.is_dir() and not run.is_file()
  assert (run / "").exists() and (run / "config.json").is_file()
  assert files.read_json(run / "config.json") == {"a": "ü"}
  assert (run / "tokenizer").is_dir() and not (run / "tokenizer").is_file()
  assert (run / "tokenizer" / "code_counts.npz").read_bytes() == b"PK\xff"
  assert not (run / "token").exists() and not (run / "checkpoints").is_dir()
  assert files.saved_steps(run) == []
  with pytest.raises(OSError) as caught:
    (run / "none").read_text()
  assert caught.value.errno == errno.ENOENT


def test_paths_of_it(file, tmp_path, monkeypatch):
  inner = files.path(f"{file}/tokenizer/")
  assert str(inner) == f"{file}/tokenizer" and inner.parent == files.path(file)
  assert files.path(inner) == inner and hash(files.path(inner)) == hash(inner)
  assert packed.results(inner) == tmp_path / "run/tokenizer"
  assert packed.results(tmp_path) == tmp_path
  monkeypatch.chdir(tmp_path)
  assert files.path("run.safetensors/tokenizer").absolute() == inner
  # Neither what only sounds like one, nor a folder of such a name.
  (tmp_path / "folder.safetensors").mkdir()
  for name in ("folder.safetensors", "none.safetensors", "run.safetensors.bak", ".safetensorsx"):
    assert type(files.path(tmp_path / name)) is type(pathlib.Path())


def test_places_are_told_from_the_file(file):
  found = lambda place, workdir: places.candidates(place, places.EXPORT, files.path(workdir))
  assert found("./tokenizer", file) == (f"{file}/tokenizer",)
  assert found("../tokenizer", f"{file}/coarser") == (f"{file}/tokenizer",)
  assert found("data", file) == ("data",)
  assert places.exists(f"{file}/tokenizer", run=True) and not places.exists(f"{file}/x", run=True)
  assert not files.is_packed(file.parent) and files.is_packed(files.path(file))


def test_its_weights_are_restored_by_name_in_the_type_that_is_asked_for(file):
  import jax

  want = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
  tree = {"params": {"model": {"w": W}}, "stats": {"model": {}}}
  np.testing.assert_equal(checkpoint.restore_params(file, want(tree)), tree)
  inner = {"ema": {"w": W + 1}}
  np.testing.assert_equal(checkpoint.restore_params(file / "tokenizer", want(inner)), inner)
  half = packed.content(TEXTS, {"params/model/w": W.astype(np.float16)})
  file.write_bytes(half)
  np.testing.assert_equal(checkpoint.restore_params(file, want(tree)), tree)
  for lacking in ({"params": {"model": {"v": W}}}, {"params": {"model": {"w": W[:1]}}}):
    with pytest.raises(UserError, match=f"{file}: holds .* as params/model/"):
      checkpoint.restore_params(file, want(lacking))


def test_it_lies_in_a_bucket_too(gs):
  (gs / "run.safetensors").parent.mkdir()
  (gs / "run.safetensors").write_bytes(packed.content(TEXTS, NAMED))
  run = files.path(f"{gs}/run.safetensors/tokenizer")
  assert files.is_packed(run) and files.is_remote(run) and (run / "config.json").exists()
  np.testing.assert_array_equal(run.weights(["params/model/w"])["params/model/w"], W + 1)
  with pytest.raises(UserError, match="is read and never written"):
    files.write_json(run / "notes.json", {})
  (place,) = places.candidates("../tokenizer", places.EXPORT, run)
  assert (files.path(place) / "config.json").exists()


def test_nothing_is_written_to_it(file):
  before = file.read_bytes()
  for write in (
    lambda: files.write_json(files.path(file) / "notes.json", {}),
    lambda: files.make_workdir(files.path(file)),
  ):
    with pytest.raises(UserError, match=f"{file}: is an exported run.* --config.init_from={file}"):
      write()
  assert file.read_bytes() == before


def test_foreign_and_newer_files_are_named(file):
  texts = {"format": "vqjax", "format_version": "2", "made_by": "vqjax 9.0"}
  for content, line in (
    (tensors.content(NAMED), "holds tensors, but no run .* python -m vqjax.convert"),
    (tensors.content(NAMED, {"format": "pt"}), "holds tensors, but no run"),
    (tensors.content(NAMED, texts), "is of format 2, written by vqjax 9.0; .* install a newer one"),
    (b"no tensors at all", "is damaged, or no safetensors file"),
  ):
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"^{file}: {line}") as caught:
      (files.path(file) / "config.json").exists()
    assert "\n" not in str(caught.value)


def test_every_damage_is_noticed(file):
  whole, rng = file.read_bytes(), random.Random(0)
  damaged = [whole[: rng.randrange(1, len(whole))] for _ in range(60)]
  for place in (rng.randrange(len(whole)) for _ in range(300)):
    flipped = bytes([whole[place] ^ 1 << rng.randrange(8)])
    damaged.append(whole[:place] + flipped + whole[place + 1 :])
  for content in damaged:
    file.write_bytes(content)
    packed._opened.cache_clear()
    try:
      texts = files.path(file)._content.texts
    except UserError as e:
      assert str(e).startswith(str(file)) and "\n" not in str(e)
    else:  # another spelling of the same
      assert json.loads(texts["config.json"]) == {"a": "ü"}
      assert sum(a != b for a, b in zip(content, whole)) == 1 and len(content) == len(whole)
