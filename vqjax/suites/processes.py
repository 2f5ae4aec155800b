"""Two processes of one run on this machine: python -m vqjax.bench --suite=processes

Trains a tiny tokenizer with two processes, each a device of the mesh: undisturbed; with one of them
killed (SIGKILL) in the middle, and both started again; with SIGTERM to one of them, and both
started again. Prints how they ended, and whether the runs end alike, bit for bit; then how the two
evaluate and tokenize together.
"""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np

from vqjax import cli, files
from vqjax.suites.kills import CONFIG, final_state

# The tokenizer of `kills`, without its adversary.
OVERRIDES = ("disc=None", "loss={}", "total_steps=300", "log_every=10", "save_every=50")


def free_port() -> int:
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


class Pair:
  """Both processes of a command; what process 0 prints is kept."""

  def __init__(self, root: pathlib.Path, module: str, *arguments: str):
    common = dict(
      os.environ,
      VQJAX_CACHE=str(root / "cache"),
      VQJAX_DISTRIBUTED="1",
      JAX_COORDINATOR_ADDRESS=f"localhost:{free_port()}",
      JAX_NUM_PROCESSES="2",
      XLA_FLAGS="",
    )
    self.logs = [root / f"{module}.{i}.log" for i in range(2)]
    self.processes = [
      subprocess.Popen(
        [sys.executable, "-m", f"vqjax.{module}", *arguments],
        env=common | {"JAX_PROCESS_ID": str(i)},
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
      )
      for i, log in enumerate(self.logs)
    ]

  def wait(self) -> list[int]:
    return [process.wait() for process in self.processes]

  def lines(self, number: int) -> list[str]:
    return self.logs[number].read_text().splitlines()


def main(argv: Sequence[str]) -> None:
  cli.parser(__doc__).parse_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    (root / "config.py").write_text(CONFIG)
    options = [f"--config={root / 'config.py'}", *(f"--config.{each}" for each in OVERRIDES)]
    train = lambda name: Pair(root, "main", *options, f"--workdir={root / name}")
    print(f"undisturbed: status {train('whole').wait()}")
    _disturb(root, train, "killed", signal.SIGKILL)
    _disturb(root, train, "stopped", signal.SIGTERM)
    workdir = f"--workdir={root / 'whole'}"
    for module, arguments in (("evaluate", []), ("tokenize", [f"--output={root / 'codes'}"])):
      pair = Pair(root, module, workdir, *arguments)
      print(f"{module}: status {pair.wait()}; {(pair.lines(0) or [''])[-1].strip()}")


def _disturb(root: pathlib.Path, train: Callable[[str], Pair], name: str, number: int) -> None:
  """One of the two gets a signal past step 100; then both are started again."""
  pair = train(name)
  while max(files.saved_steps(root / name), default=0) < 100:
    time.sleep(0.02)
  before = time.monotonic()
  pair.processes[1].send_signal(number)
  statuses, seconds = pair.wait(), time.monotonic() - before
  told = [line for line in pair.lines(0) if "error" in line or "stopped" in line]
  saved = max(files.saved_steps(root / name))
  print(f"{name}: status {statuses} after {seconds:.1f} s, step {saved} saved; process 0 says:")
  print("  " + "\n  ".join(told or ["nothing"]))
  again = train(name).wait()
  ends = [final_state(root / run) for run in ("whole", name)]
  same = all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))
  logs = [(root / run / "metrics.jsonl").read_bytes() for run in ("whole", name)]
  print(
    f"  started again: status {again}; state {'identical' if same else 'DIFFERENT'}, "
    f"log {'identical' if logs[0] == logs[1] else 'DIFFERENT'}"
  )
