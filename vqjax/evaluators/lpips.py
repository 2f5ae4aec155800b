"""LPIPS (arXiv 1801.03924): perceptual distance of reconstructions, with given weights."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

from vqjax import fields
from vqjax.evaluators import _pixels
from vqjax.nn import perceptual


@dataclasses.dataclass(frozen=True)
class Measure:
  """ "lpips", mean over images; 0 for identical ones.

  Attributes:
    weights: path of an .npz that `python -m vqjax.convert --source=lpips` wrote.
  """

  weights: str = fields.place()

  needs: ClassVar[str] = "reconstruct"
  reads: ClassVar[str] = "image"
  reduction: ClassVar[str] = "sum"
  protocol: ClassVar[str] = (
    f"{_pixels.ROUNDING}, then in [-1, 1]; VGG16 with the given linear weights, float32"
  )

  def frozen(self) -> perceptual.Weights:
    """Loads the weights; raises UserError where the file does not serve."""
    return perceptual.load(self.weights)

  def update(
    self, frozen: Any, batch: dict[str, Any], out: dict[str, Any], mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Sums each image's distance."""
    real, recon = _pixels.pair(batch, out)
    with jax.default_matmul_precision("highest"):
      distances = perceptual.lpips(frozen, 2 * real - 1, 2 * recon - 1)
    return _pixels.masked_sums(mask, lpips=distances)

  def result(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean over images."""
    return {"lpips": float(sums["lpips"] / sums["images"])}
