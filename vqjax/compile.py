"""Compile without the accelerator: python -m vqjax.compile --config=configs/vqgan_tpu.py
--topology=v5e:4x4

Compiles the very same step that training runs for a described TPU topology (needs `pip install
libtpu`, no TPU) and prints memory per chip, FLOPs and the collectives that XLA inserted. XLA counts
the body of a loop once: of layers that are scanned and of codes that are searched in tiles, the
FLOPs (and with them the time at the chip's peak) show one round alone.
"""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Sequence

from vqjax import build, cli, config as configuration
from vqjax.errors import UserError

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def collectives(text: str) -> dict[str, int]:
  """How often each collective stands in a compiled module (asynchronous pairs count once)."""
  found = collections.Counter(re.findall(rf"\b({'|'.join(COLLECTIVES)})(?:-start)?\(", text))
  return {name: found[name] for name in COLLECTIVES if found[name]}


def main(argv: Sequence[str]) -> None:
  argv, overrides = configuration.split_arguments(argv)
  parser = cli.parser(__doc__)
  parser.add_argument("--config", required=True, metavar="FILE[:debug]")
  parser.add_argument(
    "--topology", default="v5e:2x2", help="e.g. v4:2x2x1, v5e:4x4, v5p:2x2x1, v6e:2x4"
  )
  args = parser.parse_args(argv)
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  import jax
  from jax.experimental import topologies

  from vqjax import bench, sharding, train, writers
  from vqjax.nn import target

  try:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=args.topology).devices
  except Exception as e:
    reason = (str(e).splitlines() or [type(e).__name__])[0][:200]
    raise UserError(
      f"--topology={args.topology}: cannot be described ({reason}); pip install libtpu, and name "
      "e.g. v5e:4x4."
    ) from None
  config = configuration.load(args.config)
  configuration.override(config, overrides)
  config = configuration.complete(config)
  example = build.module("tasks", config.task).spec(config)
  spec = {
    name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype)
    for name, (shape, dtype) in example.items()
  }
  with target.tracing_for(devices):
    run = train.Run(config, spec, devices)
    batch = {
      k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding.batch_sharding(run.mesh))
      for k, v in spec.items()
    }
    step = run.step.lower(run.abstract, run.task.frozen.shapes(), batch).compile()
  memory = step.memory_analysis()
  gib = lambda n: f"{n / 2**30:.2f} GiB"
  rows = [
    ("chips", f"{len(devices)} {devices[0].device_kind}"),
    ("state and batch per chip", gib(memory.argument_size_in_bytes)),
    ("temporaries per chip", gib(memory.temp_size_in_bytes)),
    ("FLOPs per chip and step", f"{bench.flops(step):.3e}"),
    *((name, str(count)) for name, count in collectives(step.as_text()).items()),
  ]
  if peak := bench.peak_flops(devices[0]):
    rows.append(("step time at the chip's peak", f"{1e3 * bench.flops(step) / peak:.1f} ms"))
  print(writers.table(["what", "figure"], rows))


if __name__ == "__main__":
  cli.run(main)
