"""Spectra of sound: short-time Fourier transform, mel scale, and distances on them. All float32."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vqjax.nn import target

# Amplitudes below this are silence.
FLOOR = 1e-5


def frames(x: jax.Array, window: int, hop: int) -> jax.Array:
  """Windows of [B, T, C] around every `hop`-th sample, reflected at the edges (as much as the sound
  has, then silence): [B, C, F, window] with F = 1 + T // hop.
  """
  x = jnp.moveaxis(x.astype(jnp.float32), -1, 1)
  half = window // 2
  around = min(half, x.shape[-1] - 1)
  keep = ((0, 0), (0, 0))
  x = jnp.pad(x, (*keep, (around, around)), mode="reflect")
  x = jnp.pad(x, (*keep, (half - around, half - around)))
  count = 1 + (x.shape[-1] - window) // hop
  if not window % hop:  # blocks of a hop, which overlap by whole ones: no gather
    blocks = x[..., : (count + window // hop - 1) * hop].reshape(*x.shape[:2], -1, hop)
    parts = [blocks[:, :, i : i + count] for i in range(window // hop)]
    return jnp.concatenate(parts, -1)
  index = np.arange(count)[:, None] * hop + np.arange(window)[None]
  return x[..., index]


def stft(x: jax.Array, window: int, hop: int | None = None) -> jax.Array:
  """Complex spectra of [B, T, C] under a periodic Hann window: [B, C, F, window // 2 + 1].

  `hop` is a quarter of the window by default.
  """
  hop = hop or max(1, window // 4)
  hann = np.hanning(window + 1)[:-1].astype(np.float32)
  return _transformed(frames(x, window, hop) * hann[None, None, None])


def _transformed(x: jax.Array) -> jax.Array:
  """The discrete Fourier transform of real [..., N]: complex [..., N // 2 + 1].

  As a product with all waves on TPUs, which are faster at it up to windows of a thousand, and on
  CPUs that are several devices: there XLA's own can stand still for ever, its parts queued on the
  very threads that wait for them.
  """
  platform = target.platform()
  by_product = platform == "tpu" or (platform == "cpu" and target.device_count() > 1)
  return _product(x) if by_product else jnp.fft.rfft(x)


def _product(x: jax.Array) -> jax.Array:
  product = jnp.matmul(x, _waves(x.shape[-1]), precision=jax.lax.Precision.HIGHEST)
  return jax.lax.complex(*jnp.split(product, 2, axis=-1))


@functools.lru_cache(maxsize=16)
def _waves(size: int) -> np.ndarray:
  """Cosines and negative sines of the transform of `size` values, float32 [size, 2 * (size // 2 +
  1)].
  """
  turns = np.outer(np.arange(size), np.arange(size // 2 + 1)) % size / size
  waves = np.concatenate([np.cos(2 * np.pi * turns), -np.sin(2 * np.pi * turns)], 1)
  return waves.astype(np.float32)


def magnitudes(x: jax.Array, window: int, hop: int | None = None) -> jax.Array:
  """Absolute values of `stft`, with a finite gradient at silence."""
  spectrum = stft(x, window, hop)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  return jnp.sqrt(jnp.maximum(power, 1e-14))


def to_mel(hertz: np.ndarray | float) -> np.ndarray:
  """Slaney's scale: linear to 1,000 Hz, logarithmic above (27 steps for a factor of 6.4)."""
  hertz = np.asarray(hertz, np.float64)
  above = 15.0 + 27.0 * np.log(np.maximum(hertz, 1.0) / 1000.0) / np.log(6.4)
  return np.where(hertz < 1000.0, hertz * 3.0 / 200.0, above)


def from_mel(mel: np.ndarray) -> np.ndarray:
  """The inverse of `to_mel`."""
  above = 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0)
  return np.where(mel < 15.0, mel * 200.0 / 3.0, above)


@functools.lru_cache(maxsize=64)
def mel_filters(rate: int, window: int, bands: int) -> np.ndarray:
  """Triangles of equal area from 0 Hz to half the rate, float32 [window // 2 + 1, bands]."""
  edges = from_mel(np.linspace(0.0, to_mel(rate / 2), bands + 2))
  hertz = np.arange(window // 2 + 1)[:, None] * rate / window
  up = (hertz - edges[None, :-2]) / (edges[1:-1] - edges[:-2])[None]
  down = (edges[None, 2:] - hertz) / (edges[2:] - edges[1:-1])[None]
  height = 2.0 / (edges[2:] - edges[:-2])
  return (np.maximum(0.0, np.minimum(up, down)) * height[None]).astype(np.float32)


def mel(x: jax.Array, rate: int, window: int, bands: int) -> jax.Array:
  """Mel magnitudes of [B, T, C]: [B, C, F, bands]."""
  filters = jnp.asarray(mel_filters(rate, window, bands))
  return jnp.matmul(magnitudes(x, window), filters, precision=jax.lax.Precision.HIGHEST)


def _log(x: jax.Array) -> jax.Array:
  return jnp.log10(jnp.maximum(x, FLOOR))


def mel_distance(
  x: jax.Array,
  recon: jax.Array,
  rate: int,
  windows: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048),
) -> jax.Array:
  """DAC's multi-scale mel loss (arXiv 2306.06546, sec. 3.5): the sum over windows of the mean
  difference of log10 mel magnitudes, with 5 bands for 32 samples and twice as many for every
  doubling.
  """
  total = jnp.zeros((), jnp.float32)
  for window in windows:
    bands = max(1, window * 5 // 32)
    a, b = (mel(y, rate, window, bands) for y in (x, recon))
    total += jnp.abs(_log(a) - _log(b)).mean()
  return total


def stft_distance(
  x: jax.Array, recon: jax.Array, windows: Sequence[int] = (512, 2048)
) -> jax.Array:
  """The sum over windows of the mean differences of magnitudes and of their log10 squares, DAC's
  multi-scale STFT loss.
  """
  total = jnp.zeros((), jnp.float32)
  for window in windows:
    a, b = (magnitudes(y, window) for y in (x, recon))
    total += jnp.abs(a - b).mean() + 2 * jnp.abs(_log(a) - _log(b)).mean()
  return total
