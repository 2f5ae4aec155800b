"""Kills a run without warning, many times: python -m vqjax.bench --suite=kills [--kills=20]
[--config=FILE[:debug] --config.FIELD=VALUE …]

Trains a tiny GAN, or the run of a config, once undisturbed and once killed (SIGKILL) at random
moments, from its start-up to its last save, and continued by the same command each time. Prints at
which step each kill found it, and whether the two runs end alike: every array of the state, and the
log, bit for bit.
"""

from __future__ import annotations

import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np

from vqjax import cli, config as configuration, files
from vqjax.errors import UserError

CONFIG = """
def get_config():
  return dict(
    model=dict(
      name="vqvae", hidden=16, residual_hidden=8, residual_blocks=1,
      quantizer=dict(name="ema", codebook_size=16, dim=8)),
    disc=dict(name="patchgan", channels=8, n_layers=1),
    loss=dict(feature_weight=0.5, adversarial_start=50, lecam_weight=0.01, r1_weight=0.1),
    data=dict(name="shapes", size=16, num_train=640, num_eval=32), ops=dict(size=16, channels=3),
    batch_size=8, total_steps=1_500, log_every=7, save_every=20, eval_examples=32, preview=4,
    ema_decay=0.9)
"""


def final_state(workdir: pathlib.Path) -> list[np.ndarray]:
  """All arrays of the newest checkpoint."""
  from vqjax import checkpoint, train

  run = train.Run(configuration.of_run(workdir), configuration.read_spec(workdir))
  parts = checkpoint.restore_params(workdir, vars(run.abstract))
  return [np.asarray(leaf) for leaf in jax.tree.leaves(parts)]


def wait_or_kill(process: subprocess.Popen, seconds: float) -> bool:
  """Whether the process was still there after so many seconds, and was killed."""
  try:
    process.wait(seconds)
  except subprocess.TimeoutExpired:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True
  return False


def main(argv: Sequence[str]) -> None:
  argv, overrides = configuration.split_arguments(argv)
  parser = cli.parser(__doc__)
  parser.add_argument("--config", metavar="FILE[:debug]", help="another run than the tiny GAN")
  parser.add_argument("--kills", type=cli.count, default=20)
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  args = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    (root / "config.py").write_text(CONFIG)
    file = args.config or str(root / "config.py")
    config = configuration.load(file)
    configuration.override(config, overrides)
    every = configuration.complete(config).save_every
    environment = dict(os.environ, VQJAX_CACHE=str(root / "cache"))

    def start(name: str) -> subprocess.Popen:
      command = [sys.executable, "-m", "vqjax.main", f"--config={file}"]
      command += [f"--config.{each}" for each in overrides]
      quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
      return subprocess.Popen([*command, f"--workdir={root / name}"], env=environment, **quiet)

    if start("whole").wait():
      raise UserError("the undisturbed run failed; run python -m vqjax.main to see why.")
    before = time.monotonic()
    start("whole").wait()  # nothing is left to do: start-up alone, with a warm cache
    start_up = time.monotonic() - before
    newest = lambda: max(files.saved_steps(root / "killed"), default=0)
    moments, found = random.Random(args.seed), []
    while len(found) < args.kills:
      process, goal = start("killed"), newest() + every * moments.randint(1, 3)
      # One in four within its start-up, the others while it steps, saves or measures.
      if len(found) % 4:
        while newest() < goal and process.poll() is None:
          time.sleep(0.01)
      if not wait_or_kill(process, moments.uniform(0, 0.5 if len(found) % 4 else start_up)):
        break
      found.append(newest())
    print(f"{len(found)} kills; newest step saved at each: {', '.join(map(str, found))}")
    start("killed").wait()
    ends = [final_state(root / name) for name in ("whole", "killed")]
    same = all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))
    logs = [(root / name / "metrics.jsonl").read_bytes() for name in ("whole", "killed")]
    print(f"state: {'identical' if same else 'DIFFERENT'} ({len(ends[0])} arrays)")
    print(f"log: {'identical' if logs[0] == logs[1] else 'DIFFERENT'} ({len(logs[0])} bytes)")
