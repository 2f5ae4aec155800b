"""What the image measures share: originals and 8-bit reconstructions in [0, 1], and sums that skip
padding.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

ROUNDING = "pixels in [0, 1], reconstruction clipped and rounded to 8 bits"

# A perfect reconstruction has no finite PSNR; half an 8-bit level in one of 10^7 values is far
# above this.
_MSE_FLOOR = 1e-10


def pair(
  batch: dict[str, Any], out: dict[str, Any], field: str = "image"
) -> tuple[jax.Array, jax.Array]:
  """Returns the originals and the reconstructions, float32 [B, ..., H, W, C] in [0, 1], both
  multiples of 1/255.
  """
  real = jnp.asarray(batch[field]).astype(jnp.float32) / 255
  recon = (
    jnp.clip(jnp.round((jnp.asarray(out[field]).astype(jnp.float32) + 1) * 127.5), 0, 255) / 255
  )
  return real, recon


def psnr(mse: jax.Array) -> jax.Array:
  """Peak signal-to-noise ratio in dB, at most 100, of mean squared errors of values in [0, 1]."""
  return -10 * jnp.log10(jnp.maximum(mse, _MSE_FLOOR))


def masked_sums(mask: jax.Array, **values: jax.Array) -> dict[str, jax.Array]:
  """Sums values [B, ...] over the images whose mask [B] is not 0, and counts those images as
  "images".
  """
  sums = {"images": (mask != 0).sum(dtype=jnp.int32)}
  for name, value in values.items():
    kept = jnp.reshape(mask != 0, mask.shape + (1,) * (value.ndim - 1))
    sums[name] = jnp.where(kept, value, 0).sum(axis=0)
  return sums
