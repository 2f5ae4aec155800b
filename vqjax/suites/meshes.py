"""Eight devices in every arrangement: python -m vqjax.bench --suite=meshes

On eight devices that one CPU pretends to be, a tiny GAN and a transformer over its codes take some
steps on meshes that split the batch (data, replica), the state (fsdp) and heads, MLP, vocabulary
and codebook (tensor). Prints by how much losses and parameters differ from those of one device,
relative to their norm. Then each run is trained half way on one mesh and to its end on another,
from its checkpoint, and compared with one that stayed.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vqjax import cli, config as configuration
from vqjax.suites import kills

DEVICES, STEPS = 8, 4
MESHES = {
  "data=8": {},
  "fsdp=8": dict(data=1, fsdp=8),
  "data=4 tensor=2": dict(tensor=2),
  "replica=2 fsdp=2 tensor=2": dict(replica=2, data=1, fsdp=2, tensor=2),
}
TENSOR = (
  ("codebook|(query|key|value|up|head)/kernel", (None, "tensor")),
  ("(proj|down)/kernel|embed/table", ("tensor", None)),
  (".*", "fsdp"),
)
PRIOR = dict(
  task="prior",
  model=dict(name="transformer", layers=2, width=32, heads=2),
  scheme=dict(name="autoregressive"),
  condition=dict(label=dict(classes=8)),
  ema_decay=0.9,
)


def configs(root: pathlib.Path) -> dict[str, Any]:
  """{name: config} of the two runs; the tokenizer's is also the prior's, in root/tokenizer."""
  made: dict[str, Any] = {}
  exec(kills.CONFIG, made)
  # A schedule would depend on the length of the run.
  shared = dict(
    total_steps=2 * STEPS,
    save_every=STEPS,
    log_every=1,
    sharding=TENSOR,
    optim=dict(schedule="constant"),
  )
  tokenizer = made["get_config"]() | shared | dict(preview=0)
  tokenizer["loss"] |= dict(adversarial_start=0)
  data = {k: tokenizer[k] for k in ("data", "ops", "batch_size", "eval_examples", "preview")}
  return {
    "tokenizer": tokenizer,
    "prior": PRIOR | data | shared | dict(tokenizer=str(root / "tokenizer")),
  }


def steps(config: Mapping[str, Any], mesh: Mapping[str, int], devices: int) -> tuple[Any, Any]:
  """(metrics of each step, the parameters after them) on the first devices, on the host."""
  from vqjax import data, sharding, train

  config = configuration.complete(dict(config) | dict(mesh=mesh))
  batch = data.Dataset(config.data, config.ops).sample(config.batch_size, "train")
  run = train.Run(config, configuration.spec_of(batch), jax.devices()[:devices])
  state, frozen = run.init(jax.random.key(0)), run.load_frozen()
  placed = sharding.to_global(run.task.prepare(batch), run.mesh)
  found = []
  for step in range(1, STEPS + 1):
    state, metrics = run.program(step)(state, frozen, placed)
    found.append(jax.device_get({k: v for k, v in metrics.items() if k.startswith("loss/")}))
  return found, jax.device_get(state.params)


def distance(a: Any, b: Any) -> float:
  """The norm of the difference of two trees over the norm of the first.

  Not leaf by leaf: Adam makes whole steps of gradients that are nothing but rounding, as those of
  the keys' biases are.
  """
  vectors = [
    np.concatenate([np.ravel(x).astype(float) for x in jax.tree.leaves(tree)]) for tree in (a, b)
  ]
  return float(np.linalg.norm(np.subtract(*vectors)) / np.linalg.norm(vectors[0]))


def moved(config: Mapping[str, Any], root: pathlib.Path, name: str) -> list[list[str]]:
  """Rows (run, from the mesh to the mesh, difference of the state, of the last losses)."""
  from vqjax import train

  def trained(workdir: pathlib.Path, *parts: tuple[str, int]) -> tuple[Any, Any]:
    for mesh, end in parts:
      train.train(dict(config) | dict(mesh=MESHES[mesh], total_steps=end), workdir)
    log = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {k: np.float64(v) for k, v in log[-2].items() if k.startswith("loss/")}
    return kills.final_state(workdir), losses

  one, *_, last = MESHES
  whole, losses = trained(root / f"{name}_whole", (one, 2 * STEPS))
  rows = []
  for first, second in ((one, last), (last, one)):
    workdir = root / f"{name}_from_{len(rows)}"
    state, end = trained(workdir, (first, STEPS), (second, 2 * STEPS))
    by = (f"{distance(a, b):.1e}" for a, b in ((losses, end), (whole, state)))
    rows.append([name, f"{first}, then {second}", *by])
  return rows


def main(argv: Sequence[str]) -> None:
  cli.parser(__doc__).parse_args(argv)
  from vqjax import train, writers

  os.environ.setdefault("NPROC", cli.PRETENDED_THREADS)
  jax.config.update("jax_num_cpu_devices", DEVICES)
  logging.getLogger("vqjax").setLevel(logging.WARNING)
  with tempfile.TemporaryDirectory() as folder:
    root, rows = pathlib.Path(folder), []
    for name, config in configs(root).items():
      if name == "tokenizer":
        train.train(config, root / "tokenizer")
      losses, params = steps(config, {}, 1)
      for mesh, sizes in MESHES.items():
        found = steps(config, sizes, DEVICES)
        by = (f"{distance(a, b):.1e}" for a, b in ((losses, found[0]), (params, found[1])))
        rows.append([name, mesh, *by])
      rows += moved(config, root, name)
    print(writers.table(["run", "mesh", "losses differ by", "parameters by"], rows))
