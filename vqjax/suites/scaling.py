"""What a step costs as it grows: python -m vqjax.bench --suite=scaling [--only tokens devices …]

Compiles a class-conditional prior (LlamaGen-B, 12 layers of 768, 16 x 16 codes of 16,384, bfloat16)
for TPUs that need not be there, with one of its sizes changed at a time, and an autoencoder at
several resolutions; needs `pip install libtpu`. A row is a size, with the figures of one chip:
memory, FLOPs and bytes, the time of collectives at the peak, the compiler's estimate of the step,
its share of the chip's peak, and by which power of the size the estimate grew since the row before.
Devices grow with the batch, 16 images a chip.
"""

from __future__ import annotations

import math
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vqjax import chips, cli, compile as compiler, config as configuration, costs, writers
from vqjax.errors import UserError

# Of every axis: what is said of the size, and the sizes.
AXES: dict[str, tuple[str, tuple[Any, ...]]] = {
  "tokens": ("positions", (64, 256, 576, 1024)),
  "codes": ("codes", (1024, 4096, 16_384, 65_536)),
  "layers": ("layers", (6, 12, 24, 48)),
  "width": ("channels", (384, 768, 1536, 3072)),
  "devices": ("chips", (4, 16, 64, 256)),
  "resolution": ("pixels", (64, 128, 256)),
}
_TOPOLOGIES = {4: "v5e:2x2", 16: "v5e:4x4", 64: "v5e:8x8", 256: "v5e:16x16"}


def plan(axis: str, size: int) -> tuple[Any, Any, str]:
  """(config, its tokenizer's config if it is a prior's, topology) of one row."""
  root = pathlib.Path(__file__).parents[2] / "configs"
  if axis == "resolution":
    config = configuration.load(str(root / "vqgan_tpu.py"))
    config.ops.size, config.batch_size = size, 32
    config.model.ch, config.disc = 64, None
    config.loss = dict(reconstruction="l1")
    return config, None, _TOPOLOGIES[4]
  config = configuration.load(str(root / "llamagen.py"))
  tokenizer = configuration.load(str(root / "llamagen_tokenizer.py"))
  chip_count = size if axis == "devices" else 16
  config.batch_size = 16 * chip_count
  if axis == "tokens":
    tokenizer.ops.size = config.ops.size = 16 * math.isqrt(size)
  elif axis == "codes":
    tokenizer.model.quantizer.codebook_size = size
  elif axis == "layers":
    config.model.layers = size
  elif axis == "width":
    config.model.width, config.model.heads = size, size // 64
  return config, tokenizer, _TOPOLOGIES[chip_count]


def completed(config: Any, tokenizer: Any, folder: pathlib.Path) -> Any:
  """The complete config; a tokenizer becomes a workdir without weights."""
  if tokenizer is not None:
    tokenizer = configuration.complete(tokenizer)
    configuration.save(tokenizer, folder)
    configuration.save_spec(compiler.batch_of(tokenizer), folder)
    config.tokenizer = str(folder)
  return configuration.complete(config)


def measure(axis: str, size: int) -> tuple[costs.Sums, chips.Chip]:
  config, tokenizer, topology = plan(axis, size)
  devices = compiler.describe(topology)
  with tempfile.TemporaryDirectory() as folder:
    config = completed(config, tokenizer, pathlib.Path(folder))
    spec = compiler.batch_of(config, cached=tokenizer is not None)
    step = compiler.compiled(config, spec, devices, topology)
  (module, work), chip = costs.read(step), chips.of(devices[0])
  return costs.sums(step, work, module.collectives(), chip), chip


def rows(measured: Mapping[int, costs.Sums], chip: chips.Chip) -> Iterator[tuple[str, ...]]:
  """A row for each size, in order."""
  before = None
  for size, found in measured.items():
    power = ""
    if before:
      growth = math.log(found.seconds / before[1]) / math.log(size / before[0])
      power = f"{growth:.2f}"
    before = size, found.seconds
    yield (
      f"{size:,}",
      f"{found.peak / 2**30:.2f} GiB",
      f"{found.flops:.2e}",
      f"{found.moved:.2e}",
      f"{1e3 * found.linked / chip.links:.1f} ms",
      f"{1e3 * found.seconds:.1f} ms",
      f"{found.flops / chip.flops / found.seconds:.0%}",
      power,
    )


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--only", nargs="*", choices=AXES, default=list(AXES))
  args = parser.parse_args(argv)
  for axis in args.only:
    name, sizes = AXES[axis]
    measured, chip = {}, None
    for size in sizes:
      try:
        measured[size], chip = measure(axis, size)
      except UserError as e:
        print(f"{name} {size:,}: {e}")
    heads = [name, "memory", "FLOPs", "bytes", "collectives", "estimate", "of the peak", "power"]
    print(writers.table(heads, list(rows(measured, chip))), flush=True)
