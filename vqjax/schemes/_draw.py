"""How freely codes are drawn: temperature, then top-k, then top-p, without a sort."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vqjax import checks
from vqjax.errors import UserError
from vqjax.schemes._options import traced

_COLDEST = 1e-6  # what logits are divided by: the quotients stay finite
_RADIX_BITS = 2  # of the threshold, per pass; 30 in all: float32 values in [0, 1] need no more


# What users may say of it.
OPTIONS = {"temperature": float, "top_k": int, "top_p": float}


@traced(temperature=0, top_p=1)
@dataclasses.dataclass(frozen=True)
class Draw:
  """How a code is drawn from its logits; a pytree of its numbers, see `traced`.

  Fields:
    temperature: divides the logits; 0 takes the most probable code (the first of equals).
    top_k: keep the k most probable codes; those equal to the last one kept stay too.
    top_p: in (0, 1]; keep the smallest set of most probable codes whose probabilities add up to at
      least this (arXiv 1904.09751), again with all equals of the last. The probabilities are those
      after temperature and top-k.

  Raises UserError for a value out of range or of another type.
  """

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None

  @classmethod
  def taken(cls, options: dict[str, Any]) -> Draw:
    """As users say it, taken out of `options`."""
    return cls(**{name: options.pop(name) for name in OPTIONS if name in options})

  def __post_init__(self) -> None:
    if not checks.is_real(heat := self.temperature) or not (
      heat == 0 or _COLDEST <= heat < math.inf
    ):
      raise UserError(
        f"temperature: {heat!r} is neither 0, for greedy, nor a number from {_COLDEST:g} up."
      )
    if self.top_k is not None and not (checks.is_whole(self.top_k) and self.top_k >= 1):
      raise UserError(
        f"top_k: {self.top_k!r} is no whole number from 1 up; leave it out to keep all."
      )
    if self.top_p is not None and not (checks.is_real(self.top_p) and 0 < self.top_p <= 1):
      raise UserError(f"top_p: {self.top_p!r} is outside (0, 1]; leave it out to keep all.")

  def filter(self, logits: jax.Array) -> jax.Array:
    """Float32 logits [..., V] of what may be drawn; -inf where a code is ruled out.

    Args:
      logits: [..., V], of any float type.

    Raises:
      UserError: `top_k` exceeds V.
    """
    codes = logits.shape[-1]
    if self.top_k is not None and self.top_k > codes:
      raise UserError(
        f"top_k: {self.top_k} is outside 1 to {codes}, the number of codes; leave it out to keep "
        "all."
      )
    logits = logits.astype(jnp.float32)
    if checks.is_real(self.temperature) and self.temperature == 0:
      best = jax.nn.one_hot(jnp.argmax(logits, -1), codes, dtype=bool)
      return jnp.where(best, 0.0, -jnp.inf)
    logits = logits / self.temperature
    if self.top_k is not None and self.top_k < codes:
      relative = jnp.exp(logits - jnp.max(logits, -1, keepdims=True))
      logits = jnp.where(_heaviest(relative, jnp.ones_like(relative), self.top_k), logits, -jnp.inf)
    if self.top_p is not None and not (checks.is_real(self.top_p) and self.top_p == 1):
      probs = jax.nn.softmax(logits)
      logits = jnp.where(_heaviest(probs, probs, self.top_p), logits, -jnp.inf)
    return logits


def _heaviest(values: jax.Array, weights: jax.Array, target: float) -> jax.Array:
  """Mask [..., V] of the largest `values` in [0, 1], down to the largest threshold that holds
  `target` of weight.

  The threshold is found in the bits of the float32, which order non-negative floats as integers: a
  few passes of compare-and-sum, where a sort of the vocabulary (and lax.top_k, which sorts on most
  backends) takes ten times longer.
  """
  bits = lax.bitcast_convert_type(values, jnp.int32)

  def settle(i: jax.Array, floor: jax.Array) -> jax.Array:
    shift = 30 - _RADIX_BITS * (i + 1)
    trials = floor[..., None] + (jnp.arange(1, 2**_RADIX_BITS) << shift).reshape(
      (1,) * floor.ndim + (-1,)
    )
    held = jnp.sum(
      jnp.where(bits[..., None, :] >= trials[..., None], weights[..., None, :], 0.0), -1
    )
    return floor + (jnp.sum(held >= target, -1).astype(jnp.int32) << shift)

  floor = lax.fori_loop(0, 30 // _RADIX_BITS, settle, jnp.zeros(values.shape[:-1], jnp.int32))
  return bits >= floor[..., None]
