"""Transformer over codes, causal or bidirectional; minGPT's or LlamaGen's block by name."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.nn import attention, sparse, target, tokens
from vqjax.priors import _books
from vqjax.priors._block import Block, hidden_width, modulate, norm, stacked


@struct.dataclass
class Caches:
  """Keys and values of every layer; the prefix's length, and how many positions stand before the
  codes: the start vector may be one. On CPUs also the layers' parameters, one by one.
  """

  layers: tuple[attention.Cache, ...]
  params: tuple[Any, ...] | None
  prefix: int = struct.field(pytree_node=False)
  lead: int = struct.field(pytree_node=False)


class Model(nn.Module):
  """A GPT where `causal`, a BERT where not. Parameters of the blocks are stacked along a leading
  axis of `layers`.

  The defaults are minGPT's block, as taming-transformers has it (arXiv 2012.09841). LlamaGen's
  (arXiv 2406.06525): positions="rotary", norm="rmsnorm", mlp="swiglu", bias=False.

  Attributes:
    latent, rows, causal, dtype: see vqjax/priors/__init__.py.
    layers, width, heads: depth, channels, attention heads.
    hidden: channels inside the MLP; None means 4 * width, for swiglu 8/3 * width rounded up to a
      multiple of 256.
    max_prefix: the longest prefix that learned positions have room for. A shorter one takes the
      last of these places, so that a code's position does not depend on it.
    prefix_rows: see vqjax/priors/__init__.py; where it is not 0, the start vector stands before
      every prefix.
    positions: "learned" is a vector for each; "row_column" one for each in the prefix, and for a
      code the sum of its row's and its column's (DALL·E, arXiv 2102.12092; one for each axis of
      other grids). "rotary" turns queries and keys by their place on the grid; the prefix is not
      turned. It tells only how far apart codes are: a bidirectional network cannot tell places
      apart while every code is masked, and needs "learned".
    attention: "dalle" takes DALL·E's sparse masks, see vqjax/nn/sparse.py: all codes see the whole
      prefix, and of each other a row, a column, or in the last layer a window.
    window: height and width of the last layer's window, odd; 11 in the paper.
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
  prefix_rows: int = fields.program(0)
  positions: Literal["learned", "rotary", "row_column"] = "learned"
  attention: Literal["dense", "dalle"] = "dense"
  window: int = 11
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
    if self.positions != "rotary":
      rows = self._lead(self.max_prefix)
      if self.positions == "learned":
        rows += self.latent.steps - self.causal
      table = functools.partial(self.param, init_fn=nn.initializers.normal(0.02))
      self.position_table = table("position_table", shape=(rows, self.width))
    if self.positions == "row_column":
      self.axis_tables = [
        table(f"position_table_{axis}", shape=(size, self.width))
        for axis, size in enumerate(self.latent.step_grid)
      ]
    if self.modulation == "adaln":
      self.time_in, self.time_out = (nn.Dense(self.width, dtype=self._dtype) for _ in range(2))
      self.modulate = nn.Dense(2 * self.width, dtype=self._dtype, kernel_init=nn.initializers.zeros)
    self.blocks = stacked(self.layers, self.remat)(**self._block_fields())
    self.drop = nn.Dropout(self.dropout)
    self.norm_out = norm(self.norm, self.bias, self._dtype)
    plain = dict(dtype=self._dtype, use_bias=False, kernel_init=nn.initializers.normal(0.02))
    self.head = _books.Head(self.latent, **plain)
    if self.prefix_rows:
      self.prefix_head = tokens.head(self.prefix_rows, **plain)

  def __call__(
    self,
    ids_BL: jax.Array,
    prefix_BP: jax.Array | None = None,
    *,
    time_B: jax.Array | None = None,
    train: bool,
  ) -> jax.Array:
    """Logits `[B, L, K]`, float32.

    Raises UserError for a prefix or a sequence without room, or a missing time.
    """
    if self.is_initializing() and self.prefix_rows:
      return self.joint(ids_BL, prefix_BP, train=train)[0]
    cond_BC = self._time(time_B)
    x, first = self._activations(ids_BL, prefix_BP, cond_BC, train)
    return self.latent.collect(self.head(self._last(x[:, first:], cond_BC)))

  def joint(
    self, ids_BL: jax.Array, prefix_BP: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """(logits `[B, L, K]`, logits `[B, P, R]` of the prefix), float32; R is `prefix_rows`."""
    x, first = self._activations(ids_BL, prefix_BP, None, train)
    x = self._last(x, None)
    return self.latent.collect(self.head(x[:, first:])), self.prefix_head(x[:, :first])

  def _activations(
    self, ids_BL: jax.Array, prefix_BP: jax.Array | None, cond_BC: jax.Array | None, train: bool
  ) -> tuple[jax.Array, int]:
    """(what the blocks make of all positions `[B, T, C]`, the one that predicts the first step)."""
    prefix_BP = jnp.zeros((len(ids_BL), 0), jnp.int32) if prefix_BP is None else prefix_BP
    x = _books.embedded(self.embed, self.latent, ids_BL)
    steps, x = x.shape[1], x[:, :-1] if self.causal else x
    x, angles = self._inputs(x, prefix_BP)
    x = self.drop(x, deterministic=not train)
    masks, kinds = self._masks(prefix_BP.shape[1], x.shape[1])
    x = self.blocks(x, cond_BC, angles, train, masks, kinds)[0]
    return x, x.shape[1] - steps

  def init_cache(self, batch: int, prefix_length: int) -> Caches:
    """An empty cache for a batch of whole grids after a prefix. Needs no parameters."""
    lead = self._lead(prefix_length)
    length = lead + self.latent.steps - 1  # Nothing follows the last step.
    layer = attention.init_cache(
      batch, length, self.heads, self.width // self.heads, self.dtype, self.cache_layout
    )
    return Caches((layer,) * self.layers, None, prefix_length, lead)

  def prefill(self, prefix_BP: jax.Array | None, cache: Caches) -> tuple[jax.Array, Caches]:
    """Reads the prefix (None is the empty one) into the cache; returns the logits `[B, J, K]` of
    step 0.
    """
    batch = cache.layers[0].keys.shape[0]
    prefix_BP = jnp.zeros((batch, 0), jnp.int32) if prefix_BP is None else prefix_BP
    x, angles = self._inputs(jnp.zeros((batch, 0, self.width), self._dtype), prefix_BP)
    return self._cached(x, angles, cache, None)

  def decode(
    self, ids_BJ: jax.Array, index: jax.Array | int, cache: Caches
  ) -> tuple[jax.Array, Caches]:
    """Takes the codes of step `index`, in 0 to S - 2; returns the logits `[B, J, K]` of step
    `index + 1`.
    """
    x = _books.embedded_step(self.embed, self.latent, ids_BJ, index)
    angles = None
    if self.positions != "rotary":
      row = jax.lax.dynamic_slice_in_dim(self._positions(), self._lead(self.max_prefix) + index, 1)
      x = x + row[None].astype(x.dtype)
    else:
      angles = jax.lax.dynamic_slice_in_dim(jnp.asarray(self._angles()), index, 1)
    return self._cached(x, angles, cache, index)

  def _cached(
    self, x: jax.Array, angles: jax.Array | None, cache: Caches, step: Any
  ) -> tuple[jax.Array, Caches]:
    """Reads the codes of `step`, or where it is None the prefix, and predicts the step after."""
    # One by one, not by scan: a scan would copy the layer's parameters and rewrite its whole cache
    # for every token.
    stacked = self.blocks.variables["params"]
    params = cache.params or tuple(
      jax.tree.map(lambda p: p[i], stacked) for i in range(self.layers)
    )
    if target.platform() == "cpu" and step is None:
      # A loop of XLA's for CPUs would copy them out of the stack for every code.
      cache = cache.replace(params=jax.lax.optimization_barrier(params))
    block = Block(**self._block_fields(), parent=None)
    masks, kinds = None, (0,) * self.layers
    index = None if step is None else cache.lead + step
    if step is not None:  # the prefix alone is read causally under every mask
      masks, kinds = self._masks(cache.prefix, cache.lead + self.latent.steps - 1)
    layers = []
    for own, layer, kind in zip(params, cache.layers, kinds):
      x, layer = block.apply({"params": own}, x, None, angles, False, masks, kind, layer, index)
      layers.append(layer)
    logits = self.head(self._last(x[:, -1:], None), 0 if step is None else step + 1)
    return logits[:, 0], cache.replace(layers=tuple(layers))

  def _inputs(self, x_BSC: jax.Array, prefix_BP: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """The embedded prefix before the embedded codes, and the start vector before them where a
    causal model has no prefix; adds positions.
    """
    prefix = prefix_BP.shape[1]
    x = jnp.concatenate([self.embed(prefix_BP), x_BSC], axis=1)
    if self.causal and self._lead(prefix) > prefix:
      start = jnp.broadcast_to(self.start.astype(x.dtype), (x.shape[0], 1, self.width))
      x = jnp.concatenate([start, x], axis=1)
    lead = self._lead(prefix)
    if x.shape[1] - lead > self.latent.steps - self.causal:
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
    return x + self._positions()[None, first : first + x.shape[1]].astype(x.dtype), None

  def _positions(self) -> jax.Array:
    """A vector for each place in the longest sequence, `[T, C]`."""
    if self.positions == "learned":
      return self.position_table
    grid = self.latent.step_grid
    at = jnp.zeros((*grid, self.width))
    for axis, table in enumerate(self.axis_tables):
      at += jnp.expand_dims(table, [i for i in range(len(grid)) if i != axis])
    codes_LC = at.reshape(-1, self.width)[: self.latent.steps - self.causal]
    return jnp.concatenate([self.position_table, codes_LC])

  def _masks(self, prefix: int, length: int) -> tuple[sparse.Masks | None, np.ndarray]:
    """(masks of every kind, or None, and each layer's kind)."""
    if self.attention == "dense":
      return None, np.zeros(self.layers, np.int32)
    kinds = sparse.pattern(self.layers)
    known, width = tuple(sorted(set(kinds))), self.latent.step_grid[1]
    masks = sparse.Masks(known, self._lead(prefix), width, self.window, length)
    return masks, np.array([known.index(kind) for kind in kinds], np.int32)

  def _time(self, time_B: jax.Array | None) -> jax.Array | None:
    if self.modulation == "none":
      return None
    if time_B is None:
      raise UserError("modulation: 'adaln' needs a scheme that gives a time; set it to 'none'.")
    waves = attention.waves(1000 * time_B.astype(jnp.float32))
    return nn.silu(self.time_out(nn.silu(self.time_in(waves))))

  def _last(self, x_BLC: jax.Array, cond_BC: jax.Array | None) -> jax.Array:
    """What the heads read."""
    x = self.norm_out(x_BLC)
    if self.modulation == "adaln":
      x = modulate(x, *jnp.split(self.modulate(cond_BC), 2, axis=-1))
    return x

  def _angles(self) -> Any:
    return attention.rotary_table(self.latent.step_grid, self.width // self.heads)

  def _lead(self, prefix: int) -> int:
    """Positions before the codes."""
    if self.prefix_rows:
      return prefix + 1
    return max(prefix, 1) if self.causal else prefix

  @property
  def _dtype(self) -> jnp.dtype:
    return jnp.dtype(self.dtype)

  def _block_fields(self) -> dict[str, Any]:
    return dict(
      heads=self.heads,
      hidden=hidden_width(self.hidden, self.width, self.mlp),
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
    checks.positive(self, "layers", "max_prefix", "hidden")
    checks.heads(self)
    checks.dropout(self)
    multiple = 2 * len(self.latent.step_grid) if self.positions == "rotary" else 1
    if self.width // self.heads % multiple:
      raise UserError(
        f"heads: rotary positions on {self.latent.step_grid} need a head width (width / heads) "
        f"that is a multiple of {multiple}, "
        f"not {self.width // self.heads}."
      )
    if self.prefix_rows and not self.causal:
      raise UserError("causal: a network that sees all cannot predict its prefix.")
    if self.attention == "dalle" and (not self.causal or len(self.latent.step_grid) != 2):
      raise UserError(
        "attention: 'dalle' is for causal networks with one step at each place of a picture; use "
        "'dense'."
      )
    if self.window % 2 == 0:
      raise UserError(f"window: {self.window} is even; use an odd width.")
    if self.causal and self.modulation == "adaln":
      raise UserError(
        "modulation: 'adaln' carries a diffusion time, which causal networks do not get; use "
        "'none'."
      )
