"""Writers: tables, progress, and metrics files that a resumed run continues."""

import io
import json
import pathlib

import pytest

from vqjax import writers


def test_resuming_drops_later_and_torn_lines(tmp_path):
  lines = [json.dumps({"step": s, "loss": s}) for s in (10, 20, 30)]
  (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 40, "lo')
  writer = writers.Writer(tmp_path, step=20)
  writer.scalars(30, {"loss": 0.5})
  writer.close()
  read = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert read == [{"step": 10, "loss": 10}, {"step": 20, "loss": 20}, {"step": 30, "loss": 0.5}]


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
