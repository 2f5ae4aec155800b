"""VQGAN's encoder and decoder: residual blocks with group norm, and attention at chosen
resolutions.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from vqjax import checks, fields
from vqjax.autoencoders import _composite as composite, _time
from vqjax.nn import causal, layers


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
  groups: int
  strides: tuple[tuple[int, ...], ...]
  time: causal.Time
  dtype: str

  def res(self, features: int, name: str) -> nn.Module:
    block = nn.remat(layers.ResnetBlock, static_argnums=(2,)) if self.remat else layers.ResnetBlock
    return block(features, self.dropout, self.dtype, self.groups, self.time, name=name)

  def attention(self, name: str) -> nn.Module:
    return layers.AttentionBlock(self.dtype, self.groups, self.time, name=name)

  def mid(self, x: jax.Array, train: bool) -> jax.Array:
    x = self.res(x.shape[-1], "mid_block_1")(x, train)
    if self.mid_attention:
      x = self.attention("mid_attn_1")(x)
    return self.res(x.shape[-1], "mid_block_2")(x, train)

  def level(self, x: jax.Array, name: str, level: int, blocks: int, train: bool) -> jax.Array:
    for i in range(blocks):
      x = self.res(self.ch * self.ch_mult[level], f"{name}_{level}_block_{i}")(x, train)
      if level in self.attn_levels:
        x = self.attention(f"{name}_{level}_attn_{i}")(x)
    return x

  def conv(self, features: int, name: str) -> nn.Module:
    return layers.Conv(features, time=self.time, dtype=self.dtype, name=name)

  def norm(self) -> nn.Module:
    return layers.GroupNorm(self.groups, dtype=self.dtype, time=self.time, name="norm_out")


class Encoder(_Block):
  """[B, ..., C] -> [B, ..., out_channels], every side over f."""

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    h = self.conv(self.ch, "conv_in")(x)
    for level in range(len(self.ch_mult)):
      h = self.level(h, "down", level, self.num_res_blocks, train)
      if level < len(self.ch_mult) - 1:
        fields = dict(stride=self.strides[level], time=self.time)
        h = layers.Downsample(self.dtype, name=f"down_{level}_downsample", **fields)(h)
    h = self.mid(h, train)
    h = nn.swish(self.norm()(h))
    return self.conv(self.out_channels, "conv_out")(h)


class Decoder(_Block):
  """[B, ..., Z] -> ([B, ..., out_channels], every side times f, the last convolution's input)."""

  @nn.compact
  def __call__(self, z: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    h = self.conv(self.ch * self.ch_mult[-1], "conv_in")(z)
    h = self.mid(h, train)
    for level in reversed(range(len(self.ch_mult))):
      h = self.level(h, "up", level, self.num_res_blocks + 1, train)
      if level > 0:
        fields = dict(stride=self.strides[level - 1], time=self.time)
        h = layers.Upsample(self.dtype, name=f"up_{level}_upsample", **fields)(h)
    h = nn.swish(self.norm()(h))
    return self.conv(self.out_channels, "conv_out")(h), h


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
    attn_resolutions: sides of the grids that have attention, where the side of what is read is
      `resolution`.
    resolution: what `attn_resolutions` refers to. Other sizes keep attention at the same levels.
    mid_attention: attention on the coarsest grid, between encoder and decoder levels.
    z_channels: width between encoder and `quant_conv`; twice that for a quantizer that reads mean
      and variance.
    norm_groups: of group norms.
    dropout: rate inside residual blocks.
    remat: recompute the residual blocks' activations in the backward pass: a quarter less memory,
      an eighth more work.
    time: "causal" lets the first axis, time, see the past alone (see vqjax/nn/causal.py); norms and
      attention are then of each frame by itself.
    time_downsamples: how many of the halvings are of time too, the coarsest ones; None is all.
    axes: of the grid that it reads: 1, 2 or 3.
    channels: of what it reads.
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
  norm_groups: int = 32
  dropout: float = 0.0
  remat: bool = False
  time: causal.Time = "same"
  time_downsamples: int | None = None
  axes: int = fields.program(2)
  channels: int = fields.program(3)
  out_channels: int | None = fields.program(None)
  dtype: str = "float32"

  halo = None
  last_layer = ("decoder", "conv_out")

  def __post_init__(self):
    checks.axes(self, "resnet", 1, 2, 3)
    checks.positive(self, "ch", "ch_mult", "resolution", "z_channels", "norm_groups")
    checks.positive(self, "channels", "out_channels")
    checks.within(self, "num_res_blocks", at_least=0)
    checks.dropout(self)
    _time.check(self, len(self.ch_mult) - 1)
    super().__post_init__()

  @property
  def factors(self) -> tuple[int, ...]:
    return _time.factors(self, len(self.ch_mult) - 1)

  first = property(_time.first)

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
      groups=self.norm_groups,
      strides=_time.strides(self, len(self.ch_mult) - 1),
      time=self.time,
      dtype=self.dtype,
    )
    reads, returns = self.quantizer.input_width, self.quantizer.width
    self.encoder = Encoder(
      out_channels=self.z_channels * (2 if reads == 2 * returns else 1), **shared
    )
    self.quant_conv = layers.Conv(reads, 1, dtype=self.dtype)
    self.post_quant_conv = layers.Conv(self.z_channels, 1, dtype=self.dtype)
    self.decoder = Decoder(out_channels=self.out_channels or self.channels, **shared)

  def encode(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, ..., C] in [-1, 1] -> [B, ..., quantizer.input_width]."""
    layers.check_size(x.shape[1:-1], self.factors, self.first)
    return self.quant_conv(self.encoder(x.astype(self.dtype), train))

  def run_decoder(self, z: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    return self.decoder(self.post_quant_conv(z), train)

  grid = composite.grid
  decode = composite.decode
  __call__ = composite.reconstruct
  tokens = composite.tokens
  from_tokens = composite.from_tokens
  latents = composite.latents
  from_latents = composite.from_latents
  latents_width = property(composite.latents_width)
