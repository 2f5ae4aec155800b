"""The original VQ-VAE's encoder and decoder: strided convolutions and residual blocks."""

from __future__ import annotations

import jax
from flax import linen as nn

from vqjax import checks, fields
from vqjax.autoencoders import _composite as composite
from vqjax.nn import layers


class Encoder(nn.Module):
  """[B, ..., C] -> [B, ..., out_channels], every side over f."""

  hidden: int
  residual_hidden: int
  residual_blocks: int
  downsamples: int
  out_channels: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for i in range(self.downsamples):
      x = nn.relu(layers.Conv(self.hidden, 4, stride=2, dtype=self.dtype, name=f"down_{i}")(x))
    x = layers.Conv(self.hidden, dtype=self.dtype, name="conv_mid")(x)
    x = layers.ResidualStack(
      self.residual_blocks, self.residual_hidden, self.dtype, name="residual"
    )(x)
    return layers.Conv(self.out_channels, 1, dtype=self.dtype, name="conv_out")(x)


class Decoder(nn.Module):
  """[B, ..., D] -> ([B, ..., out_channels], every side times f, the last convolution's input)."""

  hidden: int
  residual_hidden: int
  residual_blocks: int
  downsamples: int
  out_channels: int
  dtype: str

  @nn.compact
  def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    h = layers.Conv(self.hidden, dtype=self.dtype, name="conv_in")(z)
    h = layers.ResidualStack(
      self.residual_blocks, self.residual_hidden, self.dtype, name="residual"
    )(h)
    for i in range(self.downsamples - 1):
      h = nn.relu(layers.ConvTranspose(self.hidden, self.dtype, name=f"up_{i}")(h))
    return layers.ConvTranspose(self.out_channels, self.dtype, name="conv_out")(h), h


class Model(nn.Module):
  """VQ-VAE's autoencoder (arXiv 1711.00937, section 4.1). The defaults are the paper's for CIFAR-10
  and ImageNet.

  Attributes:
    quantizer: between encoder and decoder.
    hidden: width of all convolutions.
    residual_hidden: width inside residual blocks.
    residual_blocks: of encoder and decoder each.
    downsamples: convolutions of stride 2, at least one; the last layer is the transposed one of
      them.
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
  axes: int = fields.program(2)
  channels: int = fields.program(3)
  out_channels: int | None = fields.program(None)
  dtype: str = "float32"

  last_layer = ("decoder", "conv_out")

  def __post_init__(self):
    checks.axes(self, "vqvae", 1, 2, 3)
    checks.positive(self, "hidden", "residual_hidden", "channels", "out_channels")
    checks.within(self, "downsamples", at_least=1, at_most=30)
    checks.at_least(self, 0, "residual_blocks")
    super().__post_init__()

  @property
  def factors(self) -> tuple[int, ...]:
    return (2**self.downsamples,) * self.axes

  @property
  def halo(self) -> int | None:
    # In codes: 1 of the strided convolutions, 2 of the transposed ones, and of the convolutions of
    # size 3 one in each block and one besides, in encoder and decoder.
    return 2**self.downsamples * (2 * self.residual_blocks + 5)

  def setup(self):
    shared = (self.hidden, self.residual_hidden, self.residual_blocks, self.downsamples)
    self.encoder = Encoder(*shared, self.quantizer.input_width, self.dtype)
    self.decoder = Decoder(*shared, self.out_channels or self.channels, self.dtype)

  def encode(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, ..., C] in [-1, 1] -> [B, ..., quantizer.input_width]."""
    layers.check_size(x.shape[1:-1], self.factors)
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
