"""Being asked to stop: at any moment of the start-up, then by signals on one process and at a
common step on many.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from vqjax import files

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StartUp:
  """From its first moment on SIGTERM and Ctrl-C end the process with status 0, saying what is
  saved; `over()`, or the loop's first question to `Signals`, ends that.

  For commands alone: a notebook's process is not ours to end. A thread does it, for Python's own
  handlers wait while a compilation runs. Nothing is lost: a run can be killed at any moment.
  """

  def __init__(self) -> None:
    self._workdir: files.Path | None = None
    self._leave: list[Callable[[], None]] = []
    self._before: dict[int, Any] = {}
    self._lock, self._over = threading.Lock(), False

  def __enter__(self) -> StartUp:
    global _start_up
    self._read, self._write = socket.socketpair()
    self._write.setblocking(False)
    self._wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
    self.claim()
    threading.Thread(target=self._watch, name="start-up", daemon=True).start()
    _start_up = self
    return self

  def claim(self) -> None:
    """Takes the signals (again): jax.distributed.initialize takes SIGTERM from whoever had it."""
    for number in _SIGNALS:
      before = signal.signal(number, self._asked)
      self._before.setdefault(number, before)

  def begins(self, workdir: files.Path) -> None:
    """The run of which the last words tell."""
    self._workdir = workdir

  def leave(self, release: Callable[[], None]) -> None:
    """`release` is called before the process ends, from another thread."""
    self._leave.append(release)

  def over(self) -> None:
    """Signals are left to whoever has their handlers."""
    with self._lock:  # a signal that came before is being answered: the process ends here
      if not self._over:
        self._over = True
        signal.set_wakeup_fd(self._wakeup)
        self._write.close()
        if signal.getsignal(signal.SIGINT) == self._asked:  # SIGTERM may be jax.distributed's
          signal.signal(signal.SIGINT, self._before[signal.SIGINT])

  def __exit__(self, *_: Any) -> None:
    global _start_up
    self.over()
    _start_up = None
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _asked(self, number: int, _: Any) -> None:
    """A run that is leaving anyway is left to it, until it is asked again."""
    if self._over:
      signal.signal(signal.SIGINT, signal.default_int_handler)

  def _watch(self) -> None:
    numbers = _SIGNALS
    while received := self._read.recv(1):
      if received[0] in numbers:
        break
    with self._lock:
      if self._over:
        return
      # A network may not answer.
      last = threading.Thread(target=self._last_words, daemon=True)
      last.start()
      last.join(5)
      os._exit(0)

  def _last_words(self) -> None:
    for release in self._leave:
      with contextlib.suppress(Exception):
        release()
    steps = files.saved_steps(self._workdir) if self._workdir is not None else []
    saved = f"step {steps[-1]} is saved" if steps else "nothing to save"
    where = f"{self._workdir}: " if self._workdir is not None else ""
    with contextlib.suppress(OSError):
      os.write(2, f"{where}stopped before the first step; {saved}\n".encode())


_start_up: StartUp | None = None


def start_up() -> StartUp | None:
  """The command's StartUp, while it lasts."""
  return _start_up


class Signals:
  """SIGTERM and the first Ctrl-C ask the loop to save and leave; the second Ctrl-C interrupts at
  once.

  On several processes SIGTERM belongs to jax.distributed, whose notifier finds the step at which
  all of them stop; a handler of our own would take it away. Ctrl-C, which tells nobody of a common
  step, interrupts as ever: the newest checkpoint remains.
  """

  def __init__(self) -> None:
    import jax  # here, so that a command has its StartUp before jax is imported

    self._asked, self._before, self._alone = False, {}, jax.process_count() == 1

  def __enter__(self) -> Signals:
    if not self._alone:
      return self
    for number in _SIGNALS:
      try:
        self._before[number] = signal.signal(number, self._ask)
      except ValueError:  # not in the main thread: whoever runs us there handles signals
        pass
    return self

  def _ask(self, number: int, _: Any) -> None:
    self._asked = True
    signal.signal(signal.SIGINT, signal.default_int_handler)

  def requested(self, step: int) -> bool:
    """Whether to leave after `step`; ends the command's start-up."""
    if _start_up is not None:
      _start_up.over()
    if not self._alone:  # every process must stop at the same step
      from jax.experimental import multihost_utils

      return bool(multihost_utils.reached_preemption_sync_point(step))
    return self._asked

  def __exit__(self, *_: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
