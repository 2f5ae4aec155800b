"""Writers: tables, progress, and metrics files that a resumed run continues."""

import io
import json
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vqjax import files, writers
from vqjax.errors import UserError


def test_resuming_drops_later_and_torn_lines(tmp_path):
  lines = [json.dumps({"step": s, "loss": s}) for s in (10, 20, 30)]
  (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 40, "lo')
  writer = writers.Writer(tmp_path, step=20)
  writer.scalars(30, {"loss": 0.5})
  writer.close()
  read = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert read == [{"step": 10, "loss": 10}, {"step": 20, "loss": 20}, {"step": 30, "loss": 0.5}]


def records(file):
  """TensorBoard's events in a file, their checksums checked."""
  proto, checksum = writers._tensorboard()
  content, events = file.read_bytes(), []
  while content:
    (length,) = struct.unpack("<Q", content[:8])
    event = content[12 : 12 + length]
    sums = struct.unpack("<I", content[8:12]) + struct.unpack("<I", content[12 + length :][:4])
    assert sums == (checksum(content[:8]), checksum(event))
    events.append(proto.Event.FromString(event))
    content = content[16 + length :]
  return events


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_run_is_written_in_folders_and_buckets(place, tmp_path, request):
  workdir = tmp_path if place == "folder" else request.getfixturevalue("gs")
  sheet = np.zeros((2, 3, 3), np.uint8)
  for start in (0, 2):
    writer = writers.Writer(workdir, start)
    for step in range(start + 1, start + 4):
      writer.scalars(step, {"loss": step}, speed=7)
    writer.picture(start + 3, "preview", sheet)
    writer.flush()
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, start + 4))
    picture = Image.open(
      io.BytesIO((workdir / "previews" / f"preview_{step:07d}.png").read_bytes())
    )
    np.testing.assert_array_equal(np.asarray(picture), sheet)
    writer.close()
  version, begun, *scalars, shown = records(max((workdir / "tensorboard").iterdir()))
  assert version.file_version == "brain.Event:2"
  assert (begun.step, begun.session_log.status) == (3, 1)
  found = [(e.step, v.tag, v.simple_value) for e in scalars for v in e.summary.value]
  assert found == [(s, *v) for s in (3, 4, 5) for v in (("loss", s), ("speed", 7))]
  image = shown.summary.value[0].image
  assert (image.height, image.width, image.encoded_image_string[1:4]) == (2, 3, b"PNG")


def test_metrics_and_pictures_on_a_full_disk_are_one_line(disk):
  writer = writers.Writer(disk.path / "run", 0)
  writer.scalars(1, {"loss": 1})
  files.write_bytes(disk.path / "run" / "checkpoints" / "1" / "x", b"")
  files.write_json(disk.path / "run" / "config.json", {"a": 1})
  noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
  refused = r"No space left on device\): .* needed, .* free; the last good step is 1"
  disk.leave(20_000)
  with pytest.raises(UserError, match=rf"previews/preview_0000002.png: .*{refused}"):
    writer.picture(2, "preview", noise)
  disk.leave(0)
  with pytest.raises(UserError, match=rf"config.json: .*{refused}"):
    files.write_json(disk.path / "run" / "config.json", {"a": "b" * 5000})
  with pytest.raises(UserError, match=rf"(metrics.jsonl|events.*): .*{refused}"):
    for step in range(2, 1000):
      writer.scalars(step, {"loss": step})
  writer.close()
  assert files.read_json(disk.path / "run" / "config.json") == {"a": 1}
  disk.leave(0)
  with pytest.raises(UserError, match=f"events.*{refused}"):
    writers.Writer(disk.path / "run", step - 1)
  disk.leave(100_000)
  writer = writers.Writer(disk.path / "run", step - 1)
  writer.scalars(step, {"loss": 0})
  writer.close()
  lines = (disk.path / "run" / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == list(range(1, step + 1))


def test_torch_stays_out(tmp_path):
  """Where it is installed tensorboardX would import it."""
  (tmp_path / "torch.py").write_text("raise AssertionError('imported')")
  code = (
    "import pathlib, sys; from vqjax import writers; writers.Writer(pathlib.Path('run'), 0)\n"
    "assert 'torch' not in sys.modules"
  )
  path = os.pathsep.join([str(tmp_path), str(pathlib.Path(__file__).parents[1])])
  subprocess.run(
    [sys.executable, "-c", code], check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}
  )


def test_table_aligns():
  assert writers.table(["a", "bb"], [["x", 1]]).splitlines() == [
    "| a | bb |",
    "|---|---:|",
    "| x |  1 |",
  ]


def test_metrics_are_never_written_anew(tmp_path, monkeypatch):
  (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}\n')
  node = (tmp_path / "metrics.jsonl").stat().st_ino

  def refused(*_):
    raise AssertionError("a run that is killed here would lose its metrics")

  monkeypatch.setattr(pathlib.Path, "write_text", refused)
  writers.Writer(tmp_path, step=10).close()
  assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 10}\n' and (
    tmp_path / "metrics.jsonl"
  ).stat().st_ino == node


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_progress_moves_and_counts_no_evaluation(stream, monkeypatch):
  clock = iter([0.0, 5.0, 5.0, 105.0, 115.0, 115.0])
  monkeypatch.setattr(writers.time, "monotonic", lambda: next(clock))
  progress = writers.Progress(20, 100_100, batch_size=8, stream=stream())
  assert progress.report(30, {"loss/total": 0.5}) == 16
  progress.restart(30)  # 100 seconds of evaluation and saving
  assert progress.report(40, {"loss/total": 0.25}) == 8
  shown = progress._stream.getvalue()
  progress.close()
  assert "40/100100" in shown and "images/s" in shown and "1 day, 3:47:40" in shown
