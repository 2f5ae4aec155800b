"""One holder of a workdir at a time: who trains there, and what a process that died leaves behind.

Two signs of life. The kernel's lock (flock) on WORKDIR/.holder, which a process that ends in any
way gives back; it speaks for the processes of one kernel, in whichever containers, and on NFS
mostly for other hosts too. And the beat: the holder writes the file anew every few seconds. Who
finds a record of another kernel, or a file system without locks (buckets, some network file
systems), watches it and takes over where no beat comes. No clocks are compared.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import functools
import json
import logging
import os
import pathlib
import socket
import threading
import time
import uuid
from typing import Any

from vqjax import files
from vqjax.errors import UserError

log = logging.getLogger("vqjax")

BEAT_SECONDS = 10.0
ABANDONED_SECONDS = 45.0  # without a beat; a loaded machine may miss some
SETTLE_SECONDS = 2.0  # after which the last of those who wrote at the same time is read back
_LENGTH = 512  # of the record: written over in place, it is never half an old one

_descriptors: set[int] = set()


def _forget() -> None:
  """A forked child shares its parent's lock and would keep it alive."""
  while _descriptors:
    os.close(_descriptors.pop())


os.register_at_fork(after_in_child=_forget)


@functools.cache
def _kernel() -> str:
  """Names the running kernel: containers on one machine have it in common, reboots change it."""
  try:
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  except OSError:
    return socket.gethostname()


def _pids() -> str:
  """Names the set of processes that `pid` counts in: a container has its own."""
  try:
    return os.readlink("/proc/self/ns/pid")
  except OSError:
    return ""


class Holder:
  """Holds `workdir` for this process, or for the pod that it is the first process of.

  Only training takes it; readers never do. `with` raises UserError where another process holds it,
  in all processes of a pod alike.

  Args:
    workdir: exists.
    index, count: of this process in its pod, jax.process_index() and jax.process_count().
  """

  def __init__(self, workdir: files.Path, index: int = 0, count: int = 1):
    self._workdir, self._file = workdir, workdir / ".holder"
    self._index, self._count = index, count
    self._descriptor: int | None = None
    self._lost: str | None = None
    self._released, self._writing = threading.Event(), threading.Lock()
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    self._record = {
      "token": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(),
      "since": since, "kernel": _kernel(), "pids": _pids(), "beat": 0,
    }  # fmt: skip

  def __enter__(self) -> Holder:
    refused = self._take() if self._index == 0 else None
    if self._count > 1:
      refused = _from_first(refused)
    if refused:
      self.release()
      raise UserError(refused)
    if self._index == 0:
      threading.Thread(target=self._live, name="holder", daemon=True).start()
    return self

  def __exit__(self, *_: Any) -> None:
    self.release()

  def check(self) -> None:
    """Raises UserError where another process took over, as after a long suspension; costs nothing.

    To be called before anything of the run is written.
    """
    if self._lost:
      raise UserError(self._lost)

  def release(self) -> None:
    """Gives the workdir back; callable from any thread, and more than once."""
    if self._released.is_set():
      return
    self._released.set()
    with self._writing, contextlib.suppress(OSError):
      if self._mine(self._read()):
        self._file.unlink(missing_ok=True)
    self._close()

  def _take(self) -> str | None:
    """Takes the workdir; else says why not."""
    try:
      with files.saving(self._file, self._workdir, _LENGTH):
        return self._attempt()
    except UserError as e:
      return str(e)

  def _attempt(self) -> str | None:
    while True:
      locked = self._lock()
      if locked is False or self._lives(self._read(), locked):
        return self._refusal(self._read())
      if not locked or self._still_there():
        break
      self._close()
    self._write()
    if not locked:
      time.sleep(SETTLE_SECONDS)
      if not self._mine(record := self._read()):
        return self._refusal(record)
    return None

  def _lock(self) -> bool | None:
    """True: the kernel's lock is ours; False: it is another's; None: there are no locks here."""
    if files.is_remote(self._file):
      return None
    while True:
      descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
      try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        os.close(descriptor)
        return False
      except OSError:
        os.close(descriptor)
        return None
      self._descriptor = descriptor
      _descriptors.add(descriptor)
      if self._still_there():
        return True
      self._close()

  def _still_there(self) -> bool:
    """Whether the locked file has its name yet: the last holder may have removed it meanwhile."""
    try:
      return os.path.samestat(os.fstat(self._descriptor), os.stat(self._file))
    except FileNotFoundError:
      return False

  def _lives(self, record: dict[str, Any], locked: bool | None) -> bool:
    """Whether the holder that `record` names is alive, though it does not hold the lock."""
    if not record or (locked and record["kernel"] == _kernel()):
      return False
    if record["kernel"] == _kernel() and record["pids"] == _pids() and not _runs(record["pid"]):
      return False
    log.info(
      "%s: process %s on %s trained here; waiting up to %.0f s for a sign of life",
      *(self._workdir, record["pid"], record["host"], ABANDONED_SECONDS),
    )
    end = time.monotonic() + ABANDONED_SECONDS
    while time.monotonic() < end:
      time.sleep(min(1.0, BEAT_SECONDS))
      if (now := self._read()) != record:
        return bool(now)  # it beat, or it was released
    return False

  def _read(self) -> dict[str, Any]:
    """The record; empty where there is none, or none that can be read."""
    try:
      record = json.loads(self._file.read_bytes())
      return record if record.keys() >= self._record.keys() else {}
    except (FileNotFoundError, ValueError, AttributeError):
      return {}

  def _write(self) -> None:
    content = json.dumps(self._record).ljust(_LENGTH - 1).encode() + b"\n"
    if self._descriptor is None:
      files.write_bytes(self._file, content)
    else:
      os.pwrite(self._descriptor, content, 0)
      os.fsync(self._descriptor)  # other hosts see it now

  def _mine(self, record: dict[str, Any]) -> bool:
    return record.get("token") == self._record["token"]

  def _live(self) -> None:
    """Beats until release, or until another's record stands in the file."""
    wait = min(SETTLE_SECONDS, BEAT_SECONDS)
    while not self._released.wait(wait):
      wait = BEAT_SECONDS
      with self._writing, contextlib.suppress(Exception):  # a network may fail for a while
        if self._released.is_set():
          return
        record = self._read()
        if record and not self._mine(record):
          self._lost = self._refusal(record)
          return
        self._record["beat"] += 1
        self._write()

  def _close(self) -> None:
    if self._descriptor in _descriptors:
      _descriptors.remove(self._descriptor)
      os.close(self._descriptor)
    self._descriptor = None

  def _refusal(self, record: dict[str, Any]) -> str:
    who = "process {pid} on {host} since {since}" if record else "another process"
    return (
      f"--workdir={self._workdir}: is being trained by {who.format_map(record)}; wait for it, or "
      "stop it."
    )


def _runs(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return True


def _from_first(text: str | None) -> str:
  """The first process's `text`, in every process of the pod."""
  import numpy as np
  from jax.experimental import multihost_utils

  content = np.frombuffer((text or "").encode()[:1000].ljust(1000), np.uint8)
  return bytes(multihost_utils.broadcast_one_to_all(content)).decode(errors="replace").strip()
