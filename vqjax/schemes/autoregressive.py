"""Autoregressive generation: codes step by step in the latent's order, with a cache, or in a window
that slides over a larger grid.
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

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.nn import losses
from vqjax.schemes import Corrupted, Draw, Loss, Network, _sampling


@dataclasses.dataclass(frozen=True)
class Scheme:
  """Next-step prediction in the latent's order: the codes of a step at once, given those of all
  earlier steps. With one code a step the likelihood is the chain rule's; with several it is that of
  a model in which the codes of a step are independent given the steps before (arXiv 2306.05284,
  section 2.2).

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
    """Cross entropy of each code given the steps before, in nats."""
    return _sampling.cross_entropy(prediction[..., : self.latent.size], corrupted)

  def bound(self, key: jax.Array, network: Network, latent_BL: jax.Array) -> jax.Array:
    """-log p of each code given the steps before, in nats [B, L]; exact, and `key` is not used."""
    del key
    return -losses.log_prob(network.full(latent_BL, None)[..., : self.latent.size], latent_BL)

  def plan(self, known_BL: np.ndarray) -> dict[str, Any]:
    """{"prompt": how many leading steps are known in every example}."""
    places_SJ = self.latent.places
    known_S = (np.asarray(known_BL).all(0)[places_SJ] | (places_SJ < 0)).all(1)
    return {"prompt": int(known_S.size if known_S.all() else known_S.argmin())}

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
    """Draws the unknown codes step by step, each given all earlier steps, with `network.start` and
    `network.step`.

    Known codes after an unknown one are kept and shown to the network when their turn comes; the
    draws before them cannot look ahead.

    Args:
      key: one key, or one per example [B].
      network: a causal one on B examples.
      latent_BL, known_BL: int32 and bool.
      draw: of every code; temperature 0 is greedy.
      prompt: promises that so many leading steps are known in every example (see `plan`): they are
        fed without drawing.
      trajectory: return (latent_BL, latent_SBL) with the codes after each of S steps; K, the
        number of codes, stands for "not yet".

    Raises:
      UserError: an option out of range, or a network without `start` and `step`.
    """
    batch, steps = len(latent_BL), self.latent.steps
    checks.whole("prompt", prompt, 0, steps, "the steps of the sequence")
    if network.start is None or network.step is None:
      raise UserError(
        "autoregressive: the network is not causal; choose a causal prior or another scheme."
      )
    keys_B = _sampling.example_keys(key, batch)
    in_steps = lambda x_BL, fill: jnp.moveaxis(self.latent.arrange(x_BL, fill), 1, 0)
    ids_SBJ, known_SBJ = in_steps(latent_BL.astype(jnp.int32), 0), in_steps(known_BL, True)

    def choose(logits_BJK: jax.Array, i: jax.Array | int) -> jax.Array:
      logits_BJK = draw.filter(logits_BJK[..., : self.latent.size])
      drawn_BJ = _sampling.draw(_sampling.fold(keys_B, i), logits_BJK)
      return jnp.where(known_SBJ[i], ids_SBJ[i], drawn_BJ)

    def feed(carry: tuple, i: jax.Array) -> tuple[tuple, None]:
      return _as_carry(network.step(ids_SBJ[i], i, carry[1])), None

    def advance(carry: tuple, i: jax.Array) -> tuple[tuple, jax.Array]:
      ids_BJ = choose(carry[0], i)
      return _as_carry(network.step(ids_BJ, i, carry[1])), ids_BJ

    if prompt == steps:
      drawn_SBJ = ids_SBJ
    else:
      carry = _as_carry(network.start())
      if prompt:
        carry, _ = lax.scan(feed, carry, jnp.arange(prompt))
      (logits_BJK, _), drawn = lax.scan(advance, carry, jnp.arange(prompt, steps - 1))
      # The last step needs none after it: a network has no position to predict there.
      last = choose(logits_BJK, steps - 1)
      drawn_SBJ = jnp.concatenate([ids_SBJ[:prompt], drawn, last[None]])
    out_BL = self.latent.collect(jnp.moveaxis(drawn_SBJ, 0, 1))
    return (out_BL, self._trajectory(out_BL, known_BL)) if trajectory else out_BL

  def _trajectory(self, ids_BL: jax.Array, known_BL: jax.Array) -> jax.Array:
    step_BL = self.latent.collect(
      jnp.broadcast_to(jnp.arange(self.latent.steps)[None, :, None], (1, *self.latent.places.shape))
    )
    done_SL = step_BL <= jnp.arange(self.latent.steps)[:, None]
    return jnp.where(done_SL[:, None] | known_BL[None], ids_BL[None], self.latent.size)

  def window(
    self,
    key: jax.Array,
    full: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    ids_BHW: jax.Array,
    known_BHW: jax.Array,
    draw: Draw = Draw(),
  ) -> jax.Array:
    """Draws a grid larger than the latent's, of one book: a window of codes centred on the next
    one (arXiv 2012.09841, §3.2).

    The window is clipped at the borders, so that it always lies inside the grid. With a window as
    large as the grid this is `sample` without a cache, draw for draw.

    Args:
      key: one key, or one per example [B].
      full: (ids_BL, top, left) -> logits_BLV on one window in raster order, by a causal network;
        `top` and `left` are the window's corner in the grid, for conditions that are cropped
        with it.
      ids_BHW, known_BHW: int32 and bool; known codes are kept.
      draw: of every code.

    Raises:
      UserError: a window of other than two axes or larger than the grid, or `top_k` out of range.
    """
    (batch, height, width), window = ids_BHW.shape, self.latent.grid
    if len(window) != 2:
      raise UserError(f"window: codes of shape {window} have no height and width to slide over.")
    h, w = window
    if h > height or w > width:
      raise UserError(
        f"window: {h} x {w} exceeds the grid of {height} x {width}; ask for at least {h} x {w} "
        "codes."
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
      logits_BV = draw.filter(logits_BV[:, : self.latent.size])
      drawn_B = _sampling.draw(_sampling.fold(keys_B, i), logits_BV)
      ids_B = jnp.where(known_BHW[:, row, col], ids_BHW[:, row, col], drawn_B)
      return ids_BHW.at[:, row, col].set(ids_B), None

    return lax.scan(advance, ids_BHW, jnp.arange(height * width))[0]


def _as_carry(logits_and_cache: tuple[jax.Array, object]) -> tuple[jax.Array, object]:
  return logits_and_cache[0].astype(jnp.float32), logits_and_cache[1]
