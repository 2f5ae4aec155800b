"""Where a run's wall time went, restarts included: goodput.json in its workdir."""

from __future__ import annotations

import collections
import contextlib
import time

import jax

from vqjax import files
from vqjax.errors import UserError

FILE = "goodput.json"
KINDS = ("step", "compile", "input", "evaluate", "save", "start", "lost")


class Ledger:
  """Seconds by what they were spent on, kept with every save. A file of them that is damaged, or
  cannot be written, is no loss to the run.

  "step" is what a run is for, "start" all before its first step, "lost" what was computed after the
  last save of a process that was killed, as far as its log tells.

  Args:
    workdir: of the run.
    start: the step that training continues from.
    began: `time.monotonic()` when this process began.
  """

  def __init__(self, workdir: files.Path, start: int, began: float):
    self._file = workdir / FILE
    then = files.notes(self._file) if start else {}
    self.seconds = collections.Counter({kind: 0.0 for kind in KINDS} | then.get("seconds", {}))
    if then:
      self.seconds["lost"] += max(0.0, _last_sign(workdir) - then["until"])
    self._kind, self._since = "start", began

  def on(self, kind: str) -> None:
    """From now on time is spent on `kind`."""
    now = time.monotonic()
    self.seconds[self._kind] += now - self._since
    self._kind, self._since = kind, now

  def keep(self) -> None:
    """Writes the file, on the first process."""
    self.on(self._kind)
    if jax.process_index() == 0:
      seconds = {kind: round(n, 3) for kind, n in self.seconds.items()}
      with contextlib.suppress(UserError, OSError):
        files.write_json(self._file, {"until": time.time(), "seconds": seconds})

  def __str__(self) -> str:
    """Shares in percent, largest first, without what took nothing."""
    total = sum(self.seconds.values()) or 1.0
    shares = [(kind, round(100 * n / total)) for kind, n in self.seconds.most_common()]
    return ", ".join(f"{kind} {share} %" for kind, share in shares if share)


def _last_sign(workdir: files.Path) -> float:
  """When the run last wrote to its log, in seconds of the epoch; 0 where it has none."""
  found = [workdir / "metrics.jsonl", *(workdir / "tensorboard").glob("*")]
  times = (file.stat() for file in found if file.exists())
  return max((getattr(s, "st_mtime", None) or s.mtime for s in times), default=0.0)
