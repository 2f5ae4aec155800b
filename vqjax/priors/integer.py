"""A causal network in integers: the same logits on every machine, in every batch, whole or stepped.

Residual blocks of masked convolutions (arXiv 1601.06759, figure 5) over a grid of any number of
axes, written as dense layers over the neighbours that come before. They are trained as they run:
see vqjax/nn/integers.py. For the codec, whose mode `integer` writes files that all machines read.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.nn import integers, tokens

_OPERAND = 2.0**-6  # units of what is multiplied, what is added up, logits
_STREAM = 2.0**-8
_LOGIT = 2.0**-5
_EMBED = 8.0  # the embedding's initial values are small beside the unit


def offsets(reach: tuple[int, ...]) -> np.ndarray:
  """Steps to the neighbours within `reach` of a place that come before it in raster order, int
  [N, axes].
  """
  steps = itertools.product(*(range(-r, r + 1) for r in reach))
  return np.array([step for step in steps if step < (0,) * len(reach)])


def neighbours(grid: tuple[int, ...], steps: np.ndarray) -> np.ndarray:
  """Where in the sequence each place's neighbours are, int [L, N]; L, the length, if outside."""
  places = np.stack(np.unravel_index(np.arange(math.prod(grid)), grid), -1)
  at = places[:, None] + steps
  inside = ((at >= 0) & (at < np.array(grid))).all(-1)
  found = np.ravel_multi_index(tuple(np.moveaxis(np.where(inside[..., None], at, 0), -1, 0)), grid)
  return np.where(inside, found, len(places))


def _added(stream: jax.Array, more: jax.Array) -> jax.Array:
  """Their sum, kept within what float32 carries exactly."""
  return jnp.clip(stream + more, -(2.0**15) * _STREAM, 2.0**15 * _STREAM)


class Model(nn.Module):
  """Masked convolutions in integers. Causal, cached.

  A position sees, of the row n above it, no more than n * (kernel // 2) columns to its right.

  The condition is added before the first block: the sum of the prefix tokens' embeddings, and where
  the prefix ends in a coarser grid of codes, that grid, per position.

  Attributes:
    latent, rows, causal, dtype: see vqjax/priors/__init__.py; in integers the dtype is that of
      products, which are exact in each. The grid has any number of axes.
    layers, width: residual blocks and channels.
    kernel: odd width of the neighbourhood along every axis of cells; of the codes at one place all
      are seen.
    dropout: after every block.
    arithmetic: "float" rounds nothing: what the integers are compared with.
    prefix_grid: shape of the coarser grid at the prefix's end; () for none.
  """

  latent: Codes = fields.program()
  rows: int = fields.program()
  causal: bool = fields.program(True)
  layers: int = 4
  width: int = 64
  kernel: int = 5
  dropout: float = 0.0
  arithmetic: Literal["integer", "float"] = "integer"
  prefix_grid: tuple[int, ...] = fields.program(())
  dtype: str = "float32"

  cached = True

  def __post_init__(self) -> None:
    checks.positive(self, "layers", "width")
    checks.within(self, "kernel", at_least=3)
    checks.dropout(self)
    if self.kernel % 2 == 0:
      raise UserError(f"kernel: {self.kernel} is even; use an odd width.")
    if not self.causal:
      raise UserError(
        "causal: this network sees earlier codes only; use the transformer with this scheme."
      )
    super().__post_init__()

  @property
  def resolution(self) -> int | None:
    return round(1 / _LOGIT) if self.arithmetic == "integer" else None

  def setup(self) -> None:
    books = self.latent.books
    reach = (self.kernel // 2,) * len(self.latent.shape) + ((books - 1,) if books > 1 else ())
    self.steps = offsets(reach)
    self.embed = tokens.Embed(self.rows, self.width, "float32")
    self.edge = self.param("edge", nn.initializers.normal(0.02), (self.width,))
    self.first = self._dense(self.width)
    self.blocks = [(self._dense(self.width), self._dense(self.width)) for _ in range(self.layers)]
    self.out = self._dense(self.width)
    self.head = self._dense(self.latent.vocabulary, _LOGIT)
    self.drop = nn.Dropout(self.dropout)

  def __call__(
    self,
    ids_BL: jax.Array,
    prefix_BP: jax.Array | None = None,
    *,
    time_B: jax.Array | None = None,
    train: bool,
  ) -> jax.Array:
    """Logits `[B, L, K]`, float32: in integers, multiples of 1 / resolution."""
    del time_B
    seen = lambda x_BLC, centre: self._around(x_BLC, centre)
    h = self.first(seen(self._embedded(self.latent.numbered(ids_BL)), False))
    h = _added(h, self._condition(prefix_BP, len(ids_BL)))
    for block in self.blocks:
      more = self._block(block, h, lambda x: seen(x, True))
      h = _added(h, self.drop(more, deterministic=not train))
    books = jnp.arange(self.latent.length) % self.latent.books
    return self._logits(h, books)

  def init_cache(self, batch: int, prefix_length: int) -> Any:
    """What stepwise decoding keeps: the condition, embeddings and each block's features [B, L, C].
    Needs no parameters.
    """
    del prefix_length
    blank = jnp.zeros((batch, self.latent.length, self.width), jnp.float32)
    return (blank,) * (2 + self.layers)

  def prefill(self, prefix_BP: jax.Array | None, cache: Any) -> tuple[jax.Array, Any]:
    """Logits `[B, 1, K]` of code 0, and the cache."""
    condition = jnp.broadcast_to(self._condition(prefix_BP, len(cache[0])), cache[0].shape)
    return self._step(jnp.int32(0), (condition, *cache[1:]))

  def decode(self, ids_B1: jax.Array, index: jax.Array | int, cache: Any) -> tuple[jax.Array, Any]:
    """Takes code `index` of each sequence; returns the logits `[B, 1, K]` of code `index + 1`."""
    numbers = self.latent.numbered(ids_B1, jnp.asarray(index)[None])
    embedded = jax.lax.dynamic_update_slice_in_dim(cache[1], self._embedded(numbers), index, 1)
    return self._step(index + 1, (cache[0], embedded, *cache[2:]))

  def _step(self, index: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
    condition, embedded, *features = cache
    own = jax.lax.dynamic_slice_in_dim(condition, index, 1, 1)
    h, kept = _added(self.first(self._before(embedded, index, self._edge())), own), []

    def seen(feature: jax.Array, x_B1C: jax.Array) -> jax.Array:
      kept.append(jax.lax.dynamic_update_slice_in_dim(feature, x_B1C, index, 1))
      return jnp.concatenate([self._before(feature, index), x_B1C], -1)

    for block, feature in zip(self.blocks, features):
      h = _added(h, self._block(block, h, lambda x, feature=feature: seen(feature, x)))
    book = jnp.asarray(index)[None] % self.latent.books
    return self._logits(h, book), (condition, embedded, *kept)

  def _dense(self, features: int, unit: float = _STREAM) -> integers.Dense:
    return integers.Dense(features, unit, self.arithmetic, jnp.dtype(self.dtype))

  def _operand(self, x: jax.Array) -> jax.Array:
    return integers.operand(x, _OPERAND, self.arithmetic)

  def _embedded(self, ids: jax.Array) -> jax.Array:
    return self._operand(self.embed(ids) * _EMBED)

  def _edge(self) -> jax.Array:
    return self._operand(self.edge * _EMBED)

  def _block(self, layers: tuple[Any, Any], h: jax.Array, seen: Any) -> jax.Array:
    """What a block adds to the stream; `seen` gives a feature with those of its neighbours."""
    wide, across = layers
    feature = self._operand(nn.relu(wide(self._operand(nn.relu(h)))))
    return across(seen(feature))

  def _logits(self, h_BLC: jax.Array, books_L: jax.Array) -> jax.Array:
    """[B, L, K], each position's of its own book."""
    h = self._operand(nn.relu(self.out(self._operand(nn.relu(h_BLC)))))
    every = self.head(h).reshape(*h.shape[:2], self.latent.books, self.latent.size)
    return jnp.take_along_axis(every, books_L[None, :, None, None], axis=2)[:, :, 0]

  def _around(self, x_BLC: jax.Array, centre: bool) -> jax.Array:
    """[B, L, N·C]: each place's neighbours, with `centre` itself last."""
    grid, axes = self.latent.grid, range(1, 1 + len(self.latent.grid))
    edge = jnp.zeros_like(self.edge) if centre else self._edge()
    edge = edge.reshape((1,) * (1 + len(grid)) + (-1,))
    x = x_BLC.reshape(len(x_BLC), *grid, self.width) - edge
    reach = np.abs(self.steps).max(0, initial=0)
    x = jnp.pad(x, [(0, 0), *((r, r) for r in reach), (0, 0)]) + edge
    found = []
    for step in [*self.steps, *([np.zeros(len(grid), int)] if centre else [])]:
      part = x
      for axis, start, size in zip(axes, reach + step, grid):
        part = jax.lax.slice_in_dim(part, start, start + size, axis=axis)
      found.append(part)
    return jnp.concatenate(found, -1).reshape(len(x_BLC), self.latent.length, -1)

  def _before(self, x_BLC: jax.Array, index: jax.Array, edge: Any = 0.0) -> jax.Array:
    """[B, 1, N·C]: the neighbours of the place `index`."""
    table = jnp.asarray(neighbours(self.latent.grid, self.steps))[index]
    outside = (table == self.latent.length)[None, :, None]
    found = x_BLC[:, jnp.minimum(table, self.latent.length - 1)]
    edge = jnp.broadcast_to(jnp.asarray(edge, jnp.float32), found.shape[-1:])[None, None]
    return jnp.where(outside, edge, found).reshape(len(x_BLC), 1, -1)

  def _condition(self, prefix_BP: jax.Array | None, batch: int) -> jax.Array:
    """[B, 1 or L, C], multiples of the stream's unit."""
    picture_BP, coarse_BHW = tokens.split_prefix(prefix_BP, batch, self.prefix_grid)
    cond = self._embedded(picture_BP).sum(1)[:, None]
    if coarse_BHW is None:
      return cond
    coarse = tokens.upsample(self._embedded(coarse_BHW), self.latent.shape)
    coarse = coarse.reshape(batch, -1, 1, self.width)
    return cond + jnp.repeat(coarse, self.latent.books, 2).reshape(batch, -1, self.width)
