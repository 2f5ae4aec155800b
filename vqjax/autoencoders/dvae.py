"""DALL·E's discrete VAE: groups of residual blocks between max pooling and repeated pixels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks, fields
from vqjax.autoencoders import _composite as composite
from vqjax.nn import layers, patches
from vqjax.nn.losses import map_pixels


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
      h = layers.Conv(width, size, dtype=self.dtype, name=f"conv_{i}")(nn.relu(h))
    if x.shape[-1] != self.features:
      x = layers.Conv(self.features, 1, dtype=self.dtype, name="id_path")(x)
    return x + self.gain * h


class Encoder(nn.Module):
  """[B, ..., C] -> [B, ..., out_channels], every side over f."""

  hidden: int
  groups: int
  blocks_per_group: int
  out_channels: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    gain = (self.groups * self.blocks_per_group) ** -2
    h = layers.Conv(self.hidden, 7, dtype=self.dtype, name="input")(x)
    for group in range(self.groups):
      for i in range(self.blocks_per_group):
        name = f"group_{group + 1}_block_{i + 1}"
        h = Block(self.hidden * 2**group, (3, 3, 3, 1), gain, self.dtype, name=name)(h)
      if group < self.groups - 1:
        halves = (2,) * (h.ndim - 2)
        h = nn.max_pool(h, halves, halves)
    return layers.Conv(self.out_channels, 1, dtype=self.dtype, name="output")(nn.relu(h))


class Decoder(nn.Module):
  """[B, ..., D] -> ([B, ..., out_channels], every side times f, the last convolution's input)."""

  hidden: int
  groups: int
  blocks_per_group: int
  out_channels: int
  dtype: str

  @nn.compact
  def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    gain = (self.groups * self.blocks_per_group) ** -2
    bias = self.param("input_bias", nn.initializers.zeros, (z.shape[-1],))
    h = z.astype(self.dtype) + jnp.expand_dims(bias.astype(self.dtype), range(z.ndim - 1))
    for group in range(self.groups):
      for i in range(self.blocks_per_group):
        name = f"group_{group + 1}_block_{i + 1}"
        h = Block(
          self.hidden * 2 ** (self.groups - 1 - group), (1, 3, 3, 3), gain, self.dtype, name=name
        )(h)
      if group < self.groups - 1:
        h = patches.repeat(h, (2,) * (h.ndim - 2))
    h = nn.relu(h)
    return layers.Conv(self.out_channels, 1, dtype=self.dtype, name="output")(h), h


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
    axes: of the grid that it reads: 1, 2 or 3.
    channels: of what it reads.
    out_channels: of the reconstruction; None means `channels`. The logit-Laplace likelihood needs
      twice as many.
    dtype: compute dtype.
  """

  quantizer: nn.Module = fields.member("quantizers")
  hidden: int = 256
  groups: int = 4
  blocks_per_group: int = 2
  axes: int = fields.program(2)
  channels: int = fields.program(3)
  out_channels: int | None = fields.program(None)
  dtype: str = "float32"

  last_layer = ("decoder", "output")

  def __post_init__(self):
    checks.axes(self, "dvae", 1, 2, 3)
    checks.within(self, "hidden", at_least=4)  # a block's inner convolutions have a quarter of it
    checks.positive(self, "groups", "blocks_per_group", "channels", "out_channels")
    super().__post_init__()

  @property
  def factors(self) -> tuple[int, ...]:
    return (2 ** (self.groups - 1),) * self.axes

  @property
  def halo(self) -> int | None:
    # Three convolutions of size 3 in each block, of encoder and decoder, the first one of 7, and
    # the rest of a code of which pooling has seen a part.
    return 3 + 2 * 3 * self.blocks_per_group * (2**self.groups - 1) + 2 ** (self.groups - 1)

  def setup(self):
    shared = (self.hidden, self.groups, self.blocks_per_group)
    self.encoder = Encoder(*shared, self.quantizer.input_width, self.dtype)
    self.decoder = Decoder(*shared, self.out_channels or self.channels, self.dtype)

  def encode(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, ..., C] in [-1, 1], mapped as DALL·E maps pixels -> [B, ..., quantizer.input_width]."""
    layers.check_size(x.shape[1:-1], self.factors)
    return self.encoder(map_pixels((x + 1) / 2).astype(self.dtype))

  def run_decoder(self, z: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    return self.decoder(z)

  grid = composite.grid
  decode = composite.decode
  __call__ = composite.reconstruct
  tokens = composite.tokens
  from_tokens = composite.from_tokens
  latents = composite.latents
  from_latents = composite.from_latents
  latents_width = property(composite.latents_width)
