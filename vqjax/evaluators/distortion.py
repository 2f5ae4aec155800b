"""Distortion: mean squared error and peak signal-to-noise ratio of reconstructions."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax.evaluators import _pixels


@dataclasses.dataclass(frozen=True)
class Measure:
  """ "mse", "psnr" (mean over images of each image's own) and "psnr_of_mse" (of the mean error), in
  dB.
  """

  needs: ClassVar[str] = "reconstruct"
  reads: ClassVar[str] = "image"
  reduction: ClassVar[str] = "sum"
  protocol: ClassVar[str] = (
    f"{_pixels.ROUNDING}; psnr is the mean of per-image PSNR, at most 100 dB"
  )

  def update(
    self, frozen: Any, batch: dict[str, Any], out: dict[str, Any], mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Sums each image's error and PSNR."""
    real, recon = _pixels.pair(batch, out)
    mse_B = jnp.square(real - recon).mean(axis=(1, 2, 3))
    return _pixels.masked_sums(mask, mse=mse_B, psnr=_pixels.psnr(mse_B))

  def result(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over images."""
    mse = float(sums["mse"] / sums["images"])
    psnr = float(sums["psnr"] / sums["images"])
    return {"mse": mse, "psnr": psnr, "psnr_of_mse": float(_pixels.psnr(mse))}
