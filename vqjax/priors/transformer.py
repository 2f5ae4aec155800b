"""Transformer over codes, causal or bidirectional; minGPT's or LlamaGen's block by name."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vqjax import fields
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.nn import attention, target, tokens


def _norm(kind: str, bias: bool, dtype: jnp.dtype, name: str | None = None) -> nn.Module:
  if kind == "rmsnorm":
    return nn.RMSNorm(epsilon=1e-5, dtype=dtype, name=name)
  return nn.LayerNorm(epsilon=1e-5, use_bias=bias, dtype=dtype, name=name)


def _modulate(x_TC: jax.Array, shift_TC: jax.Array, scale_TC: jax.Array) -> jax.Array:
  return x_TC * (1 + scale_TC) + shift_TC


class Block(nn.Module):
  """Attention and MLP with residuals, normalised before each.

  `scale`: initial deviation of the outputs' kernels.
  """

  heads: int
  hidden: int
  causal: bool
  norm: str
  mlp: str
  qk_norm: str
  modulation: str
  bias: bool
  dropout: float
  scale: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self,
    x_BLC: jax.Array,
    cond_BC: jax.Array | None,
    angles_LF: jax.Array | None,
    train: bool,
    cache: attention.Cache | None = None,
    index: jax.Array | None = None,
  ) -> tuple[jax.Array, attention.Cache | None]:
    """Returns the next activations and the cache.

    Without `index` the sequence starts at 0, and a cache is filled from there; with it, x is the
    one position `index`, which attends to what the cache holds.
    """
    b, length, width = x_BLC.shape
    # Two axes: XLA's CPU matmul is a third slower on three.
    x = einops.rearrange(x_BLC, "b l c -> (b l) c")
    dense = functools.partial(
      nn.Dense, use_bias=self.bias, dtype=self.dtype, kernel_init=nn.initializers.normal(0.02)
    )
    out = functools.partial(dense, width, kernel_init=nn.initializers.normal(self.scale))
    drop = nn.Dropout(self.dropout, deterministic=not train)
    if self.modulation == "adaln":
      m = nn.Dense(6 * width, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="modulate")(
        cond_BC
      )
      m = jnp.split(einops.repeat(m, "b c -> (b l) c", l=length), 6, axis=-1)
      shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = m

    h = _norm(self.norm, self.bias, self.dtype, "norm_1")(x)
    h = _modulate(h, shift_1, scale_1) if self.modulation == "adaln" else h
    q, k, v = (
      einops.rearrange(dense(width, name=name)(h), "(b l) (n h) -> b l n h", b=b, n=self.heads)
      for name in ("query", "key", "value")
    )
    if self.qk_norm == "rmsnorm":
      q = nn.RMSNorm(epsilon=1e-5, dtype=self.dtype, name="query_norm")(q)
      k = nn.RMSNorm(epsilon=1e-5, dtype=self.dtype, name="key_norm")(k)
    if angles_LF is not None:
      q, k = attention.rotate(q, angles_LF), attention.rotate(k, angles_LF)
    if cache is not None:
      cache = attention.update_cache(cache, k, v, 0 if index is None else index)
    if index is None:
      h = attention.attend(q, k, v, "causal" if self.causal else "full")
    else:
      h = attention.attend_cache(q[:, 0], cache, index + 1)[:, None]
    h = drop(out(name="proj")(einops.rearrange(h, "b l n h -> (b l) (n h)")))
    x = x + (gate_1 * h if self.modulation == "adaln" else h)

    h = _norm(self.norm, self.bias, self.dtype, "norm_2")(x)
    h = _modulate(h, shift_2, scale_2) if self.modulation == "adaln" else h
    if self.mlp == "swiglu":  # arXiv 2002.05202
      h = nn.silu(dense(self.hidden, name="gate")(h)) * dense(self.hidden, name="up")(h)
    else:
      h = nn.gelu(dense(self.hidden, name="up")(h), approximate=False)
    h = drop(out(name="down")(h))
    x = x + (gate_2 * h if self.modulation == "adaln" else h)
    return einops.rearrange(x, "(b l) c -> b l c", b=b), cache


@struct.dataclass
class Caches:
  """Keys and values of every layer, and how many positions the prefix takes (1 where only the start
  vector stands).
  """

  layers: tuple[attention.Cache, ...]
  lead: int = struct.field(pytree_node=False)


class Model(nn.Module):
  """A GPT where `causal`, a BERT where not. Parameters of the blocks are stacked along a leading
  axis of `layers`.

  The defaults are minGPT's block, as taming-transformers has it (arXiv 2012.09841). LlamaGen's
  (arXiv 2406.06525): positions="rotary", norm="rmsnorm", mlp="swiglu", bias=False.

  Attributes:
    latent, rows, causal, dtype: see vqjax/priors/__init__.py. A sequence may be
      shorter than the grid.
    layers, width, heads: depth, channels, attention heads.
    hidden: channels inside the MLP; None means 4 * width, for swiglu 8/3 * width rounded up to a
      multiple of 256.
    max_prefix: the longest prefix that learned positions have room for. A shorter one takes the
      last of these places, so that a code's position does not depend on it.
    positions: "rotary" turns queries and keys by their place on the grid; the prefix is not turned.
      It tells only how far apart codes are: a bidirectional network cannot tell places apart while
      every code is masked, and needs "learned".
    qk_norm: "rmsnorm" normalises queries and keys per head (arXiv 2302.05442).
    modulation: "adaln" lets `time_B` shift, scale and gate every block (adaLN-Zero, arXiv
      2212.09748).
    bias: of the linear layers and LayerNorm; the output layer has none.
    dropout: of embeddings and of both residual branches.
    remat: "block" keeps only the blocks' inputs for the backward pass.
    cache_layout: see vqjax/nn/attention.py; "auto" picks by the default backend.
  """

  latent: Codes = fields.program()
  rows: int = fields.program()
  causal: bool = fields.program(True)
  layers: int = 12
  width: int = 768
  heads: int = 12
  hidden: int | None = None
  max_prefix: int = fields.program(1)
  positions: Literal["learned", "rotary"] = "learned"
  norm: Literal["layernorm", "rmsnorm"] = "layernorm"
  mlp: Literal["gelu", "swiglu"] = "gelu"
  qk_norm: Literal["none", "rmsnorm"] = "none"
  modulation: Literal["none", "adaln"] = fields.program("none")
  bias: bool = True
  dropout: float = 0.0
  remat: Literal["none", "block"] = "none"
  cache_layout: Literal["auto", "fused", "heads", "keys_last"] = "auto"
  dtype: str = "float32"

  cached = True

  def __post_init__(self) -> None:
    self._check()
    super().__post_init__()

  def setup(self):
    self.embed = tokens.Embed(self.rows, self.width, self.dtype)
    if self.causal:
      self.start = self.param("start", nn.initializers.normal(0.02), (self.width,))
    if self.positions == "learned":
      shape = (self._lead(self.max_prefix) + self.latent.length - self.causal, self.width)
      self.position_table = self.param("position_table", nn.initializers.normal(0.02), shape)
    if self.modulation == "adaln":
      self.time_in, self.time_out = (nn.Dense(self.width, dtype=self._dtype) for _ in range(2))
      self.modulate = nn.Dense(2 * self.width, dtype=self._dtype, kernel_init=nn.initializers.zeros)
    block = (
      nn.remat(Block, prevent_cse=False, static_argnums=(4,)) if self.remat == "block" else Block
    )
    # On a CPU a loop stacks and copies what the backward pass needs; without it a step takes about
    # two thirds of the time.
    unroll = self.layers if target.platform() == "cpu" and self.layers <= 8 else 1
    self.blocks = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=nn.broadcast,
      length=self.layers,
      unroll=unroll,
    )(**self._block_fields())
    self.drop = nn.Dropout(self.dropout)
    self.norm_out = _norm(self.norm, self.bias, self._dtype)
    self.head = tokens.head(
      self.latent.vocabulary, self._dtype, use_bias=False, kernel_init=nn.initializers.normal(0.02)
    )

  def __call__(
    self,
    ids_BL: jax.Array,
    prefix_BP: jax.Array | None = None,
    *,
    time_B: jax.Array | None = None,
    train: bool,
  ) -> jax.Array:
    """Logits `[B, L, V]`, float32.

    Raises UserError for a prefix or a sequence without room, or a missing time.
    """
    b, length = ids_BL.shape
    prefix_BP = jnp.zeros((b, 0), jnp.int32) if prefix_BP is None else prefix_BP
    ids_BT = jnp.concatenate([prefix_BP, ids_BL[:, :-1] if self.causal else ids_BL], axis=1)
    x, angles = self._inputs(ids_BT, prefix_BP.shape[1])
    cond_BC = self._time(time_B)
    x, _ = self.blocks(self.drop(x, deterministic=not train), cond_BC, angles, train)
    return self._logits(x[:, -length:], cond_BC)

  def init_cache(self, batch: int, prefix_length: int) -> Caches:
    """An empty cache for a batch of whole grids after a prefix. Needs no parameters."""
    lead = self._lead(prefix_length)
    length = lead + self.latent.length - 1  # Nothing follows the last code.
    layer = attention.init_cache(
      batch, length, self.heads, self.width // self.heads, self.dtype, self.cache_layout
    )
    return Caches((layer,) * self.layers, lead)

  def prefill(self, prefix_BP: jax.Array | None, cache: Caches) -> tuple[jax.Array, Caches]:
    """Reads the prefix (None is the empty one) into the cache; returns the logits `[B, V]` of code
    0.
    """
    batch = cache.layers[0].keys.shape[0]
    prefix_BP = jnp.zeros((batch, 0), jnp.int32) if prefix_BP is None else prefix_BP
    x, angles = self._inputs(prefix_BP, prefix_BP.shape[1])
    return self._cached(x, angles, cache, None)

  def decode(
    self, ids_B: jax.Array, index: jax.Array | int, cache: Caches
  ) -> tuple[jax.Array, Caches]:
    """Takes code `index` of each sequence, in 0 to L - 2; returns the logits `[B, V]` of code
    `index + 1`.
    """
    x = self.embed(ids_B[:, None])
    angles = None
    if self.positions == "learned":
      row = jax.lax.dynamic_slice_in_dim(
        self.position_table, self._lead(self.max_prefix) + index, 1
      )
      x = x + row[None].astype(x.dtype)
    else:
      angles = jax.lax.dynamic_slice_in_dim(jnp.asarray(self._angles()), index, 1)
    return self._cached(x, angles, cache, cache.lead + index)

  def _cached(
    self, x: jax.Array, angles: jax.Array | None, cache: Caches, index: Any
  ) -> tuple[jax.Array, Caches]:
    # One by one, not by scan: a scan would copy the layer's parameters and rewrite its whole cache
    # for every token.
    stacked = self.blocks.variables["params"]
    block = Block(**self._block_fields(), parent=None)
    layers = []
    for i, layer in enumerate(cache.layers):
      params = jax.tree.map(lambda p: p[i], stacked)
      x, layer = block.apply({"params": params}, x, None, angles, False, layer, index)
      layers.append(layer)
    return self._logits(x[:, -1:], None)[:, 0], cache.replace(layers=tuple(layers))

  def _inputs(self, ids_BT: jax.Array, prefix: int) -> tuple[jax.Array, jax.Array | None]:
    """Embeds prefix and codes, with the start vector before them where a causal model has no
    prefix; adds positions.
    """
    x = self.embed(ids_BT)
    if self.causal and prefix == 0:
      start = jnp.broadcast_to(self.start.astype(x.dtype), (x.shape[0], 1, self.width))
      x = jnp.concatenate([start, x], axis=1)
    lead = self._lead(prefix)
    if x.shape[1] - lead > self.latent.length - self.causal:
      raise UserError(
        f"grid: {self.latent.grid} has {self.latent.length} codes; the sequence is longer."
      )
    if self.positions == "rotary":
      angles = jnp.pad(self._angles(), ((lead, 0), (0, 0)))[: x.shape[1]]
      return x, angles
    first = self._lead(self.max_prefix) - lead
    if first < 0:
      raise UserError(
        f"max_prefix: {self.max_prefix} is shorter than the prefix of {prefix} tokens; raise it."
      )
    return x + self.position_table[None, first : first + x.shape[1]].astype(x.dtype), None

  def _time(self, time_B: jax.Array | None) -> jax.Array | None:
    if self.modulation == "none":
      return None
    if time_B is None:
      raise UserError("modulation: 'adaln' needs a scheme that gives a time; set it to 'none'.")
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(128) / 128)
    angles = 1000 * time_B.astype(jnp.float32)[:, None] * frequencies[None]
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return nn.silu(self.time_out(nn.silu(self.time_in(waves))))

  def _logits(self, x_BLC: jax.Array, cond_BC: jax.Array | None) -> jax.Array:
    x = self.norm_out(x_BLC)
    if self.modulation == "adaln":
      shift, scale = jnp.split(self.modulate(cond_BC)[:, None], 2, axis=-1)
      x = _modulate(x, shift, scale)
    b = x.shape[0]
    return einops.rearrange(
      self.head(einops.rearrange(x, "b l c -> (b l) c")), "(b l) v -> b l v", b=b
    )

  def _angles(self) -> Any:
    return attention.rotary_table(self.latent.grid, self.width // self.heads)

  def _lead(self, prefix: int) -> int:
    """Positions before the codes."""
    return max(prefix, 1) if self.causal else prefix

  @property
  def _dtype(self) -> jnp.dtype:
    return jnp.dtype(self.dtype)

  def _block_fields(self) -> dict[str, Any]:
    hidden = self.hidden
    if hidden is None:
      hidden = 4 * self.width if self.mlp == "gelu" else 256 * math.ceil(8 * self.width / 3 / 256)
    return dict(
      heads=self.heads,
      hidden=hidden,
      causal=self.causal,
      norm=self.norm,
      mlp=self.mlp,
      qk_norm=self.qk_norm,
      modulation=self.modulation,
      bias=self.bias,
      dropout=self.dropout,
      scale=0.02 / math.sqrt(2 * self.layers),
      dtype=self._dtype,
    )

  def _check(self) -> None:
    tokens.check_sizes(layers=self.layers, width=self.width, max_prefix=self.max_prefix)
    tokens.check_heads(self.heads, self.width)
    tokens.check_dropout(self.dropout)
    if self.hidden is not None:
      tokens.check_sizes(hidden=self.hidden)
    multiple = 2 * len(self.latent.grid) if self.positions == "rotary" else 1
    if self.width // self.heads % multiple:
      raise UserError(
        f"heads: rotary positions on {self.latent.grid} need a head width (width / heads) that "
        f"is a multiple of {multiple}, "
        f"not {self.width // self.heads}."
      )
    if self.causal and self.modulation == "adaln":
      raise UserError(
        "modulation: 'adaln' carries a diffusion time, which causal networks do not get; use "
        "'none'."
      )
