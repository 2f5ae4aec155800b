"""Sound: how far reconstructions of sounds are from the originals, as waves and as spectra."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import fields
from vqjax.nn import spectra

_SILENT = 1e-8  # mean square below which there is no signal to compare with: -80 decibels
_WINDOW = 2048


@dataclasses.dataclass(frozen=True)
class Measure:
  """Means over sounds of

  - "si_sdr", scale-invariant signal-to-distortion ratio in dB (arXiv 1811.02508, eq. 5), each
    sound's own, between -60 and 100; silent originals, which have none, are left out;
  - "mel_distance" and "stft_distance", DAC's, see vqjax.nn.spectra;
  - "log_spectral_distance", the root over frequencies of the mean squared difference of log10 power
    spectra, mean over frames (Gray and Markel, 1976), in dB / 10.

  Attributes:
    signal: what the run learned; set by the program.
  """

  signal: Any = fields.program(None)

  needs: ClassVar[str] = "reconstruct"
  reads: ClassVar[str] = "audio"
  reduction: ClassVar[str] = "sum"
  protocol: ClassVar[str] = (
    "samples clipped to [-1, 1]; si_sdr is the mean of each sound's own, all channels together; "
    f"spectra of {_WINDOW} samples in log_spectral_distance"
  )

  def update(
    self, frozen: Any, batch: dict[str, Any], out: dict[str, Any], mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Sums each sound's figures."""
    real = jnp.asarray(batch["audio"]).astype(jnp.float32)
    recon = jnp.clip(jnp.asarray(out["audio"]).astype(jnp.float32), -1, 1)
    distances = self.signal.distances
    each = lambda fn: jax.vmap(lambda a, b: fn(a[None], b[None]))(real, recon)
    values = {
      "mel_distance": each(distances["mel"]),
      "stft_distance": each(distances["stft"]),
      "log_spectral_distance": log_spectral_distance(real, recon),
    }
    kept = mask != 0
    heard = kept & (jnp.square(real).mean((1, 2)) > _SILENT)
    sums = {"sounds": kept.sum(dtype=jnp.int32), "heard": heard.sum(dtype=jnp.int32)}
    sums["si_sdr"] = jnp.where(heard, si_sdr(real, recon), 0.0).sum()
    return sums | {name: jnp.where(kept, value, 0.0).sum() for name, value in values.items()}

  def result(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over sounds."""
    figures = {"si_sdr": float(sums["si_sdr"] / max(1.0, float(sums["heard"])))}
    for name in ("mel_distance", "stft_distance", "log_spectral_distance"):
      figures[name] = float(sums[name] / sums["sounds"])
    return figures


def si_sdr(real: jax.Array, recon: jax.Array) -> jax.Array:
  """[B] in decibels, of [B, T, C]."""
  real, recon = (x.reshape(x.shape[0], -1) for x in (real, recon))
  inner = lambda a, b: jnp.sum(a * b, -1, keepdims=True)
  target = inner(recon, real) / jnp.maximum(inner(real, real), 1e-12) * real
  wrong = recon - target
  ratio = inner(target, target)[:, 0] / jnp.maximum(inner(wrong, wrong)[:, 0], 1e-20)
  return jnp.clip(10 * jnp.log10(jnp.maximum(ratio, 1e-6)), -60.0, 100.0)


def log_spectral_distance(real: jax.Array, recon: jax.Array) -> jax.Array:
  """[B], of [B, T, C]."""
  logs = (
    2 * jnp.log10(jnp.maximum(spectra.magnitudes(x, _WINDOW), spectra.FLOOR)) for x in (real, recon)
  )
  one, other = logs
  return jnp.sqrt(jnp.square(one - other).mean(-1)).mean((1, 2))
