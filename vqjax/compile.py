"""Compile without the accelerator: python -m vqjax.compile --config=configs/vqgan_tpu.py
--topology=v5e:4x4

Compiles the very same step that training runs for a described TPU topology (needs `pip install
libtpu`, no TPU) and prints, for each chip: memory and whether it fits, FLOPs, bytes moved to and
from memory, collectives, the time that each of the three takes at the peak of every TPU, the
compiler's own estimate, and the fusions and arrays that take most of it, by the module they come
from. Loops count by their trips. FLOPs are those of matrix products and convolutions. Of our own
kernels the compiler estimates nothing, and the peak stands in.

A prior whose tokenizer is not trained yet compiles from the tokenizer's config: runs/NAME stands
for NAME.py beside the prior's config, and --config.tokenizer=FILE.py names another. With --cached
it reads codes (or floats) as `tokenize` writes them.
"""

from __future__ import annotations

import os
import pathlib
import re
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

from vqjax import build, cli, config as configuration, costs
from vqjax.errors import UserError, reason


def main(argv: Sequence[str]) -> None:
  argv, overrides = configuration.split_arguments(argv)
  parser = cli.parser(__doc__)
  parser.add_argument("--config", required=True, metavar="FILE[:debug]")
  parser.add_argument(
    "--topology", default="v5e:2x2", help="e.g. v4:2x2x1, v5e:4x4, v5p:2x2x1, v6e:2x4"
  )
  parser.add_argument("--slices", type=cli.count, default=1, help="of it, see config.mesh")
  parser.add_argument("--cached", action="store_true", help="the data are codes, not the signal")
  parser.add_argument("--top", type=cli.count, default=10, help="fusions, arrays listed")
  args = parser.parse_args(argv)
  devices = describe(args.topology, args.slices)
  config = configuration.load(args.config)
  configuration.override(config, overrides)
  config = configuration.complete(config)
  with tempfile.TemporaryDirectory() as folder:
    with_tokenizers(config, pathlib.Path(args.config.partition(":")[0]).parent, folder)
    step = compiled(config, batch_of(config, args.cached), devices, args.topology)
  costs.report(step, devices, args.top)


def describe(topology: str, slices: int = 1) -> Any:
  """Devices of a TPU topology, which need not be there. Raises UserError where it is unknown."""
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # What was compiled for chips that are not here cannot be read from the cache, and JAX says so.
  warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
  from jax.experimental import topologies

  # A chip of v4 is one device, as of all later ones, only where it is asked for so.
  chip = dict(chip_config_name="megacore") if topology.startswith("v4:") else {}
  try:
    return topologies.get_topology_desc(
      platform="tpu", topology_name=topology, num_slices=slices, **chip
    ).devices
  except Exception as e:
    raise UserError(
      f"--topology={topology}: cannot be described, {slices} of it ({reason(e)}); pip install "
      "libtpu, and name e.g. v5e:4x4."
    ) from None


def batch_of(config: Any, cached: bool = False) -> dict[str, Any]:
  """{field: ShapeDtypeStruct} of a batch, of latents that `tokenize` has computed where `cached`.

  Raises UserError for codes of a config that reads none.
  """
  import jax

  task = build.module("tasks", config.task)
  example = task.spec(config)
  if cached:
    if not hasattr(task, "cached_spec"):
      raise UserError(f"--cached: the task {config.task!r} reads no codes; leave it out.")
    example = task.cached_spec(config)
  return {
    name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype)
    for name, (shape, dtype) in example.items()
  }


def with_tokenizers(config: Any, beside: pathlib.Path, folder: str) -> None:
  """Points a prior's config at workdirs below `folder` that have its tokenizers' configs and
  shapes, but no weights, where it names configs or runs that are not there.

  Args:
    beside: where NAME.py, or NAME.py:debug, stands for runs/NAME and runs/NAME_debug.
  """
  conditions = (config.get("condition") or {}).values()
  places = [config, *(c for c in conditions if hasattr(c, "get"))]
  for i, place in enumerate(places):
    if not (file := place.get("tokenizer") and _config_of(place["tokenizer"], beside)):
      continue  # whoever opens it says what is missing
    tokenizer = configuration.complete(configuration.load(file))
    workdir = pathlib.Path(folder) / f"tokenizer{i}"
    workdir.mkdir()
    configuration.save(tokenizer, workdir)
    configuration.save_spec(batch_of(tokenizer), workdir)
    place["tokenizer"] = str(workdir)


def _config_of(tokenizer: str, beside: pathlib.Path) -> str | None:
  """The config FILE.py[:argument] that a tokenizer's place names or stands for; None of a run that
  is there, or where there is no such config.
  """
  if re.search(r"\.py(:|$)", tokenizer):
    return tokenizer
  run = pathlib.Path(tokenizer)
  file = beside / f"{run.name.removesuffix('_debug')}.py"
  if run.exists() or not file.exists():
    return None
  return f"{file}:debug" if run.name.endswith("_debug") else str(file)


def compiled(config: Any, spec: dict[str, Any], devices: Any, topology: str) -> Any:
  """The training step of a batch, compiled. Raises UserError where it does not fit the devices."""
  import jax

  from vqjax import sharding, train
  from vqjax.nn import target

  with target.tracing_for(devices):
    run = train.Run(config, spec, devices)
    batch = {
      k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding.batch_sharding(run.mesh))
      for k, v in spec.items()
    }
    lowered = run.step.lower(run.abstract, run.task.frozen.shapes(), batch)
    try:
      return lowered.compile()
    except jax.errors.JaxRuntimeError as e:
      used = re.search(r"Used ([\d.]+\w?) of ([\d.]+\w?) hbm", str(e))
      used = used or re.search(r"\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)", str(e))
      if not used:
        raise
      raise UserError(
        f"--topology={topology}: the step does not fit, it needs {used[1]} of {used[2]} a chip; "
        "take more chips, a smaller config.batch_size, config.mesh.fsdp to share the state, or "
        "config.model.remat where the model has it."
      ) from None


if __name__ == "__main__":
  cli.run(main)
