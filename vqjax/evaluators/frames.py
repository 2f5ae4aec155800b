"""Frames of reconstructed video: PSNR and SSIM of each, over time, and of what changes."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax.evaluators import _pixels, ssim


@dataclasses.dataclass(frozen=True)
class Measure:
  """ "psnr" in dB and "ssim", means over all frames of each frame's own; "psnr_at/t", "ssim_at/t"
  over frame t of every video, counted from 0; "psnr_of_change" of the differences between
  neighbouring frames, mean over all of these: low where motion flickers or stands still. Frames of
  less than 11 pixels have no SSIM.
  """

  needs: ClassVar[str] = "reconstruct"
  reads: ClassVar[str] = "video"
  reduction: ClassVar[str] = "sum"
  protocol: ClassVar[str] = (
    f"{_pixels.ROUNDING}; psnr and ssim are means over frames of each frame's own, psnr at most "
    "100 dB; ssim with a Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, within the frame"
  )

  def update(
    self, frozen: Any, batch: dict[str, Any], out: dict[str, Any], mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Sums over videos of each frame's figures [T]."""
    real, recon = _pixels.pair(batch, out, self.reads)
    psnr = lambda x, y: _pixels.psnr(jnp.square(x - y).mean(axis=(2, 3, 4)))
    change = psnr(jnp.diff(real, axis=1), jnp.diff(recon, axis=1))
    values = {"psnr": psnr(real, recon), "change": change}
    if min(real.shape[2:4]) >= ssim.WINDOW:
      frames = (x.reshape(-1, *x.shape[2:]) for x in (real, recon))
      values["ssim"] = ssim.ssim(*frames).reshape(real.shape[:2])
    return _pixels.masked_sums(mask, **values)

  def result(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
    """Means, see the class."""
    figures = {}
    for name in ("psnr", "ssim"):
      if name in sums:
        at = sums[name] / sums["images"]
        figures[name] = float(at.mean())
        figures |= {f"{name}_at/{t}": float(value) for t, value in enumerate(at)}
    if sums["change"].size:
      figures["psnr_of_change"] = float((sums["change"] / sums["images"]).mean())
    return figures
