"""VQ-VAE-2: a hierarchy of two or three grids of codes, the finer encoded given the coarser."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks, fields
from vqjax.autoencoders import _composite as composite
from vqjax.errors import UserError
from vqjax.nn import layers
from vqjax.quantizers import Quantized

# Coarse first.
_LEVELS = {2: ("top", "bottom"), 3: ("top", "middle", "bottom")}


class Encoder(nn.Module):
  """Halves the grid `downsamples` times: [B, ..., C] -> [B, ..., hidden]."""

  hidden: int
  residual_hidden: int
  residual_blocks: int
  downsamples: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for i in range(self.downsamples):
      # As in the authors' code, the first of several convolutions has half the width.
      width = self.hidden // 2 if i < self.downsamples - 1 else self.hidden
      x = nn.relu(layers.Conv(width, 4, stride=2, dtype=self.dtype, name=f"down_{i}")(x))
    x = layers.Conv(self.hidden, dtype=self.dtype, name="conv_out")(x)
    return layers.ResidualStack(
      self.residual_blocks, self.residual_hidden, self.dtype, name="residual"
    )(x)


class Decoder(nn.Module):
  """Doubles the grid `upsamples` times: [B, ..., D] -> ([B, ..., out_channels], the last
  convolution's input).
  """

  hidden: int
  residual_hidden: int
  residual_blocks: int
  upsamples: int
  out_channels: int
  dtype: str

  @nn.compact
  def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    h = layers.Conv(self.hidden, dtype=self.dtype, name="conv_in")(z)
    h = layers.ResidualStack(
      self.residual_blocks, self.residual_hidden, self.dtype, name="residual"
    )(h)
    for i in range(self.upsamples - 1):
      h = nn.relu(layers.ConvTranspose(self.hidden // 2, self.dtype, name=f"up_{i}")(h))
    return layers.ConvTranspose(self.out_channels, self.dtype, name="conv_out")(h), h


class Model(nn.Module):
  """VQ-VAE-2's hierarchy (arXiv 1906.00446, section 3.1). The defaults are the paper's for ImageNet
  at 256 pixels.

  Tuples of ids, latents and grids are coarse first: "top", ("middle",) "bottom". Every level has
  the same kind of quantizer with a codebook of its own, `quantizer_<level>`; metrics are named
  `<level>/<metric>`. Latents of a finer level are made from the image and the quantized coarser
  ones, so `encode` quantizes these on its way.

  Attributes:
    quantizer: copied for each level.
    levels: 2, or 3 as for faces at 1024 pixels; each halves the grid once more.
    downsamples: halvings from image to finest grid, at least one.
    hidden: width of convolutions.
    residual_hidden: width inside residual blocks.
    residual_blocks: of every encoder and decoder.
    axes: of the grid that it reads: 1, 2 or 3.
    channels: of what it reads.
    out_channels: of the reconstruction; None means `channels`.
    dtype: compute dtype.
  """

  quantizer: nn.Module = fields.member("quantizers")
  levels: int = 2
  downsamples: int = 2
  hidden: int = 128
  residual_hidden: int = 64
  residual_blocks: int = 2
  axes: int = fields.program(2)
  channels: int = fields.program(3)
  out_channels: int | None = fields.program(None)
  dtype: str = "float32"

  last_layer = ("decoder", "conv_out")

  def __post_init__(self):
    if self.levels not in _LEVELS:
      raise UserError(f"levels: {self.levels} is not possible; give 2 or 3.")
    checks.axes(self, "vqvae2", 1, 2, 3)
    checks.within(self, "hidden", at_least=2)  # the first convolutions have half of it
    checks.positive(self, "residual_hidden", "channels", "out_channels")
    checks.within(self, "downsamples", at_least=1, at_most=30)
    checks.within(self, "residual_blocks", at_least=0)
    super().__post_init__()

  @property
  def factors(self) -> tuple[int, ...]:
    return (2 ** (self.downsamples + self.levels - 1),) * self.axes

  def grid(self, *size: int) -> tuple[tuple[int, ...], ...]:
    coarsest = composite.grid(self, *size)
    return tuple(tuple(n * 2**level for n in coarsest) for level in range(self.levels))

  @property
  def halo(self) -> int | None:
    # Up the encoders of all levels, down the contexts of all but the finest, and the decoder: per
    # stage a convolution of size 3 and one in each block, 1 of the resampling, 2 of the decoder's.
    stages, blocks = 2 ** (self.levels + 1) - 3, self.residual_blocks
    return 2**self.downsamples * (stages * (blocks + 2) + blocks + 3)

  def setup(self):
    names = _LEVELS[self.levels]
    finer = names[1:]
    blocks = (self.hidden, self.residual_hidden, self.residual_blocks)
    self.encoders = {
      n: Encoder(*blocks, self.downsamples if n == "bottom" else 1, self.dtype, name=f"encoder_{n}")
      for n in names
    }
    self.to_codes = {
      n: layers.Conv(self.quantizer.input_width, 1, dtype=self.dtype, name=f"to_codes_{n}")
      for n in names
    }
    self.quantizers = {n: self.quantizer.copy(name=f"quantizer_{n}") for n in names}
    self.contexts = {
      n: Decoder(*blocks, 1, self.hidden, self.dtype, name=f"context_{n}") for n in finer
    }
    self.ups = {
      n: layers.ConvTranspose(self.quantizer.width, self.dtype, name=f"up_to_{n}") for n in finer
    }
    self.decoder = Decoder(
      *blocks, self.downsamples, self.out_channels or self.channels, self.dtype
    )

  def _join(self, coarser: jax.Array | None, z: jax.Array, level: str) -> jax.Array:
    """All codes up to this level on its grid: [B, ..., D times the number of levels so far]."""
    z = z.astype(self.dtype)
    return z if coarser is None else jnp.concatenate([z, self.ups[level](coarser)], axis=-1)

  def _analyse(
    self, x: jax.Array, train: bool, step: Any
  ) -> tuple[tuple[jax.Array, ...], dict[str, Quantized]]:
    """Latents of every level, coarse first, and what its quantizer makes of them."""
    layers.check_size(x.shape[1:-1], self.factors)
    h, features = x.astype(self.dtype), {}
    for level in reversed(_LEVELS[self.levels]):
      features[level] = h = self.encoders[level](h)
    latents, quantized, joined = [], {}, None
    for level in _LEVELS[self.levels]:
      h = features[level]
      if joined is not None:
        h = jnp.concatenate([h, self.contexts[level](joined)[0]], axis=-1)
      latents.append(self.to_codes[level](h))
      quantized[level] = self.quantizers[level](latents[-1], train=train, step=step)
      joined = self._join(joined, quantized[level].z, level)
    return tuple(latents), quantized

  def run_decoder(self, latents: tuple[jax.Array, ...], train: bool) -> tuple[jax.Array, jax.Array]:
    joined = None
    for level, z in zip(_LEVELS[self.levels], latents, strict=True):
      joined = self._join(joined, z, level)
    return self.decoder(joined)

  decode = composite.decode

  def encode(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
    """[B, ..., C] in [-1, 1] -> latents per level, [B, ..., quantizer.input_width]."""
    return self._analyse(x, False, None)[0]

  def __call__(
    self, x: jax.Array, *, train: bool, step: jax.Array | None = None
  ) -> tuple[jax.Array, Quantized]:
    _, quantized = self._analyse(x, train, step)
    z = tuple(q.z for q in quantized.values())
    metrics = {
      f"{level}/{name}": v for level, q in quantized.items() for name, v in q.metrics.items()
    }
    loss = sum(q.loss for q in quantized.values())
    ids = tuple(q.ids for q in quantized.values())
    return self.decode(z, train=train), Quantized(z, ids, loss, metrics)

  def tokens(self, x: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(q.ids for q in self._analyse(x, False, None)[1].values())

  def from_tokens(self, ids: tuple[jax.Array, ...]) -> jax.Array:
    return self.decode(
      tuple(self.quantizers[n].embed(i) for n, i in zip(_LEVELS[self.levels], ids, strict=True))
    )
