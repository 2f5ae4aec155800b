"""Stopping: signals on one process, a common step on several."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from vqjax import preemption

WORKER = """
import sys, time
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from vqjax import preemption
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


def test_two_processes_stop_at_the_same_step():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    address = f"localhost:{probe.getsockname()[1]}"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", WORKER, address, str(i)],
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    for i in range(2)
  ]
  try:
    assert [p.stdout.readline() for p in processes] == ["ready\n"] * 2
    processes[0].send_signal(signal.SIGTERM)
    said = [p.communicate(timeout=60)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()
  assert said[0] == said[1] and said[0].startswith("stopped at")
