"""Writers: pixel rounding, grids, and metrics files that a resumed run continues."""

import json

import numpy as np
from PIL import Image

from vqjax import writers


def test_pixels_round_trip():
  pixels = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(writers.to_uint8(pixels.astype(np.float32) / 127.5 - 1), pixels)


def test_grid_places_rows_and_enlarges(tmp_path):
  rows = [np.full((2, 8, 8, 1), v, np.uint8) for v in (10, 200)]
  sheet = writers.grid(rows, gap=2, enlarge=16)
  assert sheet.shape == (34, 34, 3)
  assert sheet[0, 0, 0] == 10 and sheet[33, 33, 2] == 200 and sheet[16, 16, 0] == 255
  writers.save_image(tmp_path / "a" / "b.png", sheet)
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a" / "b.png")), sheet)


def test_resuming_drops_later_and_torn_lines(tmp_path):
  lines = [json.dumps({"step": s, "loss": s}) for s in (10, 20, 30)]
  (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 40, "lo')
  writer = writers.Writer(tmp_path, step=20)
  writer.scalars(30, {"loss": 0.5})
  writer.close()
  read = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert read == [{"step": 10, "loss": 10}, {"step": 20, "loss": 20}, {"step": 30, "loss": 0.5}]


def test_table_aligns():
  assert writers.table(["a", "bb"], [["x", 1]]).splitlines() == ["| a | bb |", "|---|---:|", "| x |  1 |"]
