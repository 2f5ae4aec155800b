"""Binary codes: ids to signs and back, and the entropy terms of lookup-free quantizers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks
from vqjax.errors import UserError
from vqjax.nn import codebook


def check_bits(module: Any) -> None:
  """Raises UserError where the fields that quantizers of bits share do not fit."""
  if not 1 <= module.dim <= 30:
    raise UserError(
      f"dim: {module.dim} bits do not make int32 ids; take 1 to 30, for more 'grouped'."
    )
  checks.within(module, "commitment_weight", "entropy_weight", "diversity", at_least=0)
  checks.within(module, "temperature", above=0)
  checks.within(module, "group_bits", at_least=1, at_most=20)


def ids_from_signs(z: jax.Array) -> jax.Array:
  """Ids int32 [...] of the signs of z [..., D]; the first channel is the most significant bit, zero
  counts as minus.
  """
  weights = 2 ** jnp.arange(z.shape[-1] - 1, -1, -1, dtype=jnp.int32)
  return jnp.sum((z > 0).astype(jnp.int32) * jnp.expand_dims(weights, range(z.ndim - 1)), axis=-1)


def signs_from_ids(ids: jax.Array, dim: int) -> jax.Array:
  """Codes ±1, float32 [..., D], of ids [...]."""
  shifts = jnp.expand_dims(jnp.arange(dim - 1, -1, -1, dtype=jnp.int32), range(ids.ndim))
  return ((ids[..., None] >> shifts) & 1).astype(jnp.float32) * 2.0 - 1.0


def entropy_terms(
  z_ND: jax.Array, scale: float, temperature: float, group_bits: int
) -> tuple[jax.Array, jax.Array]:
  """Mean entropy of p(code | position) and entropy of the mean p, over all codes of D bits valued
  ±scale.

  p = softmax(2 z·code / temperature) is a product of independent bits, so the first term is a sum
  over channels and always exact. The second is exact where D <= group_bits; beyond, the bits are
  cut into groups of at most that many, taken as independent (an upper bound: arXiv 2406.07548, eq.
  10, has groups of one bit).
  """
  log_odds_ND = 4.0 * scale / temperature * z_ND
  p_ND = jax.nn.sigmoid(log_odds_ND)
  per_bit_ND = p_ND * jax.nn.softplus(-log_odds_ND) + (1.0 - p_ND) * jax.nn.softplus(log_odds_ND)
  per_position = jnp.mean(jnp.sum(per_bit_ND, axis=-1))
  dim = z_ND.shape[-1]
  groups = np.array_split(np.arange(dim), -(-dim // group_bits))
  return per_position, sum(_mean_code_entropy(log_odds_ND[:, g[0] : g[-1] + 1]) for g in groups)


def quantize(
  module: Any, z_ND: jax.Array, scale: float, entropy_weight: float
) -> tuple[jax.Array, jax.Array, jax.Array, dict[str, jax.Array]]:
  """Signs of z times `scale`, with the straight-through gradient.

  `module` gives commitment_weight, diversity, temperature and group_bits.

  Returns:
    Codes [N, D], their ids [N], the weighted sum of commitment and entropy terms, and the terms.
  """
  q_ND = jnp.where(z_ND > 0, scale, -scale)
  per_position, of_mean = entropy_terms(z_ND, scale, module.temperature, module.group_bits)
  commitment = codebook.squared_error(q_ND, z_ND)
  penalty = per_position - module.diversity * of_mean
  loss = module.commitment_weight * commitment + entropy_weight * penalty
  terms = {"commitment": commitment, "position_entropy": per_position, "batch_entropy": of_mean}
  return codebook.straight_through(z_ND, q_ND), ids_from_signs(z_ND), loss, terms


def _mean_code_entropy(log_odds_ND: jax.Array) -> jax.Array:
  dim = log_odds_ND.shape[-1]
  signs_KD = signs_from_ids(jnp.arange(2**dim), dim)
  logits = lambda odds_TD: codebook.dot("td,kd->tk", odds_TD, 0.5 * signs_KD)
  return codebook.entropy(codebook.mean_probabilities(logits, log_odds_ND, 2**dim)[1])
