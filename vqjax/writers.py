"""What a run leaves to read: JSON lines, TensorBoard events, tables, the progress on the terminal."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqjax import pictures


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table with aligned columns, the first to the left, the others to the right."""
  cells = [list(map(str, row)) for row in [head, *rows]]
  widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
  line = lambda row: (
    "| "
    + " | ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths)))
    + " |"
  )
  rule = "|" + "|".join("-" * (w + 1) + ("-" if not i else ":") for i, w in enumerate(widths)) + "|"
  return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


class Writer:
  """Metrics and pictures of one run.

  On a resumed run, lines past the restored step are dropped first: they will come again.
  """

  def __init__(self, workdir: pathlib.Path, step: int):
    from tensorboardX import SummaryWriter  # imports slowly, and only the first process writes

    self.workdir = workdir
    self._file = workdir / "metrics.jsonl"
    if self._file.exists():
      lines = itertools.takewhile(
        lambda line: _step_of(line) <= step, self._file.read_bytes().splitlines(keepends=True)
      )
      os.truncate(
        self._file, sum(map(len, lines))
      )  # in one go: a run that is killed here still has its metrics
    self._lines = self._file.open("a")
    self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

  def scalars(self, step: int, values: Mapping[str, float], **also: Any) -> None:
    """Appends {"step": …, **values} to metrics.jsonl and to the events; `also` goes to the events
    alone (timings).
    """
    self._lines.write(json.dumps({"step": step} | {k: float(v) for k, v in values.items()}) + "\n")
    self._lines.flush()
    for name, value in {**values, **also}.items():
      self._events.add_scalar(name, float(value), step)

  def picture(self, step: int, name: str, sheet: np.ndarray) -> None:
    pictures.save(self.workdir / "previews" / f"{name}_{step:07d}.png", sheet)
    self._events.add_image(name, sheet, step, dataformats="HWC")

  def close(self) -> None:
    self._lines.close()
    self._events.close()


def _step_of(line: bytes) -> float:
  """A cut-off last line (the run was killed while writing) counts as never written."""
  try:
    return json.loads(line)["step"] if line.endswith(b"\n") else float("inf")
  except (ValueError, KeyError):
    return float("inf")


class Progress:
  """A bar with loss, images/s and time left on a terminal; plain lines, one per logging interval,
  elsewhere.
  """

  def __init__(self, start: int, total: int, batch_size: int, stream: Any = sys.stderr):
    from tqdm import tqdm

    self._total, self._batch, self._stream = total, batch_size, stream
    # Its own rate and time left would count evaluation in.
    self._bar = tqdm(
      initial=start,
      total=total,
      unit="step",
      dynamic_ncols=True,
      file=stream,
      disable=not stream.isatty(),
      bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
    )
    self.restart(start)

  def restart(self, step: int) -> None:
    """Begins an interval after `step`: what took time until now (evaluation, saving) is no part of
    it.
    """
    self._last_step, self._last_time = step, time.monotonic()

  def report(self, step: int, metrics: Mapping[str, float]) -> float:
    """Shows the interval that ended at `step`; returns its images/s."""
    seconds = (time.monotonic() - self._last_time) / max(1, step - self._last_step)
    self.restart(step)
    rate = self._batch / max(seconds, 1e-9)
    left = str(datetime.timedelta(seconds=round(seconds * (self._total - step))))
    shown = {"loss": f"{metrics['loss/total']:.4f}", "images/s": f"{rate:.0f}", "left": left}
    if self._bar.disable:
      print(
        f"step {step}/{self._total}  " + "  ".join(f"{k} {v}" for k, v in shown.items()),
        file=self._stream,
        flush=True,
      )
    else:
      self._bar.n = step
      self._bar.set_postfix(shown)
    return rate

  def say(self, text: str) -> None:
    self._bar.write(text, file=self._stream) if not self._bar.disable else print(
      text, file=self._stream, flush=True
    )

  def close(self) -> None:
    self._bar.close()
