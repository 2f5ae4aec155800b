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

from vqjax.nn import losses

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


def reverse(logits_BLK: jax.Array, ids_BL: jax.Array, transition_B: Transition) -> jax.Array:
  """Log-probabilities of x_s given x_t and beliefs about x_0, float32 [B, L, K + 1]; the last entry
  is the mask.

  They are those of the sum over x_0 of q(x_s | x_t, x_0) · p(x_0) (VQ-Diffusion, eq. 11), in O(K):
  with u = 1/K and r(v) = p(v) / q(x_t | x_0 = v), the code v has

    q(x_t | x_s = v) · (early.keep · r(v) + early.noise · u · sum r)

  where each q is one number for x_t's own code and another for all the rest. The true p(x_0 | x_t)
  gives the true p(x_s | x_t).

  Args:
    logits_BLK: of the beliefs about x_0, in any scale; -inf rules a code out.
    ids_BL: x_t, codes 0 .. K - 1 or the mask K. Under the absorbing kernel a visible code stays
      where it is and is none of these.
    transition_B: rates of shape [B], with early.keep > 0.
  """
  codes = logits_BLK.shape[-1]
  _, log_sum_BL = sums = _sums(logits_BLK, ids_BL, transition_B)
  _, log_mixture_BLK = _mixture(logits_BLK, ids_BL, transition_B, *sums)
  last_BLK = _spread(logits_BLK, ids_BL, *_chances(ids_BL, transition_B.step, codes))
  log_mask_BL = jnp.log(transition_B.early.mask)[:, None] + log_sum_BL
  log_mask_BL = jnp.where(ids_BL == codes, log_mask_BL, -jnp.inf)
  return jnp.concatenate([jnp.log(last_BLK) + log_mixture_BLK, log_mask_BL[..., None]], -1)


@jax.custom_vjp
def divergence(
  logits_BLK: jax.Array, ids_BL: jax.Array, targets_BL: jax.Array, transition_B: Transition
) -> jax.Array:
  """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats, float32 [B, L]; p as in `reverse`.

  Of q(x_s | x_t, x_0) all codes but x_t and x_0 have one probability, and q(x_t | x_s) is in both
  and drops out: the sum over K is one of logarithms of `reverse`'s parenthesis. So nothing as large
  as the logits is kept beside them; their gradient, with T the posterior, G and 1 - G the shares of
  the parenthesis's two terms in it, is

    p(v) · sum T - r(v) / sum r · sum T (1 - G) - T(v) G(v)

  Args:
    logits_BLK, ids_BL, transition_B: as for `reverse`.
    targets_BL: x_0.
  """
  return _divergence_fwd(logits_BLK, ids_BL, targets_BL, transition_B)[0]


def _divergence_fwd(logits_BLK, ids_BL, targets_BL, transition_B):
  given = logits_BLK, ids_BL, targets_BL, transition_B
  sums = _sums(logits_BLK, ids_BL, transition_B)
  _, log_mixture_BLK = _mixture(logits_BLK, ids_BL, transition_B, *sums)
  true_BLK, log_true_BLK = _truth(*given)
  nats_BLK = jnp.where(true_BLK > 0, true_BLK * (log_true_BLK - log_mixture_BLK), 0.0)
  drawn_BL = jnp.log(transition_B.early.noise / logits_BLK.shape[-1])[:, None] + sums[1]
  drawn_BLK = true_BLK * jnp.exp(drawn_BL[..., None] - log_mixture_BLK)
  return nats_BLK.sum(-1), (given, sums, true_BLK.sum(-1), drawn_BLK.sum(-1))


def _divergence_bwd(saved, g_BL):
  given, (total_BL, log_sum_BL), true_BL, drawn_BL = saved
  logits_BLK, ids_BL, _, transition_B = given
  log_ratio_BLK, log_mixture_BLK = _mixture(logits_BLK, ids_BL, transition_B, total_BL, log_sum_BL)
  log_keep = jnp.log(transition_B.early.keep)[:, None, None]
  grad_BLK = jnp.exp(logits_BLK - total_BL[..., None]) * true_BL[..., None]
  grad_BLK -= jnp.exp(log_ratio_BLK - log_sum_BL[..., None]) * drawn_BL[..., None]
  grad_BLK -= _truth(*given)[0] * jnp.exp(log_keep + log_ratio_BLK - log_mixture_BLK)
  return g_BL[..., None] * grad_BLK, None, None, None


divergence.defvjp(_divergence_fwd, _divergence_bwd)


def _chances(ids_BL: jax.Array, rates_B: Rates, codes: int) -> tuple[jax.Array, jax.Array]:
  """Chances [B, L] of becoming x_t, of its own code and of any other one."""
  keep, noise, mask = (x[:, None] for x in (rates_B.keep, rates_B.noise / codes, rates_B.mask))
  masked = ids_BL == codes
  return jnp.where(masked, mask, keep + noise), jnp.where(masked, mask, noise)


def _spread(
  logits_BLK: jax.Array, ids_BL: jax.Array, own_BL: jax.Array, other_BL: jax.Array
) -> jax.Array:
  """[B, L, K]: `own` at the code `ids`, `other` at the rest."""
  is_own = losses.is_code(ids_BL, logits_BLK)
  return jnp.where(is_own, own_BL[..., None], other_BL[..., None])


def _log_chances(ids_BL: jax.Array, rates_B: Rates, codes: int) -> list[jax.Array]:
  # What cannot be divides nothing: it gets a weight that a product with 0 takes away.
  return [jnp.log(jnp.maximum(x, _TINY)) for x in _chances(ids_BL, rates_B, codes)]


def _sums(
  logits_BLK: jax.Array, ids_BL: jax.Array, transition_B: Transition
) -> tuple[jax.Array, jax.Array]:
  """(log of the sum of exp(logits), log of sum r), [B, L]."""
  own_BL, other_BL = _log_chances(ids_BL, transition_B.late, logits_BLK.shape[-1])
  is_own = losses.is_code(ids_BL, logits_BLK)
  # x_t's own apart: the others may be as good as certain, or what is left of one less almost one.
  here_BL = jnp.max(jnp.where(is_own, logits_BLK, -jnp.inf), -1)
  rest_BL = jax.nn.logsumexp(jnp.where(is_own, -jnp.inf, logits_BLK), -1)
  total_BL = jnp.logaddexp(here_BL, rest_BL)
  return total_BL, jnp.logaddexp(here_BL - own_BL, rest_BL - other_BL) - total_BL


def _mixture(
  logits_BLK: jax.Array,
  ids_BL: jax.Array,
  transition_B: Transition,
  total_BL: jax.Array,
  log_sum_BL: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """(log r, log of early.keep · r + early.noise · u · sum r), [B, L, K]."""
  codes, early = logits_BLK.shape[-1], transition_B.early
  like_BLK = _spread(logits_BLK, ids_BL, *_log_chances(ids_BL, transition_B.late, codes))
  log_ratio_BLK = logits_BLK - total_BL[..., None] - like_BLK
  drawn_BL = jnp.log(early.noise / codes)[:, None] + log_sum_BL
  kept_BLK = jnp.log(early.keep)[:, None, None] + log_ratio_BLK
  return log_ratio_BLK, jnp.logaddexp(kept_BLK, drawn_BL[..., None])


def _truth(
  logits_BLK: jax.Array, ids_BL: jax.Array, targets_BL: jax.Array, transition_B: Transition
) -> tuple[jax.Array, jax.Array]:
  """(q(x_s | x_t, x_0), log of it without its factor q(x_t | x_s)), [B, L, K] of the codes."""
  codes, early = logits_BLK.shape[-1], transition_B.early
  own_BL, other_BL = _chances(ids_BL, transition_B.late, codes)
  like_BL = jnp.maximum(jnp.where(ids_BL == targets_BL, own_BL, other_BL), _TINY)
  drawn_BL = (early.noise / codes)[:, None] / like_BL
  kept_BL = (early.keep + early.noise / codes)[:, None] / like_BL
  share_BLK = _spread(logits_BLK, targets_BL, kept_BL, drawn_BL)
  log_share_BLK = _spread(logits_BLK, targets_BL, jnp.log(kept_BL), jnp.log(drawn_BL))
  last_BLK = _spread(logits_BLK, ids_BL, *_chances(ids_BL, transition_B.step, codes))
  return last_BLK * share_BLK, log_share_BLK
