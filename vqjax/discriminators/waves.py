"""Judges of sound, together one discriminator: by periods, and by spectra of several sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.nn import layers, spectra


class _Conv(nn.Module):
  """A two-axis convolution with normalised weights (arXiv 1602.07868), padded to the same size over
  the stride.
  """

  features: int
  size: tuple[int, int]
  stride: tuple[int, int]
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (*self.size, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    norm = jnp.sqrt(jnp.sum(jnp.square(kernel), (0, 1, 2)))
    gain = self.param("gain", lambda key: norm)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    kernel = kernel * (gain / jnp.maximum(norm, 1e-12))[None, None, None]
    padding = [(n // 2, n // 2) for n in self.size]
    y = jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      self.stride,
      padding,
      dimension_numbers=layers.layout(2),
    )
    return y + bias.astype(self.dtype)[None, None, None]


class Periods(nn.Module):
  """One period (arXiv 2010.05646, sec. 2.3): samples a period apart are a column, columns do not
  mix.
  """

  period: int
  channels: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    missing = -x.shape[1] % self.period
    x = jnp.pad(
      x, ((0, 0), (0, missing), (0, 0)), mode="reflect" if x.shape[1] > missing else "edge"
    )
    x = x.reshape(x.shape[0], -1, self.period, x.shape[-1])
    features = []
    for i, times in enumerate((1, 4, 16, 32, 32)):
      stride = (3, 1) if i < 4 else (1, 1)
      x = _Conv(self.channels * times, (5, 1), stride, self.dtype, name=f"conv_{i}")(x)
      x = nn.leaky_relu(x, 0.1)
      features.append(x)
    return _Conv(1, (3, 1), (1, 1), self.dtype, name="conv_out")(x), features


class Spectra(nn.Module):
  """One window: real and imaginary parts of every channel, each band of frequencies through
  convolutions of its own (arXiv 2306.06546, sec. 3.4).
  """

  window: int
  bands: tuple[float, ...]
  channels: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    spectrum = jnp.moveaxis(spectra.stft(x, self.window), 1, -1)  # [B, F, bins, C]
    x = jnp.concatenate([spectrum.real, spectrum.imag], -1)
    edges = [round(b * x.shape[2]) for b in (0.0, *self.bands, 1.0)]
    features, parts = [], []
    for b, (low, high) in enumerate(zip(edges, edges[1:])):
      h = x[:, :, low:high]
      for i, (size, stride) in enumerate([((3, 9), 1), *[((3, 9), 2)] * 3, ((3, 3), 1)]):
        conv = _Conv(self.channels, size, (1, stride), self.dtype, name=f"band_{b}_conv_{i}")
        h = nn.leaky_relu(conv(h), 0.1)
        features.append(h)
      parts.append(h)
    h = jnp.concatenate(parts, axis=2)
    return _Conv(1, (3, 3), (1, 1), self.dtype, name="conv_out")(h), features


class Model(nn.Module):
  """DAC's discriminator (arXiv 2306.06546, sec. 3.4): multi-period (HiFi-GAN, arXiv 2010.05646) and
  multi-scale complex STFT, in bands. Every part's logits count alike.

  Attributes:
    periods: in samples, one judge for each; () has none.
    windows: of the STFTs, in samples, one judge for each; () has none.
    bands: inner borders of the frequency bands, rising shares of half the rate.
    period_channels, channels: of the first convolution of a judge by periods, and of all
      convolutions of one by spectra.
    axes: of the grid that it reads: 1.
    dtype: compute dtype; spectra and logits are float32.
  """

  periods: Sequence[int] = (2, 3, 5, 7, 11)
  windows: Sequence[int] = (2048, 1024, 512)
  bands: Sequence[float] = (0.1, 0.25, 0.5, 0.75)
  period_channels: int = 32
  channels: int = 32
  axes: int = fields.program(1)
  dtype: str = "float32"

  def __post_init__(self):
    checks.axes(self, "waves", 1)
    checks.positive(self, "period_channels", "channels")
    for name in ("periods", "windows"):
      if any(n < 1 for n in getattr(self, name)):
        raise UserError(f"{name}: {getattr(self, name)}; give numbers of samples from 1 up.")
    if not self.periods and not self.windows:
      raise UserError("periods, windows: there is none of either; give some of one.")
    bands = (0.0, *self.bands, 1.0)
    if any(not math.isfinite(b) for b in bands) or sorted(set(bands)) != list(bands):
      raise UserError(f"bands: {self.bands} do not rise between 0 and 1.")
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool
  ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """[B, T, C] -> (logits, one [B, …, 1] for each judge; all their activations).

    Raises UserError for another number of axes.
    """
    del train
    checks.rank(x.shape[1:-1], self.axes)
    judges = [
      Periods(p, self.period_channels, self.dtype, name=f"period_{p}") for p in self.periods
    ]
    judges += [
      Spectra(w, tuple(self.bands), self.channels, self.dtype, name=f"window_{w}")
      for w in self.windows
    ]
    logits, features = zip(*(judge(x.astype(jnp.float32)) for judge in judges))
    return tuple(y.astype(jnp.float32) for y in logits), tuple(h for part in features for h in part)
