"""Being asked to stop: signals on one process, a common step on many."""

from __future__ import annotations

import signal
from typing import Any

import jax


class Signals:
  """SIGTERM and the first Ctrl-C ask the loop to save and leave; the second Ctrl-C interrupts at
  once.

  On several processes SIGTERM belongs to jax.distributed, whose notifier finds the step at which
  all of them stop; a handler of our own would take it away. Ctrl-C, which tells nobody of a common
  step, interrupts as ever: the newest checkpoint remains.
  """

  def __init__(self) -> None:
    self._asked, self._before = False, {}

  def __enter__(self) -> Signals:
    if jax.process_count() > 1:
      return self
    for number in (signal.SIGTERM, signal.SIGINT):
      try:
        self._before[number] = signal.signal(number, self._ask)
      except ValueError:  # not in the main thread: whoever runs us there handles signals
        pass
    return self

  def _ask(self, number: int, _: Any) -> None:
    self._asked = True
    signal.signal(signal.SIGINT, signal.default_int_handler)

  def requested(self, step: int) -> bool:
    if jax.process_count() > 1:  # every process must stop at the same step
      from jax.experimental import multihost_utils

      return bool(multihost_utils.reached_preemption_sync_point(step))
    return self._asked

  def __exit__(self, *_: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
