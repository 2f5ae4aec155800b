"""The original VQ-VAE's encoder and decoder: strided convolutions and residual blocks."""

from __future__ import annotations

import functools
from typing import Literal

import jax
from flax import linen as nn

from vqjax import checks, fields
from vqjax.autoencoders import _composite as composite, _time
from vqjax.nn import causal, layers


class Encoder(nn.Module):
  """[B, ..., C] -> [B, ..., out_channels], every side over f."""

  hidden: int
  residual_hidden: int
  residual_blocks: int
  strides: tuple[tuple[int, ...], ...]
  time: causal.Time
  out_channels: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv = functools.partial(layers.Conv, time=self.time, dtype=self.dtype)
    for i, stride in enumerate(self.strides):
      size = tuple(s + 2 for s in stride)
      x = nn.relu(conv(self.hidden, size, stride, name=f"down_{i}")(x))
    x = conv(self.hidden, name="conv_mid")(x)
    x = layers.ResidualStack(
      self.residual_blocks, self.residual_hidden, self.dtype, self.time, name="residual"
    )(x)
    return conv(self.out_channels, 1, name="conv_out")(x)


class Decoder(nn.Module):
  """[B, ..., D] -> ([B, ..., out_channels], every side times f, the last convolution's input)."""

  hidden: int
  residual_hidden: int
  residual_blocks: int
  strides: tuple[tuple[int, ...], ...]
  time: causal.Time
  out_channels: int
  dtype: str
  upsample: str

  @nn.compact
  def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    h = layers.Conv(self.hidden, time=self.time, dtype=self.dtype, name="conv_in")(z)
    h = layers.ResidualStack(
      self.residual_blocks, self.residual_hidden, self.dtype, self.time, name="residual"
    )(h)
    kind = layers.Upsample if self.upsample == "repeat" else layers.ConvTranspose
    up = functools.partial(kind, dtype=self.dtype, time=self.time)
    *strides, last = reversed(self.strides)
    for i, stride in enumerate(strides):
      h = nn.relu(up(features=self.hidden, stride=stride, name=f"up_{i}")(h))
    x = up(features=self.out_channels, stride=last, name="conv_out")(h)
    return x, layers.repeat(h, last, self.time) if self.upsample == "repeat" else h


class Model(nn.Module):
  """VQ-VAE's autoencoder (arXiv 1711.00937, section 4.1). The defaults are the paper's for CIFAR-10
  and ImageNet.

  Attributes:
    quantizer: between encoder and decoder.
    hidden: width of all convolutions.
    residual_hidden: width inside residual blocks.
    residual_blocks: of encoder and decoder each.
    downsamples: convolutions of stride 2, at least one.
    upsample: "transpose" undoes them by transposed convolutions; "repeat" repeats pixels and has a
      convolution of size 3 after that, so that no pixel has weights of its own, and no grid
      is left (distill.pub/2016/deconv-checkerboard).
    time: "causal" lets the first axis, time, see the past alone, see vqjax/nn/causal.py.
    time_downsamples: how many of them halve time too, the coarsest ones; None is all.
    axes: of the grid that it reads: 1, 2 or 3.
    channels: of what it reads.
    out_channels: of the reconstruction; None means `channels`.
    dtype: compute dtype.
  """

  quantizer: nn.Module = fields.member("quantizers")
  hidden: int = 256
  residual_hidden: int = 256
  residual_blocks: int = 2
  downsamples: int = 2
  upsample: Literal["transpose", "repeat"] = "transpose"
  time: causal.Time = "same"
  time_downsamples: int | None = None
  axes: int = fields.program(2)
  channels: int = fields.program(3)
  out_channels: int | None = fields.program(None)
  dtype: str = "float32"

  def __post_init__(self):
    checks.axes(self, "vqvae", 1, 2, 3)
    checks.positive(self, "hidden", "residual_hidden", "channels", "out_channels")
    checks.within(self, "downsamples", at_least=1, at_most=30)
    checks.within(self, "residual_blocks", at_least=0)
    _time.check(self, self.downsamples)
    super().__post_init__()

  @property
  def last_layer(self) -> tuple[str, ...]:
    return ("decoder", "conv_out", *(("conv",) if self.upsample == "repeat" else ()))

  @property
  def factors(self) -> tuple[int, ...]:
    return _time.factors(self, self.downsamples)

  first = property(_time.first)

  @property
  def halo(self) -> int | None:
    # In codes: 1 of the strided convolutions, 2 of the transposed ones, and of the convolutions of
    # size 3 one in each block and one besides, in encoder and decoder.
    return 2**self.downsamples * (2 * self.residual_blocks + 5)

  def setup(self):
    strides = _time.strides(self, self.downsamples)
    shared = (self.hidden, self.residual_hidden, self.residual_blocks, strides, self.time)
    self.encoder = Encoder(*shared, self.quantizer.input_width, self.dtype)
    self.decoder = Decoder(*shared, self.out_channels or self.channels, self.dtype, self.upsample)

  def encode(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, ..., C] in [-1, 1] -> [B, ..., quantizer.input_width]."""
    layers.check_size(x.shape[1:-1], self.factors, self.first)
    return self.encoder(x.astype(self.dtype))

  def run_decoder(self, z: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    return self.decoder(z.astype(self.dtype))

  grid = composite.grid
  decode = composite.decode
  __call__ = composite.reconstruct
  tokens = composite.tokens
  from_tokens = composite.from_tokens
  latents = composite.latents
  from_latents = composite.from_latents
  latents_width = property(composite.latents_width)
