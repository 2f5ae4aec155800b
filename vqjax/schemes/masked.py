"""Masked generation (MaskGIT, arXiv 2202.04200): predict hidden codes from visible ones, sample
many in parallel.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from vqjax import fields
from vqjax.errors import UserError
from vqjax.schemes import IMPOSSIBLE, Corrupted, Network, _sampling

# Share of codes that is hidden, by the share of the way gone: 1 at 0, 0 at 1 (§3.3; concave ones
# reveal few at first).
_SCHEDULES = {
  "cosine": lambda u: jnp.cos(0.5 * jnp.pi * u),
  "linear": lambda u: 1 - u,
  "square": lambda u: 1 - u**2,
  "cubic": lambda u: 1 - u**3,
  "sqrt": lambda u: 1 - u**0.5,
}


@dataclasses.dataclass(frozen=True)
class Scheme:
  """Hidden codes are shown as the id `num_codes`; the loss is over them alone.

  Fields:
    schedule: share hidden as a function of a uniform number in training, of the share of steps done
      in sampling.
    label_smoothing: in [0, 1); the paper trains with 0.1. The loss is in nats of plain cross
      entropy only at 0.
  """

  num_codes: int = fields.program()
  schedule: Literal["cosine", "linear", "square", "cubic", "sqrt"] = "cosine"
  label_smoothing: float = 0.1
  extra_ids: ClassVar[int] = 1
  causal: ClassVar[bool] = False
  timed: ClassVar[bool] = False

  def __post_init__(self) -> None:
    if not 0 <= self.label_smoothing < 1:
      raise UserError(f"label_smoothing: {self.label_smoothing} is outside [0, 1).")

  def corrupt(self, key: jax.Array, ids_BL: jax.Array) -> Corrupted:
    """Hides ⌈schedule(u)·L⌉ codes of each example, at least one, at random places; u is uniform."""
    share_key, place_key = jax.random.split(key)
    batch, length = ids_BL.shape
    share_B = _SCHEDULES[self.schedule](jax.random.uniform(share_key, (batch,)))
    count_B = jnp.clip(jnp.ceil(share_B * length), 1, length)
    hidden_BL = _hide(jax.random.uniform(place_key, (batch, length)), count_B)
    return Corrupted(
      jnp.where(hidden_BL, self.num_codes, ids_BL), ids_BL, hidden_BL.astype(jnp.float32)
    )

  def loss(self, logits_BLV: jax.Array, corrupted: Corrupted) -> tuple[jax.Array, jax.Array]:
    """Cross entropy with label smoothing: nats [B, L], weights [B, L] that are 1 where a code was
    hidden.
    """
    logits_BLK = logits_BLV[..., : self.num_codes].astype(jnp.float32)
    nats = -_sampling.log_prob(logits_BLK, corrupted.targets_BL)
    # Over the codes that can stand there: of several codebooks each position has one.
    uniform_nats = -jnp.mean(
      jax.nn.log_softmax(logits_BLK), -1, where=logits_BLK > 0.1 * IMPOSSIBLE
    )
    return (
      1 - self.label_smoothing
    ) * nats + self.label_smoothing * uniform_nats, corrupted.weights_BL

  def bound(self, key: jax.Array, network: Network, ids_BL: jax.Array) -> jax.Array:
    """A one-draw estimate of nats [B, L] whose mean over keys bounds -log p in total.

    It is the order-agnostic bound (arXiv 2110.02037, eq. 5): codes revealed one by one in random
    order. With n of L hidden, n uniform, the hidden ones count L / n times.
    """
    count_key, place_key = jax.random.split(key)
    batch, length = ids_BL.shape
    # Stratified over the batch: evenly spaced counts after one common shift have far less variance.
    shift = jax.random.uniform(count_key) + jnp.arange(batch) / batch
    count_B = 1 + jnp.floor((shift % 1) * length).astype(jnp.int32)
    hidden_BL = _hide(jax.random.uniform(place_key, (batch, length)), count_B)
    logits = network.full(jnp.where(hidden_BL, self.num_codes, ids_BL), count_B / length)[
      ..., : self.num_codes
    ]
    return jnp.where(
      hidden_BL, -_sampling.log_prob(logits, ids_BL) * (length / count_B)[:, None], 0.0
    )

  def sample(
    self,
    key: jax.Array,
    network: Network,
    ids_BL: jax.Array,
    known_BL: jax.Array,
    *,
    steps: int = 12,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    choice_temperature: float = 4.5,
    trajectory: bool = False,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Draws all hidden codes at every step and keeps the most confident, as many as the schedule
    says (§3.2).

    At least one code is kept per step, so `steps` beyond the number of unknown codes change
    nothing; with as many, and a concave or linear schedule, each step keeps exactly one.

    Args:
      key: one key, or one per example [B].
      network: `full` is called with the share of steps still to go as `time_B`.
      ids_BL, known_BL: int32 and bool; known codes are never drawn again.
      steps: number of network calls.
      temperature, top_k, top_p: of the draws, see `filter_logits`.
      choice_temperature: of the Gumbel noise on the log-probability by which codes are kept,
        annealed linearly to 0; infinite means a random order.
      trajectory: return (ids_BL, ids_SBL) with the ids after each step; `num_codes` stands for
        "hidden".

    Raises:
      UserError: an option out of range.
    """
    _sampling.check_options(self.num_codes, temperature, top_k, top_p, steps)
    if not choice_temperature >= 0:
      raise UserError(f"choice_temperature: {choice_temperature} is negative; use 0 or more.")
    batch = ids_BL.shape[0]
    keys_B = _sampling.example_keys(key, batch)
    unknown_B = jnp.sum(~known_BL, -1)

    def advance(ids_BL: jax.Array, step: tuple) -> tuple[jax.Array, jax.Array]:
      i, to_go, share = step
      hidden_BL = ids_BL == self.num_codes
      draw_keys, choice_keys = _sampling.fold(keys_B, 2 * i), _sampling.fold(keys_B, 2 * i + 1)
      logits = network.full(ids_BL, jnp.full((batch,), to_go))[..., : self.num_codes]
      drawn_BL = _sampling.draw(
        draw_keys, _sampling.filter_logits(logits, temperature, top_k, top_p)
      )
      confidence = _sampling.log_prob(logits, drawn_BL)
      noise = _sampling.gumbel(choice_keys, confidence.shape[1:])
      if math.isinf(choice_temperature):
        confidence = noise
      else:
        confidence = confidence + choice_temperature * (to_go - 1 / steps) * noise
      # The margin undoes float32 rounding: a share of 1/3 of 3 codes must not floor to 0.
      stay_B = jnp.minimum(
        jnp.floor(share * unknown_B + 1e-4).astype(jnp.int32), jnp.sum(hidden_BL, -1) - 1
      )
      stay_BL = _hide(jnp.where(hidden_BL, confidence, jnp.inf), stay_B)
      ids_BL = jnp.where(hidden_BL & ~stay_BL, drawn_BL, ids_BL)
      return ids_BL, ids_BL if trajectory else None

    done = jnp.arange(steps + 1) / steps
    start_BL = jnp.where(known_BL, ids_BL, self.num_codes).astype(jnp.int32)
    xs = jnp.arange(steps), 1 - done[:-1], _SCHEDULES[self.schedule](done[1:])
    out_BL, ids_SBL = lax.scan(advance, start_BL, xs)
    return (out_BL, ids_SBL) if trajectory else out_BL


def _hide(score_BL: jax.Array, count_B: jax.Array) -> jax.Array:
  """Mask of the `count_B` lowest scores of each row."""
  rank_BL = jnp.argsort(jnp.argsort(score_BL, -1), -1)
  return rank_BL < count_B[:, None]
