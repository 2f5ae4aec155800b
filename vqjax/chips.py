"""What accelerators can do, from their vendors' data sheets: limits that no program beats."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Chip(NamedTuple):
  """One chip.

  Attributes:
    kind: how its `device_kind` begins.
    flops: dense bfloat16 FLOP/s.
    bandwidth: of its memory, bytes/s.
    memory: GiB.
    links: bytes/s in and out over its links to other chips, all of them together.
    clock: Hz, by which a compiler's cycles are seconds; 0 where that is not known.
  """

  kind: str
  flops: float
  bandwidth: float
  memory: float
  links: float
  clock: float = 0.0


# The clock follows from the peak: FLOP/s over two for each multiplier.
CHIPS = {
  "v4": Chip("TPU v4", 275e12, 1.228e12, 32, 300e9, 275e12 / (2 * 8 * 128**2)),
  "v5e": Chip("TPU v5 lite", 197e12, 0.819e12, 16, 200e9, 197e12 / (2 * 4 * 128**2)),
  "v5p": Chip("TPU v5", 459e12, 2.765e12, 95, 600e9, 459e12 / (2 * 8 * 128**2)),
  "v6e": Chip("TPU v6 lite", 918e12, 1.640e12, 32, 448e9, 918e12 / (2 * 4 * 256**2)),
  "A100": Chip("NVIDIA A100", 312e12, 2.039e12, 80, 600e9),
  "H100": Chip("NVIDIA H100", 989e12, 3.35e12, 80, 900e9),
  "H200": Chip("NVIDIA H200", 989e12, 4.8e12, 141, 900e9),
}
TPUS = ("v4", "v5e", "v5p", "v6e")


def of(device: jax.Device) -> Chip | None:
  """The chip of a device, or None where it is not known (CPUs)."""
  kind = device.device_kind.replace("v5e", "v5 lite").replace("v6e", "v6 lite")
  fitting = [chip for chip in CHIPS.values() if kind.startswith(chip.kind)]
  return max(fitting, key=lambda chip: len(chip.kind), default=None)
