"""Training's metrics on their way from the device to the log."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vqjax import files, writers
from vqjax.errors import UserError


class Journal:
  """Collects the metrics of steps, checks them, and writes one line for every `log_every` of them.

  Args:
    workdir, config: of the run.
    start: the step that training continues from.
    window: metrics of the steps since the last line, as `window` gives them; of the run's
      checkpoint.
    saved: a function that tells the steps that are saved, for messages.
    noun: what one example is called.

  On other processes than the first it checks, and writes nothing.
  """

  def __init__(
    self,
    workdir: files.Path,
    config: Mapping[str, Any],
    start: int,
    *,
    window: Mapping[str, Sequence[float | None]],
    saved: Callable[[], Sequence[int]],
    noun: str = "image",
  ):
    self._noun = noun
    self._workdir, self._every, self._saved = workdir, config["log_every"], saved
    rows = zip(*window.values())
    self._window = [{k: v for k, v in zip(window, row) if v is not None} for row in rows]
    self._pending: list[tuple[int, Any]] = []  # (step, device metrics) that nobody has fetched
    self._writer = self._progress = None
    if jax.process_index() == 0:
      self._writer = writers.Writer(workdir, start)
      self._progress = writers.Progress(start, config["total_steps"], config["batch_size"], noun)

  @property
  def window(self) -> dict[str, list[float | None]]:
    """Metrics that are not in a line yet: saved with a checkpoint, a continued run logs what an
    uninterrupted one would. None is what a step does not have.
    """
    return {k: [m.get(k) for m in self._window] for k in self._names}

  @property
  def _names(self) -> list[str]:
    return list(dict.fromkeys(itertools.chain.from_iterable(self._window)))

  def add(self, step: int, metrics: Any) -> None:
    """Takes a step's metrics, on the device. A line that is due is written one step late: the
    device already works on this step while the host waits for the one before.
    """
    if self._pending and self._pending[-1][0] % self._every == 0:
      self.flush()
    self._pending.append((step, metrics))

  def flush(self) -> None:
    """Fetches all metrics and writes the lines that are due. Raises UserError for a value that is
    not finite.
    """
    fetched = jax.device_get([metrics for _, metrics in self._pending])
    for (step, _), values in zip(self._pending, fetched):
      values = {k: float(v) for k, v in values.items()}
      self.check_finite(step, values)
      self._window.append(values)
      if step % self._every == 0:
        self._line(step)
    self._pending = []

  def _line(self, step: int) -> None:
    mean = {k: float(np.mean([m[k] for m in self._window if k in m])) for k in self._names}
    if self._writer:
      rate = self._progress.report(step, mean)
      self._writer.scalars(step, mean, **{f"{self._noun}s_per_second": rate})
    self._window = []

  def held_out(self, step: int, figures: Mapping[str, float]) -> None:
    """Writes the held-out figures of a step. Raises UserError for one that is not finite."""
    # The step's own loss was of the parameters before it: an update that spoils them shows here
    # first.
    self.check_finite(step, {f"eval/{k}": v for k, v in figures.items()})
    if self._writer:
      self._writer.scalars(step, {f"eval/{k}": v for k, v in figures.items()})
      plain = [f"{k} {v:.4g}" for k, v in figures.items() if "/" not in k]
      self._progress.say("  ".join([f"step {step}: held out", *plain]))

  def preview(self, step: int, preview: Any) -> None:
    """Writes a vqjax.measure.Preview, or None's nothing; what took time until now is no part of the
    next lines' rate.
    """
    if not self._writer:
      return
    if preview is not None:
      self._writer.picture(step, "preview", preview.page)
      for name, clips in preview.clips.items():
        for i, clip in enumerate(clips):
          self._writer.clip(step, f"{name}/{i}", clip)
    self._progress.restart(step)

  def check_finite(self, step: int, values: Mapping[str, float]) -> None:
    """Raises UserError naming the first value that is not finite, and what to do."""
    bad = [k for k, v in values.items() if not np.isfinite(v)]
    if not bad:
      return
    # Terms before their total, losses before gradients: the first cause comes first.
    bad.sort(key=lambda k: (not k.startswith("loss/"), k == "loss/total", k))
    saved = self._saved()
    kept, remedy = "no checkpoint had been saved", "Start anew with a lower config.optim.lr"
    if saved:
      kept = f"the last good checkpoint is step {saved[-1]}"
      remedy = (
        "Continue with a lower config.optim.lr, or start anew with "
        f"--config.init_from={self._workdir}"
      )
    raise UserError(
      f"step {step}: {bad[0]} is {values[bad[0]]}; {kept}. {remedy} and config.optim.clip=1.0."
    )

  def written(self) -> None:
    """To be called before a step is saved: all lines up to it are in their files."""
    if self._writer:
      self._writer.flush()

  def close(self) -> None:
    if self._writer:
      self._writer.close()
      self._progress.close()
