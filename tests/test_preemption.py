"""Stopping: during the start-up, by signals on one process, at a common step on several."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from vqjax import files, holder, preemption

START_UP = """
import hashlib, pathlib, sys, time
from vqjax import preemption
assert not {"jax", "numpy"} & sys.modules.keys()
with preemption.StartUp() as start_up:
  if sys.argv[1:]:
    start_up.begins(pathlib.Path(sys.argv[1]))
    start_up.leave((pathlib.Path(sys.argv[1]) / "held").unlink)
  print("ready", flush=True)
  hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)  # as deaf to Python's handlers as XLA is
"""

WORKER = """
import os, sys, time
sys.stdout = os.fdopen(os.dup(1), "w")  # ours alone: Gloo writes to file 1, between our lines
os.dup2(2, 1)
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import pathlib
from vqjax import holder, preemption
for folder in sys.argv[3:]:
  try:
    held = holder.Holder(pathlib.Path(folder), jax.process_index(), jax.process_count()).__enter__()
    print("held", flush=True)
  except ValueError as e:
    print(e, flush=True)
with preemption.Signals() as signals:
  print("ready", flush=True)
  for step in range(1, 500):
    if signals.requested(step):
      print("stopped at", step, flush=True)
      break
    time.sleep(0.02)
"""


def test_on_one_process_the_first_signal_asks_and_the_second_interrupts():
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  for first in (signal.SIGTERM, signal.SIGINT):
    with preemption.Signals() as signals:
      assert not signals.requested(1)
      os.kill(os.getpid(), first)
      assert signals.requested(2)
      with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("steps", [None, (), (2, 10)])
def test_the_start_up_ends_at_once(tmp_path, number, steps):
  (tmp_path / "held").touch()
  for step in steps or ():
    files.write_bytes(tmp_path / "checkpoints" / str(step) / "x", b"")
  process = subprocess.Popen(
    [sys.executable, "-c", START_UP, *([str(tmp_path)] if steps is not None else [])],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=10)[1] == (
      (f"{tmp_path}: " if steps is not None else "")
      + "stopped before the first step; "
      + ("step 10 is saved\n" if steps else "nothing to save\n")
    )
  finally:
    process.kill()
  assert process.returncode == 0 and (tmp_path / "held").exists() == (steps is None)


def test_the_loop_ends_the_start_up():
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  with preemption.StartUp() as start_up:
    assert preemption.start_up() is start_up
    with preemption.Signals() as signals:
      assert not signals.requested(1)
      os.kill(os.getpid(), signal.SIGTERM)
      assert signals.requested(2)
    os.kill(os.getpid(), signal.SIGTERM)  # the run is leaving anyway
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
  assert preemption.start_up() is None
  assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_two_processes_share_a_workdir_and_stop_at_the_same_step(tmp_path):
  free, taken = tmp_path / "free", tmp_path / "taken"
  free.mkdir(), taken.mkdir()
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    address = f"localhost:{probe.getsockname()[1]}"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", WORKER, address, str(i), str(free), str(taken)],
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    for i in range(2)
  ]
  try:
    with holder.Holder(taken):
      lines = [list(iter(p.stdout.readline, "ready\n")) for p in processes]
    assert lines[0] == lines[1] and lines[0][0] == "held\n"
    assert f"taken: is being trained by process {os.getpid()} on" in lines[0][1]
    processes[0].send_signal(signal.SIGTERM)
    said = [p.communicate(timeout=60)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()
  assert said[0] == said[1] and said[0].startswith("stopped at")
