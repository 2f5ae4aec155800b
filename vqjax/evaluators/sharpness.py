"""Sharpness: how much of the originals' fine detail the reconstructions carry, by bands of spatial
frequency.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax.errors import UserError
from vqjax.evaluators import _pixels


@dataclasses.dataclass(frozen=True)
class Measure:
  """Spectral energy of reconstructions relative to the originals'.

  - "sharpness": energy of the reconstructions over that of the originals in the highest band. Below
    1 is blurred, 1 has the originals' amount of detail, above 1 has noise or artefacts that they
    lack;
  - "sharpness/from-to": the same for every band, in cycles per pixel;
  - "residual/from-to": energy of the difference over that of the originals. It tells detail in the
    right place (towards 0) from invented detail (up to about 2 at sharpness 1); a band left blank
    has 1.

  Attributes:
    edges: radii that separate the bands, in cycles per pixel, rising, below 0.5; the last band has
      no upper end.
  """

  edges: tuple[float, ...] = (0.0625, 0.125, 0.25)

  needs: ClassVar[str] = "reconstruct"
  reads: ClassVar[str] = "image"
  reduction: ClassVar[str] = "sum"
  protocol: ClassVar[str] = (
    f"{_pixels.ROUNDING}; Hann window after removal of the mean, power summed over radial "
    "bands, channels and images, then divided"
  )

  def __post_init__(self) -> None:
    if (
      not self.edges
      or list(self.edges) != sorted(set(self.edges))
      or not 0 < self.edges[0] <= self.edges[-1] < 0.5
    ):
      raise UserError(
        f"edges={self.edges}: give rising frequencies between 0 and 0.5 cycles per pixel."
      )

  def update(
    self, frozen: Any, batch: dict[str, Any], out: dict[str, Any], mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Sums the energy per band [bands] of originals, reconstructions and their difference."""
    real, recon = _pixels.pair(batch, out)
    images = {"real": real, "recon": recon, "residual": real - recon}
    return _pixels.masked_sums(
      mask, **{name: band_energy(x, self.edges) for name, x in images.items()}
    )

  def result(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
    """Ratios of the energies; bands in which the originals have none are left out."""
    # One pixel off by one level in a flat image has 1e-5; what lies far below is the arithmetic's
    # own noise.
    real = np.where(sums["real"] > 1e-9 * sums["images"], sums["real"], np.nan)
    ratio, residual = sums["recon"] / real, sums["residual"] / real
    result = {"sharpness": ratio[-1]}
    bounds = ("0", *(f"{edge:g}" for edge in self.edges), "max")
    for i, (low, high) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
      result |= {f"sharpness/{low}-{high}": ratio[i], f"residual/{low}-{high}": residual[i]}
    return {name: float(value) for name, value in result.items() if not np.isnan(value)}


def spectrum(x: jax.Array) -> jax.Array:
  """Power of x [B, H, W, C] by frequency [B, H, W], summed over channels."""
  height, width = x.shape[1:3]
  # Without a window the jump between opposite borders would pass for fine detail.
  window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)
  x = (x - x.mean(axis=(1, 2), keepdims=True)) * window[None, :, :, None]
  return jnp.square(jnp.abs(jnp.fft.fft2(x, axes=(1, 2), norm="ortho"))).sum(axis=-1)


def band_energy(x: jax.Array, edges: tuple[float, ...]) -> jax.Array:
  """Energy [B, len(edges) + 1] of x [B, H, W, C] in the radial frequency bands that `edges`
  separate.
  """
  height, width = x.shape[1:3]
  radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
  bands = np.digitize(radius, edges)
  members = np.stack([bands == i for i in range(len(edges) + 1)]).astype(np.float32)
  return jnp.einsum("bhw,khw->bk", spectrum(x), members, precision=jax.lax.Precision.HIGHEST)
