"""VQGAN's encoder and decoder: residual blocks with group norm, and attention at chosen
resolutions.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import fields
from vqjax.nn import layers
from vqjax.quantizers import Quantized


class _Block(nn.Module):
  """What encoder and decoder share.

  Names mirror taming-transformers' state dict, with "_" for "." between levels.
  """

  ch: int
  ch_mult: tuple[int, ...]
  num_res_blocks: int
  attn_levels: tuple[int, ...]
  mid_attention: bool
  out_channels: int
  dropout: float
  remat: bool
  dtype: str

  def res(self, features: int, name: str) -> nn.Module:
    block = nn.remat(layers.ResnetBlock, static_argnums=(2,)) if self.remat else layers.ResnetBlock
    return block(features, self.dropout, self.dtype, name=name)

  def mid(self, x: jax.Array, train: bool) -> jax.Array:
    x = self.res(x.shape[-1], "mid_block_1")(x, train)
    if self.mid_attention:
      x = layers.AttentionBlock(self.dtype, name="mid_attn_1")(x)
    return self.res(x.shape[-1], "mid_block_2")(x, train)

  def level(self, x: jax.Array, name: str, level: int, blocks: int, train: bool) -> jax.Array:
    for i in range(blocks):
      x = self.res(self.ch * self.ch_mult[level], f"{name}_{level}_block_{i}")(x, train)
      if level in self.attn_levels:
        x = layers.AttentionBlock(self.dtype, name=f"{name}_{level}_attn_{i}")(x)
    return x


class Encoder(_Block):
  """[B, H, W, C] -> [B, H / f, W / f, out_channels]."""

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    h = layers.conv(self.ch, dtype=self.dtype, name="conv_in")(x)
    for level in range(len(self.ch_mult)):
      h = self.level(h, "down", level, self.num_res_blocks, train)
      if level < len(self.ch_mult) - 1:
        h = layers.Downsample(self.dtype, name=f"down_{level}_downsample")(h)
    h = self.mid(h, train)
    h = nn.swish(layers.GroupNorm(dtype=self.dtype, name="norm_out")(h))
    return layers.conv(self.out_channels, dtype=self.dtype, name="conv_out")(h)


class Decoder(_Block):
  """[B, h, w, Z] -> ([B, f h, f w, out_channels], the last convolution's input)."""

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    h = layers.conv(self.ch * self.ch_mult[-1], dtype=self.dtype, name="conv_in")(z)
    h = self.mid(h, train)
    for level in reversed(range(len(self.ch_mult))):
      h = self.level(h, "up", level, self.num_res_blocks + 1, train)
      if level > 0:
        h = layers.Upsample(self.dtype, name=f"up_{level}_upsample")(h)
    h = nn.swish(layers.GroupNorm(dtype=self.dtype, name="norm_out")(h))
    return layers.conv(self.out_channels, dtype=self.dtype, name="conv_out")(h), h


class Model(nn.Module):
  """VQGAN's autoencoder (arXiv 2012.09841, table 7). The defaults are the published ImageNet model
  at f = 16.

  Attributes:
    quantizer: between encoder and decoder; its `input_width` and `width` are the outer widths of
      the 1 x 1 convolutions `quant_conv` and `post_quant_conv`.
    ch: width of the first convolution.
    ch_mult: width of each level as a multiple of `ch`, finest first; every level but the last
      halves the grid.
    num_res_blocks: per level of the encoder; the decoder has one more.
    attn_resolutions: sides of the grids that have attention, for images of side `resolution`.
    resolution: what `attn_resolutions` refers to. Other image sizes keep attention at the same
      levels.
    mid_attention: attention on the coarsest grid, between encoder and decoder levels.
    z_channels: width between encoder and `quant_conv`; twice that for a quantizer that reads mean
      and variance.
    dropout: rate inside residual blocks.
    remat: recompute the residual blocks' activations in the backward pass: a quarter less memory,
      an eighth more work.
    channels: of the images.
    out_channels: of the reconstruction; None means `channels`.
    dtype: compute dtype.
  """

  quantizer: nn.Module = fields.member("quantizers")
  ch: int = 128
  ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
  num_res_blocks: int = 2
  attn_resolutions: tuple[int, ...] = (16,)
  resolution: int = 256
  mid_attention: bool = True
  z_channels: int = 256
  dropout: float = 0.0
  remat: bool = False
  channels: int = fields.program(3)
  out_channels: int | None = fields.program(None)
  dtype: str = "float32"

  last_layer = ("decoder", "conv_out")

  @property
  def factor(self) -> int:
    return 2 ** (len(self.ch_mult) - 1)

  def grid(self, height: int, width: int) -> tuple[int, int]:
    layers.check_size(height, width, self.factor)
    return height // self.factor, width // self.factor

  def setup(self):
    levels = range(len(self.ch_mult))
    shared: dict[str, Any] = dict(
      ch=self.ch,
      ch_mult=self.ch_mult,
      num_res_blocks=self.num_res_blocks,
      attn_levels=tuple(i for i in levels if self.resolution // 2**i in self.attn_resolutions),
      mid_attention=self.mid_attention,
      dropout=self.dropout,
      remat=self.remat,
      dtype=self.dtype,
    )
    reads, returns = self.quantizer.input_width, self.quantizer.width
    self.encoder = Encoder(
      out_channels=self.z_channels * (2 if reads == 2 * returns else 1), **shared
    )
    self.quant_conv = layers.conv(reads, 1, dtype=self.dtype)
    self.post_quant_conv = layers.conv(self.z_channels, 1, dtype=self.dtype)
    self.decoder = Decoder(out_channels=self.out_channels or self.channels, **shared)

  def encode(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, H, W, C] in [-1, 1] -> [B, H / f, W / f, quantizer.input_width]."""
    layers.check_size(*x.shape[1:3], self.factor)
    return self.quant_conv(self.encoder(x.astype(self.dtype), train))

  def _decode(self, z: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    recon, last_input = self.decoder(self.post_quant_conv(z), train)
    return recon.astype(jnp.float32), last_input

  def decode(self, z: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, h, w, quantizer.width] -> float32 [B, f h, f w, out_channels]."""
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
