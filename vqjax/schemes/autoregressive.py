"""Autoregressive generation: codes in raster order, with a cache, or in a window that slides over a
larger grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import einops
import jax
import jax.numpy as jnp
from jax import lax

from vqjax import fields
from vqjax.errors import UserError
from vqjax.schemes import Corrupted, Network, _sampling
from vqjax.schemes._sampling import log_prob

__all__ = ["Scheme", "log_prob", "sample_window", "uncached"]


def uncached(full: Callable[..., jax.Array], batch: int, length: int) -> tuple[Callable, Callable]:
  """(start, step) for a causal network without a cache: all ids are kept, and every step runs
  `full` on them.

  Args:
    full: (ids_BL, time_B) -> logits_BLV, as in Network.
    batch: B.
    length: L.
  """

  def start() -> tuple[jax.Array, jax.Array]:
    ids = jnp.zeros((batch, length), jnp.int32)
    return full(ids, None)[:, 0], ids

  def step(ids_B: jax.Array, index: jax.Array, ids_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    ids = lax.dynamic_update_index_in_dim(ids_BL, ids_B, index, 1)
    return lax.dynamic_index_in_dim(full(ids, None), index + 1, 1, keepdims=False), ids

  return start, step


@dataclasses.dataclass(frozen=True)
class Scheme:
  """Next-code prediction in raster order.

  The network shifts its input itself: logits i are about code i.
  """

  num_codes: int = fields.program()
  extra_ids: ClassVar[int] = 0
  causal: ClassVar[bool] = True
  timed: ClassVar[bool] = False

  def corrupt(self, key: jax.Array, ids_BL: jax.Array) -> Corrupted:
    """The codes as they are; nothing is drawn."""
    del key
    return Corrupted(ids_BL, ids_BL, jnp.ones(ids_BL.shape, jnp.float32))

  def loss(self, logits_BLV: jax.Array, corrupted: Corrupted) -> tuple[jax.Array, jax.Array]:
    """Cross entropy of each code given those before: nats [B, L], weights [B, L]."""
    return -log_prob(logits_BLV[..., : self.num_codes], corrupted.targets_BL), corrupted.weights_BL

  def bound(self, key: jax.Array, network: Network, ids_BL: jax.Array) -> jax.Array:
    """-log p of each code given those before, in nats [B, L]; exact, and `key` is not used."""
    del key
    return -log_prob(network.full(ids_BL, None)[..., : self.num_codes], ids_BL)

  def sample(
    self,
    key: jax.Array,
    network: Network,
    ids_BL: jax.Array,
    known_BL: jax.Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    prefix: int = 0,
    trajectory: bool = False,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Draws the unknown codes in raster order, each given all before it, with `network.start` and
    `network.step`.

    Known codes after an unknown one are kept and shown to the network when their turn comes; the
    draws before them cannot look ahead.

    Args:
      key: one key, or one per example [B].
      network: a causal one on B examples.
      ids_BL, known_BL: int32 and bool.
      temperature, top_k, top_p: see `filter_logits`; temperature 0 is greedy.
      prefix: promises that so many leading codes are known in every example: they are fed without
        drawing.
      trajectory: return (ids_BL, ids_SBL) with the ids after each of S = L steps; `num_codes`
        stands for "not yet".

    Raises:
      UserError: an option out of range, or a network without `start` and `step`.
    """
    batch, length = ids_BL.shape
    _sampling.check_options(self.num_codes, temperature, top_k, top_p)
    if not 0 <= prefix <= length:
      raise UserError(f"prefix: {prefix} is outside 0 to {length}, the length of the sequence.")
    if network.start is None or network.step is None:
      raise UserError(
        "autoregressive: the network is not causal; choose a causal prior or another scheme."
      )
    keys_B = _sampling.example_keys(key, batch)
    ids_LB, known_LB = ids_BL.astype(jnp.int32).T, known_BL.T

    def choose(logits_BV: jax.Array, i: jax.Array | int) -> jax.Array:
      logits = _sampling.filter_logits(logits_BV[:, : self.num_codes], temperature, top_k, top_p)
      return jnp.where(known_LB[i], ids_LB[i], _sampling.draw(_sampling.fold(keys_B, i), logits))

    def feed(carry: tuple, i: jax.Array) -> tuple[tuple, None]:
      return _as_carry(network.step(ids_LB[i], i, carry[1])), None

    def advance(carry: tuple, i: jax.Array) -> tuple[tuple, jax.Array]:
      ids_B = choose(carry[0], i)
      return _as_carry(network.step(ids_B, i, carry[1])), ids_B

    if prefix == length:
      out_BL = ids_LB.T
    else:
      carry = _as_carry(network.start())
      if prefix:
        carry, _ = lax.scan(feed, carry, jnp.arange(prefix))
      (logits_BV, _), drawn = lax.scan(advance, carry, jnp.arange(prefix, length - 1))
      # The last code needs no step after it: a network has no position to predict there.
      out_BL = jnp.concatenate([ids_LB[:prefix], drawn, choose(logits_BV, length - 1)[None]]).T
    return (out_BL, self._trajectory(out_BL, known_BL)) if trajectory else out_BL

  def _trajectory(self, ids_BL: jax.Array, known_BL: jax.Array) -> jax.Array:
    done_SL = jnp.tril(jnp.ones((ids_BL.shape[1],) * 2, bool))
    return jnp.where(done_SL[:, None] | known_BL[None], ids_BL[None], self.num_codes)


def _as_carry(logits_and_cache: tuple[jax.Array, object]) -> tuple[jax.Array, object]:
  return logits_and_cache[0].astype(jnp.float32), logits_and_cache[1]


def sample_window(
  key: jax.Array,
  full: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  ids_BHW: jax.Array,
  known_BHW: jax.Array,
  *,
  num_codes: int,
  window: tuple[int, int],
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
) -> jax.Array:
  """Draws a grid larger than the one trained on: a window of codes centred on the next one (arXiv
  2012.09841, §3.2).

  The window is clipped at the borders, so that it always lies inside the grid. With a window as
  large as the grid this is `Scheme.sample` without a cache, draw for draw.

  Args:
    key: one key, or one per example [B].
    full: (ids_BL, top, left) -> logits_BLV on one window in raster order, L = h·w, by a causal
      network; `top` and `left` are the window's corner in the grid, for conditions that are cropped
      with it.
    ids_BHW, known_BHW: int32 and bool; known codes are kept.
    num_codes: K.
    window: (h, w), the grid of the network.
    temperature, top_k, top_p: see `filter_logits`.

  Raises:
    UserError: a window larger than the grid, or an option out of range.
  """
  (batch, height, width), (h, w) = ids_BHW.shape, window
  _sampling.check_options(num_codes, temperature, top_k, top_p)
  if h > height or w > width:
    raise UserError(
      f"window: {h} x {w} exceeds the grid of {height} x {width}; ask for at least {h} x {w} codes."
    )
  keys_B = _sampling.example_keys(key, batch)
  # Unknown places may hold anything, and a window's logits must not depend on it.
  ids_BHW = jnp.where(known_BHW, ids_BHW, 0).astype(jnp.int32)

  def advance(ids_BHW: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
    row, col = i // width, i % width
    top, left = jnp.clip(row - h // 2, 0, height - h), jnp.clip(col - w // 2, 0, width - w)
    seen_BL = einops.rearrange(
      lax.dynamic_slice(ids_BHW, (0, top, left), (batch, h, w)), "B h w -> B (h w)"
    )
    at = (row - top) * w + col - left
    logits_BV = lax.dynamic_index_in_dim(full(seen_BL, top, left), at, 1, keepdims=False)
    logits_BV = _sampling.filter_logits(logits_BV[:, :num_codes], temperature, top_k, top_p)
    drawn_B = _sampling.draw(_sampling.fold(keys_B, i), logits_BV)
    ids_B = jnp.where(known_BHW[:, row, col], ids_BHW[:, row, col], drawn_B)
    return ids_BHW.at[:, row, col].set(ids_B), None

  return lax.scan(advance, ids_BHW, jnp.arange(height * width))[0]
