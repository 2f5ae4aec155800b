"""A profile of five training steps, for XProf and Perfetto: `python -m vqjax.main --profile`."""

from __future__ import annotations

import logging
from typing import Any

import jax

from vqjax import files

log = logging.getLogger("vqjax")

_SKIPPED, _STEPS = 5, 5  # the first ones compile, and fill what is kept ahead


class Trace:
  """Records the run's sixth to tenth step from `start` on, as far as there are so many.

  Args:
    folder: where the trace goes, for all processes; None records nothing.
    start: the step that training continues from.
  """

  def __init__(self, folder: files.Path | None, start: int):
    self._folder, self._first = folder, start + _SKIPPED + 1
    self._open = False

  def before(self, step: int) -> None:
    if self._folder is not None and step == self._first:
      jax.profiler.start_trace(str(self._folder))
      self._open = True

  def after(self, step: int, result: Any) -> None:
    """`result` is an array of the step, which is waited for before the recording ends."""
    if self._open and step == self._first + _STEPS - 1:
      jax.block_until_ready(result)
      self.close()

  def close(self) -> None:
    if self._open:
      self._open = False
      jax.profiler.stop_trace()
      log.info("%s: holds the profile; xprof --logdir=%s", self._folder, self._folder)
