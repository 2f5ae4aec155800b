"""Codes and logits: keys per example, temperature, top-k and top-p without a sort, Gumbel-max,
log-probabilities.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from vqjax.errors import UserError

_RADIX_BITS = 2  # bits of the threshold settled per pass; 30 in all, since float32 values in [0, 1] need no more


def check_options(
  num_codes: int,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
  steps: int | None = None,
) -> None:
  """Raises UserError for sampling options out of range."""
  if not 0 <= temperature < math.inf:
    raise UserError(
      f"temperature: {temperature} is no number from 0 up; use 0 for greedy or a positive value."
    )
  if top_k is not None and not 1 <= top_k <= num_codes:
    raise UserError(
      f"top_k: {top_k} is outside 1 to {num_codes}, the number of codes; leave it out to keep all."
    )
  if top_p is not None and not 0 < top_p <= 1:
    raise UserError(f"top_p: {top_p} is outside (0, 1]; leave it out to keep all.")
  if steps is not None and steps < 1:
    raise UserError(f"steps: {steps} is too few; use at least 1.")


def example_keys(key: jax.Array, batch: int) -> jax.Array:
  """One threefry key per example, [batch]: one key with the example's index folded in, or a key
  array [batch] as it is.

  Example b then draws the same whatever the batch size, and permuting keys and inputs permutes the
  samples. Keys of other kinds are converted, because an rbg key cannot be mapped over: under vmap
  all examples share one stream.
  """
  keys = jax.random.wrap_key_data(jax.random.key_data(key)[..., :2], impl="threefry2x32")
  if keys.ndim == 0:
    return jax.vmap(jax.random.fold_in, (None, 0))(keys, jnp.arange(batch))
  if keys.shape != (batch,):
    raise ValueError(
      f"key: of shape {keys.shape}; expected one key, or one for each of the {batch} examples."
    )
  return keys


def fold(keys_B: jax.Array, index: jax.Array | int) -> jax.Array:
  """Folds one number into the key of every example."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys_B, index)


def gumbel(keys_B: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Standard Gumbel noise, float32 [B, *shape]."""
  return jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys_B)


def filter_logits(
  logits: jax.Array, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> jax.Array:
  """Float32 logits [..., V] after temperature, then top-k, then top-p; -inf where a code is ruled
  out.

  Args:
    logits: [..., V], of any float type.
    temperature: divides the logits; 0 leaves the most probable code alone (the first of equals).
    top_k: keep the k most probable codes; those equal to the last one kept stay too.
    top_p: keep the smallest set of most probable codes whose probabilities add up to at least this
      (arXiv 1904.09751); again with all equals of the last. The probabilities are those after
      temperature and top-k.
  """
  logits = logits.astype(jnp.float32)
  if temperature == 0:
    best = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=bool)
    return jnp.where(best, 0.0, -jnp.inf)
  logits = logits / temperature
  if top_k is not None and top_k < logits.shape[-1]:
    relative = jnp.exp(logits - jnp.max(logits, -1, keepdims=True))
    logits = jnp.where(_heaviest(relative, jnp.ones_like(relative), top_k), logits, -jnp.inf)
  if top_p is not None and top_p < 1:
    probs = jax.nn.softmax(logits)
    logits = jnp.where(_heaviest(probs, probs, top_p), logits, -jnp.inf)
  return logits


def draw(keys_B: jax.Array, logits: jax.Array) -> jax.Array:
  """Draws int32 [B, ...] from filtered logits [B, ..., V], one key per example."""
  return jnp.argmax(logits + gumbel(keys_B, logits.shape[1:]), -1).astype(jnp.int32)


def log_prob(logits_BLV: jax.Array, ids_BL: jax.Array) -> jax.Array:
  """Log-probability in nats of each code, float32 [B, L]."""
  log_probs = jax.nn.log_softmax(logits_BLV.astype(jnp.float32))
  return jnp.take_along_axis(log_probs, ids_BL[..., None], -1)[..., 0]


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
