"""The original VQ-VAE's encoder and decoder: strided convolutions and residual blocks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import fields
from vqjax.errors import UserError
from vqjax.nn import layers
from vqjax.quantizers import Quantized


class Encoder(nn.Module):
  """[B, H, W, C] -> [B, H / f, W / f, out_channels]."""

  hidden: int
  residual_hidden: int
  residual_blocks: int
  downsamples: int
  out_channels: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for i in range(self.downsamples):
      x = nn.relu(layers.conv(self.hidden, 4, stride=2, dtype=self.dtype, name=f"down_{i}")(x))
    x = layers.conv(self.hidden, dtype=self.dtype, name="conv_mid")(x)
    x = layers.ResidualStack(
      self.residual_blocks, self.residual_hidden, self.dtype, name="residual"
    )(x)
    return layers.conv(self.out_channels, 1, dtype=self.dtype, name="conv_out")(x)


class Decoder(nn.Module):
  """[B, h, w, D] -> ([B, f h, f w, out_channels], the last convolution's input)."""

  hidden: int
  residual_hidden: int
  residual_blocks: int
  downsamples: int
  out_channels: int
  dtype: str

  @nn.compact
  def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    h = layers.conv(self.hidden, dtype=self.dtype, name="conv_in")(z)
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
    channels: of the images.
    out_channels: of the reconstruction; None means `channels`.
    dtype: compute dtype.
  """

  quantizer: nn.Module = fields.member("quantizers")
  hidden: int = 256
  residual_hidden: int = 256
  residual_blocks: int = 2
  downsamples: int = 2
  channels: int = fields.program(3)
  out_channels: int | None = fields.program(None)
  dtype: str = "float32"

  last_layer = ("decoder", "conv_out")

  def __post_init__(self):
    if self.downsamples < 1:
      raise UserError(f"downsamples: {self.downsamples} is too few; give at least 1.")
    super().__post_init__()

  @property
  def factor(self) -> int:
    return 2**self.downsamples

  def grid(self, height: int, width: int) -> tuple[int, int]:
    layers.check_size(height, width, self.factor)
    return height // self.factor, width // self.factor

  def setup(self):
    shared = (self.hidden, self.residual_hidden, self.residual_blocks, self.downsamples)
    self.encoder = Encoder(*shared, self.quantizer.input_width, self.dtype)
    self.decoder = Decoder(*shared, self.out_channels or self.channels, self.dtype)

  def encode(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, H, W, C] in [-1, 1] -> [B, H / f, W / f, quantizer.input_width]."""
    layers.check_size(*x.shape[1:3], self.factor)
    return self.encoder(x.astype(self.dtype))

  def _decode(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    recon, last_input = self.decoder(z.astype(self.dtype))
    return recon.astype(jnp.float32), last_input

  def decode(self, z: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, h, w, quantizer.width] -> float32 [B, f h, f w, out_channels]."""
    return self._decode(z)[0]

  def __call__(
    self, x: jax.Array, *, train: bool, step: jax.Array | None = None
  ) -> tuple[jax.Array, Quantized]:
    quantized = self.quantizer(self.encode(x, train=train), train=train, step=step)
    recon, last_input = self._decode(quantized.z)
    if train:
      self.sow("intermediates", "last_input", last_input)
    return recon, quantized

  def tokens(self, x: jax.Array) -> jax.Array:
    return self.quantizer(self.encode(x), train=False).ids

  def from_tokens(self, ids: jax.Array) -> jax.Array:
    return self.decode(self.quantizer.embed(ids))
