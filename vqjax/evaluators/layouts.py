"""Layouts: how much of held-out label maps survives encoding and decoding."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import fields


@dataclasses.dataclass(frozen=True)
class Measure:
  """ "pixel_accuracy", the share of pixels whose likeliest class is right, and "mean_iou", over the
  classes that occur.

  A class's intersection over union is taken over the whole split: pixels that have it in both maps,
  among those that have it in either.

  Attributes:
    signal: what the run learned; set by the program.
  """

  signal: Any = fields.program(None)

  needs: ClassVar[str] = "reconstruct"
  reads: ClassVar[str] = "layout"
  reduction: ClassVar[str] = "sum"
  protocol: ClassVar[str] = (
    "likeliest class of each pixel; pixels of all maps of the split counted together"
  )

  def update(
    self, frozen: Any, batch: dict[str, Any], out: dict[str, Any], mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Counts pixels per class, int32 [N]: of the maps, the reconstructions, and both at once."""
    kept = (mask != 0)[:, None, None, None]
    real, recon = (
      jax.nn.one_hot(maps["layout"], self.signal.classes, dtype=bool) & kept
      for maps in (batch, out)
    )
    return {
      name: jnp.sum(found, axis=(0, 1, 2), dtype=jnp.int32)
      for name, found in (("real", real), ("recon", recon), ("both", real & recon))
    }

  def result(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
    """Shares, see the class."""
    either = sums["real"] + sums["recon"] - sums["both"]
    occurs = either > 0
    return {
      "pixel_accuracy": float(sums["both"].sum() / sums["real"].sum()),
      "mean_iou": float(np.mean(sums["both"][occurs] / either[occurs])),
    }
