"""DALL·E's discrete VAE: groups of residual blocks between max pooling and repeated pixels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import fields
from vqjax.nn import layers
from vqjax.nn.losses import map_pixels
from vqjax.quantizers import Quantized


class Block(nn.Module):
  """skip(x) + gain * four convolutions of a quarter of the width, each after a ReLU."""

  features: int
  sizes: tuple[int, int, int, int]
  gain: float
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    widths = (self.features // 4,) * 3 + (self.features,)
    h = x
    for i, (width, size) in enumerate(zip(widths, self.sizes), start=1):
      h = layers.conv(width, size, dtype=self.dtype, name=f"conv_{i}")(nn.relu(h))
    if x.shape[-1] != self.features:
      x = layers.conv(self.features, 1, dtype=self.dtype, name="id_path")(x)
    return x + self.gain * h


class Encoder(nn.Module):
  """[B, H, W, C] -> [B, H / f, W / f, out_channels]."""

  hidden: int
  groups: int
  blocks_per_group: int
  out_channels: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    gain = (self.groups * self.blocks_per_group) ** -2
    h = layers.conv(self.hidden, 7, dtype=self.dtype, name="input")(x)
    for group in range(self.groups):
      for i in range(self.blocks_per_group):
        name = f"group_{group + 1}_block_{i + 1}"
        h = Block(self.hidden * 2**group, (3, 3, 3, 1), gain, self.dtype, name=name)(h)
      if group < self.groups - 1:
        h = nn.max_pool(h, (2, 2), (2, 2))
    return layers.conv(self.out_channels, 1, dtype=self.dtype, name="output")(nn.relu(h))


class Decoder(nn.Module):
  """[B, h, w, D] -> ([B, f h, f w, out_channels], the last convolution's input)."""

  hidden: int
  groups: int
  blocks_per_group: int
  out_channels: int
  dtype: str

  @nn.compact
  def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    gain = (self.groups * self.blocks_per_group) ** -2
    bias = self.param("input_bias", nn.initializers.zeros, (z.shape[-1],))
    h = z.astype(self.dtype) + bias.astype(self.dtype)[None, None, None]
    for group in range(self.groups):
      for i in range(self.blocks_per_group):
        name = f"group_{group + 1}_block_{i + 1}"
        h = Block(
          self.hidden * 2 ** (self.groups - 1 - group), (1, 3, 3, 3), gain, self.dtype, name=name
        )(h)
      if group < self.groups - 1:
        h = layers.double(h)
    h = nn.relu(h)
    return layers.conv(self.out_channels, 1, dtype=self.dtype, name="output")(h), h


class Model(nn.Module):
  """DALL·E's autoencoder (arXiv 2102.12092, appendix A.1). The defaults are the published model's.

  The published decoder starts with a 1 x 1 convolution of the one-hot codes. Its kernel is the
  codebook of quantizer `gumbel` (dim=128, projection="none": the encoder's outputs are the logits),
  its bias is `input_bias` here, so that published weights map one to one and any other quantizer
  fits as well.

  Attributes:
    quantizer: between encoder and decoder.
    hidden: width at the image's resolution; doubles with every group towards the codes.
    groups: of residual blocks; between two groups the grid is halved, or doubled.
    blocks_per_group: residual blocks in a group.
    channels: of the images.
    out_channels: of the reconstruction; None means `channels`. The logit-Laplace likelihood needs
      twice as many.
    dtype: compute dtype.
  """

  quantizer: nn.Module = fields.member("quantizers")
  hidden: int = 256
  groups: int = 4
  blocks_per_group: int = 2
  channels: int = fields.program(3)
  out_channels: int | None = fields.program(None)
  dtype: str = "float32"

  last_layer = ("decoder", "output")

  @property
  def factor(self) -> int:
    return 2 ** (self.groups - 1)

  def grid(self, height: int, width: int) -> tuple[int, int]:
    layers.check_size(height, width, self.factor)
    return height // self.factor, width // self.factor

  def setup(self):
    shared = (self.hidden, self.groups, self.blocks_per_group)
    self.encoder = Encoder(*shared, self.quantizer.input_width, self.dtype)
    self.decoder = Decoder(*shared, self.out_channels or self.channels, self.dtype)

  def encode(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, H, W, C] in [-1, 1], mapped as DALL·E maps pixels -> [B, H / f, W / f,
    quantizer.input_width].
    """
    layers.check_size(*x.shape[1:3], self.factor)
    return self.encoder(map_pixels((x + 1) / 2).astype(self.dtype))

  def _decode(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    recon, last_input = self.decoder(z)
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
