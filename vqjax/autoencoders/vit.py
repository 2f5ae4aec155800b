"""ViT-VQGAN: transformers over image patches as encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vqjax import checks, fields
from vqjax.autoencoders import _composite as composite
from vqjax.errors import UserError
from vqjax.nn import layers, patches
from vqjax.nn.block import Block


def sincos(grid: Sequence[int], features: int) -> np.ndarray:
  """Fixed positions [*grid, features]: sines and cosines of the coordinates (arXiv 2104.02057).

  The axes share the channels equally, in pairs of a sine and a cosine; what is left over goes to
  the earlier axes. On an image half of the channels tell the row, half the column. Of an axis' n
  channels the first half is sin(coordinate * 10000^(-2 i / n)), the second half the cosines.
  """
  parts = []
  pairs = np.array_split(np.arange(features // 2), len(grid))
  for coordinate, n in zip(np.indices(grid), map(len, pairs), strict=True):
    angles = coordinate[..., None] * 10_000.0 ** (-np.arange(n) / n)
    parts += [np.sin(angles), np.cos(angles)]
  return np.concatenate(parts, axis=-1).astype(np.float32)


class Transformer(nn.Module):
  """Positions, blocks and the two-layer head with tanh: [B, ..., D] -> ([B, ..., out], the last
  layer's input).
  """

  width: int
  depth: int
  heads: int
  mlp_width: int
  out_channels: int
  positions: str
  native: int
  dropout: float
  remat: bool
  dtype: str

  def position(self, grid: tuple[int, ...]) -> jax.Array:
    if self.positions == "sincos":
      return jnp.asarray(sincos(grid, self.width))
    native = (self.native,) * len(grid)
    table = self.param("positions", nn.initializers.normal(0.02), (*native, self.width))
    return table if grid == native else jax.image.resize(table, (*grid, self.width), "linear")

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    grid, dtype = x.shape[1:-1], jnp.dtype(self.dtype)
    embedded = nn.Dense(self.width, dtype=dtype, name="embed")(x)
    h = einops.rearrange(embedded + self.position(grid).astype(dtype)[None], "b ... d -> b (...) d")
    block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
    fields = dict(activation=nn.gelu, epsilon=1e-6, dropout=self.dropout, dtype=self.dtype)
    for i in range(self.depth):
      h = block(self.heads, self.mlp_width, **fields, name=f"block_{i}")(h, train)
    h = nn.LayerNorm(dtype=dtype, name="norm_out")(h)
    h = jnp.tanh(nn.Dense(self.mlp_width, dtype=dtype, name="head")(h))
    h = h.reshape(h.shape[0], *grid, h.shape[-1])
    return nn.Dense(self.out_channels, dtype=dtype, name="out")(h), h


class Model(nn.Module):
  """ViT-VQGAN's autoencoder (arXiv 2110.04627, section 3.1). The defaults are the small model, 32 x
  32 codes at 256.

  The paper's quantizer is `vq` with 8192 codes of dim 32 and normalize="l2".

  Attributes:
    quantizer: between encoder and decoder; its widths are those of the narrow projections around
      the codes.
    patch: side of the square (on one axis the piece, on three the cube) that becomes one code.
    width: of the encoder's blocks, even and a multiple of `heads`.
    depth: the encoder's number of blocks.
    heads: of its attention.
    mlp_width: inside its blocks and head.
    decoder_width, decoder_depth, decoder_heads, decoder_mlp_width: likewise; None means the
      encoder's.
    positions: "sincos" is fixed and fits any grid; "learned" is a table of a vector for each
      patch, resized linearly along every axis where an input is not of `resolution`.
    resolution: side, along every axis, of the input for which learned positions are made.
    dropout: rate after attention and MLP.
    remat: recompute the blocks' activations in the backward pass.
    axes: of the grid that it reads: 1, 2 or 3.
    channels: of what it reads.
    out_channels: of the reconstruction; None means `channels`.
    dtype: compute dtype.
  """

  quantizer: nn.Module = fields.member("quantizers")
  patch: int = 8
  width: int = 512
  depth: int = 8
  heads: int = 8
  mlp_width: int = 2048
  decoder_width: int | None = None
  decoder_depth: int | None = None
  decoder_heads: int | None = None
  decoder_mlp_width: int | None = None
  positions: Literal["sincos", "learned"] = "sincos"
  resolution: int = 256
  dropout: float = 0.0
  remat: bool = False
  axes: int = fields.program(2)
  channels: int = fields.program(3)
  out_channels: int | None = fields.program(None)
  dtype: str = "float32"

  halo = None
  last_layer = ("decoder", "out")

  def __post_init__(self):
    checks.axes(self, "vit", 1, 2, 3)
    sizes = ("depth", "heads", "mlp_width")
    checks.positive(self, "patch", *sizes, *(f"decoder_{s}" for s in sizes))
    checks.positive(self, "channels", "out_channels")
    checks.within(
      self, "width", "decoder_width", at_least=2 * self.axes
    )  # sincos: a pair for each axis
    if self.positions == "learned":
      checks.within(self, "resolution", at_least=self.patch)
    checks.dropout(self)
    for width, heads in ((self.width, self.heads), (self.decoder_width, self.decoder_heads)):
      width, heads = width or self.width, heads or self.heads
      if width % heads or width % 2:
        raise UserError(f"width: {width} must be a multiple of heads ({heads}) and of 2.")
    super().__post_init__()

  @property
  def factors(self) -> tuple[int, ...]:
    return (self.patch,) * self.axes

  def setup(self):
    shared = dict(
      positions=self.positions,
      native=self.resolution // self.patch,
      dropout=self.dropout,
      remat=self.remat,
      dtype=self.dtype,
    )
    self.encoder = Transformer(
      self.width, self.depth, self.heads, self.mlp_width, self.quantizer.input_width, **shared
    )
    self.decoder = Transformer(
      self.decoder_width or self.width,
      self.decoder_depth or self.depth,
      self.decoder_heads or self.heads,
      self.decoder_mlp_width or self.mlp_width,
      self.patch**self.axes * (self.out_channels or self.channels),
      **shared,
    )

  def encode(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, ..., C] in [-1, 1] -> [B, ..., quantizer.input_width]."""
    layers.check_size(x.shape[1:-1], self.factors)
    return self.encoder(patches.cut(x, self.factors).astype(self.dtype), train)[0]

  def run_decoder(self, z: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    recon, last_input = self.decoder(z.astype(self.dtype), train)
    return patches.join(recon, self.factors), last_input

  grid = composite.grid
  decode = composite.decode
  __call__ = composite.reconstruct
  tokens = composite.tokens
  from_tokens = composite.from_tokens
  latents = composite.latents
  from_latents = composite.from_latents
  latents_width = property(composite.latents_width)
