"""SEANet, the autoencoder of SoundStream, EnCodec and DAC: strided convolutions over sound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks, fields
from vqjax.autoencoders import _composite as composite
from vqjax.errors import UserError
from vqjax.nn import waves


class _Parts(nn.Module):
  """What encoder and decoder share."""

  width: int
  strides: tuple[int, ...]
  dilations: tuple[int, ...]
  residual_size: int
  compress: int
  shortcut: str
  activation: str
  lstm: int
  time: waves.Time
  edges: waves.Edges
  norm: waves.Norm
  trim: str
  edge_sizes: tuple[int, int]
  out_channels: int
  dtype: str

  def conv(self, features: int, size: int, name: str, stride: int = 1, dilation: int = 1) -> Any:
    options = dict(time=self.time, edges=self.edges, norm=self.norm, dtype=self.dtype)
    return waves.Conv(features, size, stride, dilation, **options, name=name)

  def act(self, x: jax.Array, name: str) -> jax.Array:
    return waves.Snake(name=name)(x) if self.activation == "snake" else nn.elu(x)

  def memory(self, x: jax.Array) -> jax.Array:
    return waves.Lstm(self.lstm, self.dtype, name="lstm")(x) if self.lstm else x

  def residual(self, x: jax.Array, stage: int) -> jax.Array:
    """The residual blocks of a stage, which keep width and length."""
    width = x.shape[-1]
    for i, dilation in enumerate(self.dilations):
      name = f"stage_{stage}_block_{i}"
      h = self.act(x, f"{name}_act1")
      h = self.conv(width // self.compress, self.residual_size, f"{name}_conv1", dilation=dilation)(
        h
      )
      h = self.conv(width, 1, f"{name}_conv2")(self.act(h, f"{name}_act2"))
      beside = self.conv(width, 1, f"{name}_shortcut")(x) if self.shortcut == "conv" else x
      x = beside + h
    return x


class Encoder(_Parts):
  """[B, T, C] -> [B, t, out_channels]; every stage divides the length and doubles the width.

  The part "wide" ends where there is one position for each code, "narrow" begins there.
  """

  @nn.compact
  def __call__(self, x: jax.Array, part: str = "all") -> jax.Array:
    h = x if part == "narrow" else self._wide(x)
    if part == "wide":
      return h
    h = self.act(self.memory(h), "act_out")
    return self.conv(self.out_channels, self.edge_sizes[1], "conv_out")(h)

  def _wide(self, x: jax.Array) -> jax.Array:
    h = self.conv(self.width, self.edge_sizes[0], "conv_in")(x)
    for i, stride in enumerate(self.strides):
      h = self.act(self.residual(h, i), f"stage_{i}_act")
      h = self.conv(2 * h.shape[-1], 2 * stride, f"stage_{i}_down", stride)(h)
    return h


class Decoder(_Parts):
  """[B, t, D] -> [B, T, out_channels] and the last convolution's input; every stage multiplies the
  length and halves the width. The part "narrow" ends before the first of them.
  """

  @nn.compact
  def __call__(self, z: jax.Array, part: str = "all") -> Any:
    h = z
    if part != "wide":
      h = self.memory(self.conv(self.width, self.edge_sizes[0], "conv_in")(z))
    if part == "narrow":
      return h
    options = dict(time=self.time, trim=self.trim, norm=self.norm, dtype=self.dtype)
    for i, stride in enumerate(self.strides):
      up = waves.ConvTranspose(h.shape[-1] // 2, stride, **options, name=f"stage_{i}_up")
      h = self.residual(up(self.act(h, f"stage_{i}_act")), i)
    h = self.act(h, "act_out")
    return self.conv(self.out_channels, self.edge_sizes[1], "conv_out")(h), h


class Model(nn.Module):
  """The convolutional codec of SoundStream (arXiv 2107.03312), EnCodec (arXiv 2210.13438) and DAC
  (arXiv 2306.06546); the defaults are DAC's at 44.1 kHz.

  Sounds of any length are read: what is missing to whole codes is silence where edges are "zeros",
  and is reflected layer by layer where they are. `decode` makes whole codes' worth of samples;
  reconstructions have the length of what was read.

  Attributes:
    quantizer: between encoder and decoder.
    width: of the first convolution; doubles with every stride.
    strides: of the encoder's stages, the decoder's in reverse; their product is the factor.
    decoder_width: of the decoder's first convolution; halves with every stride. None mirrors the
      encoder.
    dilations: of the residual blocks of each stage.
    residual_size: of the dilated convolutions.
    compress: the width inside residual blocks is the stage's over this.
    shortcut: beside a residual block stands the "identity" or a "conv" of size 1.
    sizes: of the first and last convolutions of the encoder and of the decoder.
    activation: "snake" or "elu".
    norm: of the convolutions, see vqjax.nn.waves.
    time: "causal" never looks ahead.
    edges: what stands beyond the sound. By "reflect" the first codes of a causal model know a few
      samples that follow them, as EnCodec's do.
    trim: of transposed convolutions, see vqjax.nn.waves.ConvTranspose.
    lstm: layers of an LSTM between convolutions and latents, on both sides; 0 has none.
    output: "tanh" keeps the sound within [-1, 1].
    axes: of the grid that it reads: 1.
    channels: of what it reads.
    out_channels: of the reconstruction; None means `channels`.
    dtype: compute dtype.
  """

  quantizer: nn.Module = fields.member("quantizers")
  width: int = 64
  strides: Sequence[int] = (2, 4, 8, 8)
  decoder_width: int | None = 1536
  dilations: Sequence[int] = (1, 3, 9)
  residual_size: int = 7
  compress: int = 1
  shortcut: Literal["identity", "conv"] = "identity"
  sizes: Sequence[int] = (7, 3, 7, 7)
  activation: Literal["snake", "elu"] = "snake"
  norm: waves.Norm = "weight"
  time: waves.Time = "centred"
  edges: waves.Edges = "zeros"
  trim: Literal["exact", "even"] = "exact"
  lstm: int = 0
  output: Literal["tanh", "none"] = "tanh"
  axes: int = fields.program(1)
  channels: int = fields.program(1)
  out_channels: int | None = fields.program(None)
  dtype: str = "float32"

  last_layer = None
  in_parts = {
    "encode": (("wide_in", True), ("narrow_tokens", False)),
    "decode": (("narrow_embed", False), ("wide_out", True)),
    "reconstruct": (("wide_in", True), ("narrow_through", False), ("wide_out", True)),
  }

  def __post_init__(self):
    checks.axes(self, "seanet", 1)
    sizes = "width", "decoder_width", "residual_size", "compress", "channels", "out_channels"
    checks.positive(self, *sizes, "strides", "dilations", "sizes")
    checks.within(self, "lstm", at_least=0)
    if len(self.sizes) != 4:
      raise UserError(
        f"sizes: {self.sizes}; give four, of the encoder's and decoder's first and last layers."
      )
    inner, ends = self.decoder_width or self._widest(), 2 ** len(self.strides)
    if inner % ends or (self.width % self.compress) or (inner // ends) % self.compress:
      raise UserError(
        f"decoder_width: {inner} halves {len(self.strides)} times and width {self.width} is "
        f"divided by compress={self.compress}; give widths that can be."
      )
    super().__post_init__()

  def _widest(self) -> int:
    return self.width * 2 ** len(self.strides)

  @property
  def factors(self) -> tuple[int, ...]:
    return (math.prod(self.strides),)

  @property
  def halo(self) -> int | None:
    if self.norm == "group":
      return None
    # Samples around one of them at which the wide part of the encoder or the decoder looks.
    reach, step = max(self.sizes[0], self.sizes[3]) - 1, 1
    for stride in self.strides:
      reach += step * (sum(self.dilations) * (self.residual_size - 1) + 2 * stride)
      step *= stride
    return math.ceil(reach / (1 if self.time == "causal" else 2)) + step

  def setup(self):
    shared = dict(
      dilations=tuple(self.dilations),
      residual_size=self.residual_size,
      compress=self.compress,
      shortcut=self.shortcut,
      activation=self.activation,
      lstm=self.lstm,
      time=self.time,
      edges=self.edges,
      norm=self.norm,
      trim=self.trim,
      dtype=self.dtype,
    )
    self.encoder = Encoder(
      width=self.width,
      strides=tuple(self.strides),
      edge_sizes=tuple(self.sizes[:2]),
      out_channels=self.quantizer.input_width,
      **shared,
    )
    self.decoder = Decoder(
      width=self.decoder_width or self._widest(),
      strides=tuple(self.strides[::-1]),
      edge_sizes=tuple(self.sizes[2:]),
      out_channels=self.out_channels or self.channels,
      **shared,
    )

  def grid(self, *size: int) -> tuple[int, ...]:
    """Codes of a sound of any length from 1 up."""
    checks.rank(size, 1)
    if size[0] < 1:
      raise UserError("size 0: a sound has at least one sample.")
    return (-(-size[0] // self.factors[0]),)

  def encode(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """[B, T, C] in [-1, 1] -> [B, ceil(T / factor), quantizer.input_width]."""
    return self.encoder(self._whole(x))

  def _whole(self, x: jax.Array) -> jax.Array:
    self.grid(*x.shape[1:-1])
    if self.edges == "zeros":
      x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % self.factors[0]), (0, 0)))
    return x.astype(self.dtype)

  def run_decoder(self, z: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    y, last_input = self.decoder(z.astype(self.dtype))
    return self._shown(y), last_input

  def _shown(self, y: jax.Array) -> jax.Array:
    return jnp.tanh(y) if self.output == "tanh" else y

  def wide_in(self, x: jax.Array) -> jax.Array:
    """[B, T, C] -> features [B, t, W], one position for each code."""
    return self.encoder(self._whole(x), "wide")

  def narrow_tokens(self, h: jax.Array) -> jax.Array:
    """Those features -> ids."""
    return self.quantizer(self.encoder(h, "narrow"), train=False).ids

  def narrow_through(self, h: jax.Array) -> jax.Array:
    """Those features -> what the decoder's stages read, through the quantizer."""
    z = self.quantizer(self.encoder(h, "narrow"), train=False).z
    return self.decoder(z.astype(self.dtype), "narrow")

  def narrow_embed(self, ids: jax.Array) -> jax.Array:
    """Ids -> what the decoder's stages read."""
    return self.decoder(self.quantizer.embed(ids).astype(self.dtype), "narrow")

  def wide_out(self, h: jax.Array) -> jax.Array:
    """That -> float32 [B, t * factor, out_channels]."""
    y, _ = self.decoder(h, "wide")
    missing = h.shape[1] * self.factors[0] - y.shape[1]
    return jnp.pad(self._shown(y).astype(jnp.float32), ((0, 0), (0, missing), (0, 0)))

  def __call__(self, x: jax.Array, *, train: bool, step: jax.Array | None = None) -> Any:
    recon, quantized = composite.reconstruct(self, x, train=train, step=step)
    missing = max(0, x.shape[1] - recon.shape[1])
    return jnp.pad(recon, ((0, 0), (0, missing), (0, 0)))[:, : x.shape[1]], quantized

  decode = composite.decode
  tokens = composite.tokens
  from_tokens = composite.from_tokens
