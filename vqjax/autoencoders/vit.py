"""ViT-VQGAN: transformers over image patches as encoder and decoder."""

from __future__ import annotations

from typing import Literal

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vqjax import fields
from vqjax.errors import UserError
from vqjax.nn import layers
from vqjax.nn.attention import attend
from vqjax.quantizers import Quantized


def sincos(height: int, width: int, features: int) -> np.ndarray:
  """Fixed positions [height, width, features]: half the channels tell the row, half the column
  (arXiv 2104.02057).
  """
  frequencies = 10_000.0 ** (-np.arange(features // 4) / (features // 4))

  def axis(n: int) -> np.ndarray:
    angles = np.arange(n)[:, None] * frequencies[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)

  rows = np.broadcast_to(axis(height)[:, None], (height, width, features // 2))
  columns = np.broadcast_to(axis(width)[None], (height, width, features // 2))
  return np.concatenate([rows, columns], axis=-1).astype(np.float32)


class Block(nn.Module):
  """Pre-norm attention and MLP of one transformer layer, [B, L, width]."""

  heads: int
  mlp_width: int
  dropout: float
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    width, dtype = x.shape[-1], jnp.dtype(self.dtype)
    drop = nn.Dropout(self.dropout, deterministic=not train)
    h = nn.LayerNorm(dtype=dtype, name="norm1")(x)
    qkv = nn.Dense(3 * width, dtype=dtype, name="qkv")(h)
    q, k, v = einops.rearrange(qkv, "b l (s n h) -> s b l n h", s=3, n=self.heads)
    h = einops.rearrange(attend(q, k, v), "b l n h -> b l (n h)")
    x = x + drop(nn.Dense(width, dtype=dtype, name="proj")(h))
    h = nn.LayerNorm(dtype=dtype, name="norm2")(x)
    h = nn.gelu(nn.Dense(self.mlp_width, dtype=dtype, name="mlp_in")(h))
    return x + drop(nn.Dense(width, dtype=dtype, name="mlp_out")(h))


class Transformer(nn.Module):
  """Positions, blocks and the two-layer head with tanh: [B, h, w, D] -> ([B, h, w, out], the last
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

  def position(self, height: int, width: int) -> jax.Array:
    if self.positions == "sincos":
      return jnp.asarray(sincos(height, width, self.width))
    table = self.param(
      "positions", nn.initializers.normal(0.02), (self.native, self.native, self.width)
    )
    return (
      table
      if table.shape[:2] == (height, width)
      else jax.image.resize(table, (height, width, self.width), "bilinear")
    )

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    height, width, dtype = *x.shape[1:3], jnp.dtype(self.dtype)
    h = (
      nn.Dense(self.width, dtype=dtype, name="embed")(x)
      + self.position(height, width).astype(dtype)[None]
    )
    h = einops.rearrange(h, "b h w d -> b (h w) d")
    block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
    for i in range(self.depth):
      h = block(self.heads, self.mlp_width, self.dropout, self.dtype, name=f"block_{i}")(h, train)
    h = nn.LayerNorm(dtype=dtype, name="norm_out")(h)
    h = jnp.tanh(nn.Dense(self.mlp_width, dtype=dtype, name="head")(h))
    h = einops.rearrange(h, "b (h w) d -> b h w d", h=height)
    return nn.Dense(self.out_channels, dtype=dtype, name="out")(h), h


class Model(nn.Module):
  """ViT-VQGAN's autoencoder (arXiv 2110.04627, section 3.1). The defaults are the small model, 32 x
  32 codes at 256.

  The paper's quantizer is `vq` with 8192 codes of dim 32 and normalize="l2".

  Attributes:
    quantizer: between encoder and decoder; its widths are those of the narrow projections around
      the codes.
    patch: side of the square of pixels that becomes one code.
    width: of the encoder's blocks, a multiple of `heads` and of 4.
    depth: the encoder's number of blocks.
    heads: of its attention.
    mlp_width: inside its blocks and head.
    decoder_width, decoder_depth, decoder_heads, decoder_mlp_width: likewise; None means the
      encoder's.
    positions: "sincos" is fixed and fits any grid; "learned" is resized bilinearly where images are
      not of `resolution`.
    resolution: side of the images for which learned positions are made.
    dropout: rate after attention and MLP.
    remat: recompute the blocks' activations in the backward pass.
    channels: of the images.
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
  channels: int = fields.program(3)
  out_channels: int | None = fields.program(None)
  dtype: str = "float32"

  last_layer = ("decoder", "out")

  def __post_init__(self):
    for width, heads in ((self.width, self.heads), (self.decoder_width, self.decoder_heads)):
      width, heads = width or self.width, heads or self.heads
      if width % heads or width % 4:
        raise UserError(f"width: {width} must be a multiple of heads ({heads}) and of 4.")
    super().__post_init__()

  @property
  def factor(self) -> int:
    return self.patch

  def grid(self, height: int, width: int) -> tuple[int, int]:
    layers.check_size(height, width, self.patch)
    return height // self.patch, width // self.patch

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
      self.patch**2 * (self.out_channels or self.channels),
      **shared,
    )

  def encode(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, H, W, C] in [-1, 1] -> [B, H / patch, W / patch, quantizer.input_width]."""
    layers.check_size(*x.shape[1:3], self.patch)
    patches = einops.rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=self.patch, q=self.patch)
    return self.encoder(patches.astype(self.dtype), train)[0]

  def _decode(self, z: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    patches, last_input = self.decoder(z.astype(self.dtype), train)
    recon = einops.rearrange(
      patches, "b h w (p q c) -> b (h p) (w q) c", p=self.patch, q=self.patch
    )
    return recon.astype(jnp.float32), last_input

  def decode(self, z: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, h, w, quantizer.width] -> float32 [B, patch h, patch w, out_channels]."""
    return self._decode(z, train)[0]

  def __call__(
    self, x: jax.Array, *, train: bool, step: jax.Array | None = None
  ) -> tuple[jax.Array, Quantized]:
    quantized = self.quantizer(self.encode(x, train=train), train=train, step=step)
    recon, last_input = self._decode(quantized.z, train)
    if train:
      self.sow("intermediates", "last_input", last_input)
    return recon, quantized

  def tokens(self, x: jax.Array) -> jax.Array:
    return self.quantizer(self.encode(x), train=False).ids

  def from_tokens(self, ids: jax.Array) -> jax.Array:
    return self.decode(self.quantizer.embed(ids))
