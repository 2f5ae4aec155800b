"""What a run leaves to read: JSON lines, TensorBoard events, tables, progress."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqjax import files, pictures, sounds


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
  """Metrics and pictures of one run: metrics.jsonl, previews/ and tensorboard/ in its workdir.

  On a resumed run, lines past the restored step are dropped first: they will come again. Everything
  is written by the caller's thread, and raises UserError where it cannot be.
  """

  def __init__(self, workdir: files.Path, step: int):
    self.workdir = workdir
    lines = workdir / "metrics.jsonl"
    self._lines = files.Growing(lines, workdir, _length(lines, step) if lines.exists() else 0)
    self._events = _Events(workdir, step)

  def scalars(self, step: int, values: Mapping[str, float], **also: Any) -> None:
    """Appends {"step": …, **values} to metrics.jsonl and to the events; `also` goes to the events
    alone (timings).
    """
    line = json.dumps({"step": step} | {k: float(v) for k, v in values.items()}) + "\n"
    self._lines.write(line.encode())
    self._events.scalars(step, {**values, **also})

  def picture(self, step: int, name: str, sheet: np.ndarray) -> None:
    """Writes a uint8 `[H, W, 3]` picture."""
    png = pictures.encode(sheet)
    file = self.workdir / "previews" / f"{name}_{step:07d}.png"
    files.write_bytes(file, png, self.workdir)
    self._events.picture(step, name, sheet, png)

  def clip(self, step: int, name: str, clip: Any) -> None:
    """Writes a vqjax.signals.Clip to the events: TensorBoard's audio tab plays it."""
    self._events.clip(step, name, clip)

  def flush(self) -> None:
    """To be called before a step is saved: a continued run writes no line of before again."""
    self._lines.flush()
    self._events.flush()

  def close(self) -> None:
    self._lines.close()
    self._events.close()


class _Events:
  """TensorBoard's event file of one process.

  Not tensorboardX's writer: its thread dies where the disk is full, and the run hangs on its queue.
  """

  def __init__(self, workdir: files.Path, step: int):
    self._proto, self._crc = _tensorboard()
    name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
    self._file = files.Growing(workdir / "tensorboard" / name, workdir)
    self._add(file_version="brain.Event:2")
    start = self._proto.SessionLog(status=self._proto.SessionLog.START)
    self._add(step=step + 1, session_log=start)  # drops what a run before wrote from there on

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._add(step, [{"tag": name, "simple_value": float(v)} for name, v in values.items()])

  def picture(self, step: int, name: str, sheet: np.ndarray, png: bytes) -> None:
    height, width, channels = sheet.shape
    image = {"height": height, "width": width, "colorspace": channels}
    self._add(step, [{"tag": name, "image": image | {"encoded_image_string": png}}])

  def clip(self, step: int, name: str, clip: Any) -> None:
    frames, channels = clip.samples.shape
    audio = {"sample_rate": clip.rate, "num_channels": channels, "length_frames": frames}
    audio |= {"encoded_audio_string": sounds.encode(clip.samples, clip.rate)}
    self._add(step, [{"tag": name, "audio": audio | {"content_type": "audio/wav"}}])

  def _add(self, step: int = 0, values: Sequence[Any] = (), **also: Any) -> None:
    """One record: length, its checksum, the event, its checksum."""
    summary = {"summary": {"value": values}} if values else {}
    event = self._proto.Event(wall_time=time.time(), step=step, **summary, **also)
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    sums = (struct.pack("<I", self._crc(part)) for part in (length, content))
    self._file.write(length + next(sums) + content + next(sums))

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def _tensorboard() -> tuple[Any, Any]:
  """(event_pb2, the checksum of its records) of tensorboardX, which imports torch where it can:
  seconds and half a gigabyte for nothing.
  """
  loaded = sys.modules.get("torch")
  if loaded is None:
    sys.modules["torch"] = None
  try:
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c
  finally:
    if loaded is None:
      del sys.modules["torch"]
  return event_pb2, masked_crc32c


def _length(lines: files.Path, step: int) -> int:
  """How many bytes the whole lines up to `step` take."""
  kept = itertools.takewhile(
    lambda line: _step_of(line) <= step, lines.read_bytes().splitlines(keepends=True)
  )
  return sum(map(len, kept))


def _step_of(line: bytes) -> float:
  """A cut-off last line (the run was killed while writing) counts as never written."""
  try:
    return json.loads(line)["step"] if line.endswith(b"\n") else float("inf")
  except (ValueError, KeyError):
    return float("inf")


class Progress:
  """A bar with loss, examples per second and time left on a terminal; plain lines, one per logging
  interval, elsewhere.
  """

  def __init__(
    self, start: int, total: int, batch_size: int, noun: str = "image", stream: Any = sys.stderr
  ):
    from tqdm import tqdm

    self._total, self._batch, self._stream = total, batch_size, stream
    self._rate = f"{noun}s/s"
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
    """Shows the interval that ended at `step`; returns its examples per second."""
    seconds = (time.monotonic() - self._last_time) / max(1, step - self._last_step)
    self.restart(step)
    rate = self._batch / max(seconds, 1e-9)
    left = str(datetime.timedelta(seconds=round(seconds * (self._total - step))))
    shown = {"loss": f"{metrics['loss/total']:.4f}", self._rate: f"{rate:.0f}", "left": left}
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
