"""Transition kernels of discrete diffusion in closed form: three numbers per time instead of
matrices.

All kernels are one family (D3PM, arXiv 2107.03006; VQ-Diffusion, arXiv 2111.14822, eq. 7-8). From
one time to a later one a code stays with probability `keep`, is drawn anew from all K codes with
`noise`, becomes the mask with `mask`; the three add up to 1, and the mask
stays the mask. Two kernels in a row give a kernel of the same family.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Kernel = Literal["uniform", "absorbing", "mask_and_replace"]
Schedule = Literal["linear", "cosine"]

_TINY = 1e-30  # below any probability that matters, above float32's underflow


class Rates(NamedTuple):
  """keep, noise, mask of a kernel, float32; scalars or [B]."""

  keep: jax.Array
  noise: jax.Array
  mask: jax.Array


class Transition(NamedTuple):
  """Everything about going between an earlier time s and a later time t: 0 to s, s to t, and 0 to
  t.
  """

  early: Rates
  step: Rates
  late: Rates

  def at(self, index: jax.Array) -> Transition:
    """The transitions at `index`, where the fields are tables."""
    return jax.tree.map(lambda table: table[index], self)


def transitions(
  times: np.ndarray, timesteps: int, schedule: Schedule, mask_share: float
) -> Transition:
  """Tables [S] of the transitions between neighbours of `times` (increasing, S + 1 integers from 0
  to timesteps).

  The share kept from 0 to t is 1 - t/T ("linear": D3PM's absorbing and VQ-Diffusion's schedule) or
  cos(π/2 · t/T) ("cosine": D3PM's uniform schedule without its offset); of the rest, `mask_share`
  is masked and the others are drawn anew. At T nothing is kept, so the prior over x_T is exact.
  """
  u = times / timesteps
  keep = {"linear": 1 - u, "cosine": np.cos(0.5 * np.pi * u)}[schedule]
  keep = np.where(times == timesteps, 0.0, keep)
  lost = 1 - keep
  mask, noise = mask_share * lost, (1 - mask_share) * lost
  # Float64, and differences of what was lost: early times lose little, and 1 - keep would cancel.
  step_keep = keep[1:] / keep[:-1]
  step_mask = (mask[1:] - mask[:-1]) / (1 - mask[:-1])
  # Never negative but by rounding: exactly 0 matters for the absorbing kernel.
  step_noise = np.zeros_like(step_keep) if mask_share == 1 else 1 - step_keep - step_mask
  tables = (
    (keep[:-1], noise[:-1], mask[:-1]),
    (step_keep, step_noise, step_mask),
    (keep[1:], noise[1:], mask[1:]),
  )
  return Transition(*(Rates(*(jnp.asarray(x, jnp.float32) for x in rates)) for rates in tables))


def corrupt(key: jax.Array, ids_BL: jax.Array, rates_B: Rates, codes: int) -> jax.Array:
  """Draws x_t given x_0, int32 [B, L]; the mask is `codes`, the number of codes."""
  chance_key, noise_key = jax.random.split(key)
  chance = jax.random.uniform(chance_key, ids_BL.shape)
  noise = jax.random.randint(noise_key, ids_BL.shape, 0, codes)
  keep, mask = rates_B.keep[:, None], rates_B.mask[:, None]
  other = jnp.where(chance < keep + mask, codes, noise)
  return jnp.where(chance < keep, ids_BL, other).astype(jnp.int32)


def prior(mask_share: float, codes: int) -> jax.Array:
  """Distribution of x_T at a position, float32 [K + 1]; the last entry is the mask."""
  return jnp.full((codes + 1,), (1 - mask_share) / codes, jnp.float32).at[-1].set(mask_share)


def posterior(ids_BL: jax.Array, probs_BLK: jax.Array, transition_B: Transition) -> jax.Array:
  """Distribution of x_s given x_t and beliefs about x_0, float32 [B, L, K + 1]; the last entry is
  the mask.

  It is the sum over x_0 of q(x_s | x_t, x_0) · probs(x_0) (VQ-Diffusion, eq. 11), in O(K). With u
  the uniform distribution over the codes, and for a code x_t = w with r = probs /
  q(x_t = w | x_0), the sum at x_s = v is (keep·[v = w] + noise·u(v)) · (keep_s·r(v) + noise_s·u(v)
  · sum r). One-hot `probs` give the exact posterior of a known x_0; the true p(x_0 | x_t) gives the
  true p(x_s | x_t).

  Args:
    ids_BL: x_t, codes 0 .. K - 1 or the mask K.
    probs_BLK: beliefs about x_0, each row adding up to 1.
    transition_B: rates of shape [B], with early.keep > 0.
  """
  early, step, late = jax.tree.map(lambda x: x[:, None, None], transition_B)
  codes = probs_BLK.shape[-1]
  here = jax.nn.one_hot(ids_BL, codes)
  uniform = 1 / jnp.float32(codes)

  likelihood = late.keep * here + late.noise * uniform
  # Impossible x_0 (a visible code under the absorbing kernel rules out all others) drop out.
  ratio = jnp.where(likelihood > 0, probs_BLK, 0.0) / jnp.maximum(likelihood, _TINY)
  backward = early.keep * ratio + early.noise * uniform * jnp.sum(ratio, -1, keepdims=True)
  from_code = (step.keep * here + step.noise * uniform) * backward
  from_code = from_code / jnp.maximum(jnp.sum(from_code, -1, keepdims=True), _TINY)

  late_mask = jnp.maximum(late.mask, _TINY)
  from_mask = step.mask / late_mask * (early.keep * probs_BLK + early.noise * uniform)
  masked = ids_BL[..., None] == codes
  back = jnp.where(masked, from_mask, from_code)
  return jnp.concatenate([back, jnp.where(masked, early.mask / late_mask, 0.0)], -1)


def divergence(true: jax.Array, model: jax.Array) -> jax.Array:
  """KL(true || model) in nats over the last axis; 0 · log 0 is 0."""
  log_ratio = jnp.log(jnp.maximum(true, _TINY)) - jnp.log(jnp.maximum(model, _TINY))
  return jnp.sum(jnp.where(true > 0, true * log_ratio, 0.0), -1)
