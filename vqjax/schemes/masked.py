"""Masked generation (MaskGIT, arXiv 2202.04200): predict hidden codes from visible ones, sample
many in parallel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.nn import losses
from vqjax.schemes import Corrupted, Draw, Loss, Network, _sampling

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
  """Hidden codes are shown as the id K, the number of codes of a book; the loss is over them alone.

  Fields:
    schedule: share hidden as a function of a uniform number in training, of the share of steps done
      in sampling.
    label_smoothing: in [0, 1); the paper trains with 0.1. The loss is in nats of plain cross
      entropy only at 0.
  """

  latent: Codes = fields.program()
  schedule: Literal["cosine", "linear", "square", "cubic", "sqrt"] = "cosine"
  label_smoothing: float = 0.1
  extra_ids: ClassVar[int] = 1
  causal: ClassVar[bool] = False
  timed: ClassVar[bool] = False
  exact: ClassVar[bool] = False
  options: ClassVar[Mapping[str, type]] = {"steps": int, "choice_temperature": float}

  def __post_init__(self) -> None:
    checks.within(self, "label_smoothing", at_least=0, below=1)

  def corrupt(self, key: jax.Array, latent_BL: jax.Array) -> Corrupted:
    """Hides ⌈schedule(u)·L⌉ codes of each example, at least one, at random places; u is uniform."""
    share_key, place_key = jax.random.split(key)
    batch, length = latent_BL.shape
    share_B = _SCHEDULES[self.schedule](jax.random.uniform(share_key, (batch,)))
    count_B = jnp.clip(jnp.ceil(share_B * length), 1, length)
    hidden_BL = _hide(jax.random.uniform(place_key, (batch, length)), count_B)
    inputs_BL = jnp.where(hidden_BL, self._mask, latent_BL)
    return Corrupted(inputs_BL, latent_BL, hidden_BL.astype(jnp.float32))

  @property
  def _mask(self) -> int:
    return self.latent.size

  def loss(self, prediction: jax.Array, corrupted: Corrupted) -> Loss:
    """Cross entropy with label smoothing in nats; what was hidden counts."""
    logits_BLV = prediction[..., : self.latent.size].astype(jnp.float32)
    nats = -losses.log_prob(logits_BLV, corrupted.targets)
    uniform_nats = -jnp.mean(jax.nn.log_softmax(logits_BLV), -1)
    nats = (1 - self.label_smoothing) * nats + self.label_smoothing * uniform_nats
    return Loss(nats, corrupted.weights, _sampling.accuracy(logits_BLV, corrupted.targets))

  def bound(self, key: jax.Array, network: Network, latent_BL: jax.Array) -> jax.Array:
    """A one-draw estimate of nats [B, L] whose mean over keys bounds -log p in total.

    It is the order-agnostic bound (arXiv 2110.02037, eq. 5): codes revealed one by one in random
    order. With n of L hidden, n uniform, the hidden ones count L / n times.
    """
    count_key, place_key = jax.random.split(key)
    batch, length = latent_BL.shape
    # Stratified over the batch: evenly spaced counts after one common shift have far less variance.
    shift = jax.random.uniform(count_key) + jnp.arange(batch) / batch
    count_B = 1 + jnp.floor((shift % 1) * length).astype(jnp.int32)
    hidden_BL = _hide(jax.random.uniform(place_key, (batch, length)), count_B)
    logits_BLV = network.full(jnp.where(hidden_BL, self._mask, latent_BL), None)
    nats_BL = -losses.log_prob(logits_BLV[..., : self.latent.size], latent_BL)
    return jnp.where(hidden_BL, nats_BL * (length / count_B)[:, None], 0.0)

  def sample(
    self,
    key: jax.Array,
    network: Network,
    latent_BL: jax.Array,
    known_BL: jax.Array,
    draw: Draw = Draw(),
    *,
    steps: int = 12,
    choice_temperature: float = 4.5,
    trajectory: bool = False,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Draws all hidden codes at every step and keeps the most confident, as many as the schedule
    says (§3.2).

    At least one code is kept per step: with as many `steps` as unknown codes, or more, and a
    concave or linear schedule, each keeps exactly one until none is left.

    Args:
      key: one key, or one per example [B].
      network: `full` is called with no time.
      latent_BL, known_BL: int32 and bool; known codes are never drawn again.
      draw: of the hidden codes at every step.
      steps: number of network calls.
      choice_temperature: of the Gumbel noise on the log-probability by which codes are kept,
        annealed linearly to 0; infinite means a random order.
      trajectory: return (latent_BL, latent_SBL) with the codes after each step; K stands for
        "hidden".

    Raises:
      UserError: an option out of range.
    """
    checks.whole("steps", steps, 1)
    if not checks.is_real(choice_temperature) or not choice_temperature >= 0:
      raise UserError(f"choice_temperature: {choice_temperature!r} is no number from 0 up.")
    keys_B = _sampling.example_keys(key, latent_BL.shape[0])

    def advance(ids_BL: jax.Array, step: tuple) -> tuple[jax.Array, jax.Array]:
      i, done_B, stay_B = step
      hidden_BL = ids_BL == self._mask
      draw_keys, choice_keys = _sampling.fold(keys_B, 2 * i), _sampling.fold(keys_B, 2 * i + 1)
      logits_BLV = network.full(ids_BL, None, done_B)[..., : self.latent.size]
      drawn_BL = _sampling.draw(draw_keys, draw.filter(logits_BLV))
      confidence = losses.log_prob(logits_BLV, drawn_BL)
      noise = _sampling.gumbel(choice_keys, confidence.shape[1:])
      if math.isinf(choice_temperature):
        confidence = noise
      else:
        confidence = confidence + choice_temperature * (1 - (i + 1) / steps) * noise
      stay_BL = _hide(jnp.where(hidden_BL, confidence, jnp.inf), stay_B)
      ids_BL = jnp.where(hidden_BL & ~stay_BL, drawn_BL, ids_BL)
      return ids_BL, ids_BL if trajectory else None

    start_BL = jnp.where(known_BL, latent_BL, self._mask).astype(jnp.int32)
    stay_SB = self._stay(jnp.sum(~known_BL, -1), steps)
    # Examples with few unknown codes are finished before the last step: their last draw is earlier.
    draws_B = 1 + jnp.sum(stay_SB > 0, 0)
    done_SB = jax.vmap(_sampling.done, (0, None))(jnp.arange(steps), draws_B)
    out_BL, ids_SBL = lax.scan(advance, start_BL, (jnp.arange(steps), done_SB, stay_SB))
    return (out_BL, ids_SBL) if trajectory else out_BL

  def _stay(self, unknown_B: jax.Array, steps: int) -> jax.Array:
    """How many codes stay hidden after each step, int32 [S, B]."""

    def after(hidden_B: jax.Array, share: jax.Array) -> tuple[jax.Array, jax.Array]:
      # The margin undoes float32 rounding: a share of 1/3 of 3 codes must not floor to 0.
      scheduled_B = jnp.floor(share * unknown_B + 1e-4).astype(jnp.int32)
      stay_B = jnp.maximum(jnp.minimum(scheduled_B, hidden_B - 1), 0)
      return stay_B, stay_B

    shares = _SCHEDULES[self.schedule](jnp.arange(1, steps + 1) / steps)
    return lax.scan(after, unknown_B.astype(jnp.int32), shares)[1]


def _hide(score_BL: jax.Array, count_B: jax.Array) -> jax.Array:
  """Mask of the `count_B` lowest scores of each row."""
  rank_BL = jnp.argsort(jnp.argsort(score_BL, -1), -1)
  return rank_BL < count_B[:, None]
