"""Structural similarity (Wang et al., IEEE Transactions on Image Processing 13(4), 2004) of
reconstructions.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import einops
import jax
import jax.numpy as jnp
import numpy as np

from vqjax.errors import UserError
from vqjax.evaluators import _pixels

WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


@dataclasses.dataclass(frozen=True)
class Measure:
  """ "ssim" in [-1, 1], 1 for identical images: mean over window positions, channels and images."""

  needs: ClassVar[str] = "reconstruct"
  reads: ClassVar[str] = "image"
  reduction: ClassVar[str] = "sum"
  protocol: ClassVar[str] = (
    f"{_pixels.ROUNDING}; Gaussian window 11x11 with sigma 1.5, K1 0.01, K2 0.03, "
    "windows within the image, mean over channels"
  )

  def update(
    self, frozen: Any, batch: dict[str, Any], out: dict[str, Any], mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Sums each image's similarity."""
    return _pixels.masked_sums(mask, ssim=ssim(*_pixels.pair(batch, out)))

  def result(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean over images."""
    return {"ssim": float(sums["ssim"] / sums["images"])}


def ssim(x: jax.Array, y: jax.Array) -> jax.Array:
  """Similarity [B] of images x and y [B, H, W, C] in [0, 1] (equation 13 of the paper, averaged).

  Raises:
    UserError: images smaller than the window.
  """
  batch, height, width, _ = x.shape
  if min(height, width) < WINDOW:
    raise UserError(
      f"SSIM needs images of at least {WINDOW} pixels, got {height}x{width}: "
      "leave the measure 'ssim' out."
    )
  planes = [einops.rearrange(m, "b h w c -> (b c) h w") for m in (x, y, x * x, y * y, x * y)]
  mean_x, mean_y, xx, yy, xy = (_blur(p) for p in planes)
  var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
  luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
  structure = (2 * cov + _C2) / (var_x + var_y + _C2)
  return einops.reduce(luminance * structure, "(b c) h w -> b", "mean", b=batch)


def _blur(x_BHW: jax.Array) -> jax.Array:
  """Gaussian means over the windows that lie within the image: two one-axis convolutions."""
  offsets = np.arange(WINDOW) - WINDOW // 2
  weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
  weights = jnp.asarray(weights / weights.sum(), x_BHW.dtype)
  x = x_BHW[:, None]
  for shape in ((WINDOW, 1), (1, WINDOW)):
    # The variances are small differences of these means: half precision products would drown them.
    x = jax.lax.conv(
      x, weights.reshape(1, 1, *shape), (1, 1), "VALID", precision=jax.lax.Precision.HIGHEST
    )
  return x[:, 0]
