"""Autoregressive generation: codes in raster order, with a cache, or in a window that slides over a
larger grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vqjax import fields
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.schemes import Corrupted, Draw, Loss, Network, _options, _sampling


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

  latent: Codes = fields.program()
  extra_ids: ClassVar[int] = 0
  causal: ClassVar[bool] = True
  timed: ClassVar[bool] = False
  exact: ClassVar[bool] = True
  options: ClassVar[Mapping[str, type]] = {}

  def corrupt(self, key: jax.Array, latent_BL: jax.Array) -> Corrupted:
    """The codes as they are; nothing is drawn."""
    del key
    return Corrupted(latent_BL, latent_BL, jnp.ones(latent_BL.shape, jnp.float32))

  def loss(self, prediction: jax.Array, corrupted: Corrupted) -> Loss:
    """Cross entropy of each code given those before, in nats."""
    return _sampling.cross_entropy(prediction[..., : self.latent.vocabulary], corrupted)

  def bound(self, key: jax.Array, network: Network, latent_BL: jax.Array) -> jax.Array:
    """-log p of each code given those before, in nats [B, L]; exact, and `key` is not used."""
    del key
    return -_sampling.log_prob(
      network.full(latent_BL, None)[..., : self.latent.vocabulary], latent_BL
    )

  def plan(self, known_BL: np.ndarray) -> dict[str, Any]:
    """{"prompt": how many leading codes are known in every example}."""
    known_L = np.asarray(known_BL).all(0)
    return {"prompt": int(known_L.size if known_L.all() else known_L.argmin())}

  def sample(
    self,
    key: jax.Array,
    network: Network,
    latent_BL: jax.Array,
    known_BL: jax.Array,
    draw: Draw = Draw(),
    *,
    prompt: int = 0,
    trajectory: bool = False,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Draws the unknown codes in raster order, each given all before it, with `network.start` and
    `network.step`.

    Known codes after an unknown one are kept and shown to the network when their turn comes; the
    draws before them cannot look ahead.

    Args:
      key: one key, or one per example [B].
      network: a causal one on B examples.
      latent_BL, known_BL: int32 and bool.
      draw: of every code; temperature 0 is greedy.
      prompt: promises that so many leading codes are known in every example (see `plan`): they are
        fed without drawing.
      trajectory: return (latent_BL, latent_SBL) with the codes after each of S = L steps; K, the
        number of codes, stands for "not yet".

    Raises:
      UserError: an option out of range, or a network without `start` and `step`.
    """
    batch, length = latent_BL.shape
    _options.check_whole("prompt", prompt, 0, length, "the length of the sequence")
    if network.start is None or network.step is None:
      raise UserError(
        "autoregressive: the network is not causal; choose a causal prior or another scheme."
      )
    keys_B = _sampling.example_keys(key, batch)
    ids_LB, known_LB = latent_BL.astype(jnp.int32).T, known_BL.T

    def choose(logits_BV: jax.Array, i: jax.Array | int) -> jax.Array:
      logits_BV = draw.filter(logits_BV[:, : self.latent.vocabulary])
      return jnp.where(known_LB[i], ids_LB[i], _sampling.draw(_sampling.fold(keys_B, i), logits_BV))

    def feed(carry: tuple, i: jax.Array) -> tuple[tuple, None]:
      return _as_carry(network.step(ids_LB[i], i, carry[1])), None

    def advance(carry: tuple, i: jax.Array) -> tuple[tuple, jax.Array]:
      ids_B = choose(carry[0], i)
      return _as_carry(network.step(ids_B, i, carry[1])), ids_B

    if prompt == length:
      out_BL = ids_LB.T
    else:
      carry = _as_carry(network.start())
      if prompt:
        carry, _ = lax.scan(feed, carry, jnp.arange(prompt))
      (logits_BV, _), drawn = lax.scan(advance, carry, jnp.arange(prompt, length - 1))
      # The last code needs no step after it: a network has no position to predict there.
      out_BL = jnp.concatenate([ids_LB[:prompt], drawn, choose(logits_BV, length - 1)[None]]).T
    return (out_BL, self._trajectory(out_BL, known_BL)) if trajectory else out_BL

  def _trajectory(self, ids_BL: jax.Array, known_BL: jax.Array) -> jax.Array:
    done_SL = jnp.tril(jnp.ones((ids_BL.shape[1],) * 2, bool))
    return jnp.where(done_SL[:, None] | known_BL[None], ids_BL[None], self.latent.vocabulary)


def _as_carry(logits_and_cache: tuple[jax.Array, object]) -> tuple[jax.Array, object]:
  return logits_and_cache[0].astype(jnp.float32), logits_and_cache[1]


def sample_window(
  key: jax.Array,
  full: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  ids_BHW: jax.Array,
  known_BHW: jax.Array,
  draw: Draw = Draw(),
  *,
  latent: Codes,
) -> jax.Array:
  """Draws a grid larger than the one trained on: a window of codes centred on the next one (arXiv
  2012.09841, §3.2).

  The window is clipped at the borders, so that it always lies inside the grid. With a window as
  large as the grid this is `Scheme.sample` without a cache, draw for draw.

  Args:
    key: one key, or one per example [B].
    full: (ids_BL, top, left) -> logits_BLV on one window in raster order, by a causal network;
      `top` and `left` are the window's corner in the grid, for conditions that are cropped with it.
    ids_BHW, known_BHW: int32 and bool; known codes are kept.
    draw: of every code.
    latent: the codes that the network was trained on, of one book; their grid is the window.

  Raises:
    UserError: a window of other than two axes or larger than the grid, or `top_k` out of range.
  """
  (batch, height, width), window = ids_BHW.shape, latent.grid
  if len(window) != 2:
    raise UserError(f"window: codes of shape {window} have no height and width to slide over.")
  h, w = window
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
    logits_BV = draw.filter(logits_BV[:, : latent.vocabulary])
    drawn_B = _sampling.draw(_sampling.fold(keys_B, i), logits_BV)
    ids_B = jnp.where(known_BHW[:, row, col], ids_BHW[:, row, col], drawn_B)
    return ids_BHW.at[:, row, col].set(ids_B), None

  return lax.scan(advance, ids_BHW, jnp.arange(height * width))[0]
