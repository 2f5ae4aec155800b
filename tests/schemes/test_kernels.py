"""The divergence of discrete diffusion against arrays over all codes, and what it keeps."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.latents import Codes
from vqjax.schemes import _kernels, diffusion

KERNELS = ["uniform", "absorbing", "mask_and_replace"]


def dense_divergence(logits_BLK, ids_BL, targets_BL, table_B):
  """KL of the posteriors as sums over arrays [B, L, K + 1] (VQ-Diffusion, eq. 11)."""
  early, step, late = jax.tree.map(lambda x: x[:, None, None], table_B)
  codes = logits_BLK.shape[-1]
  here, masked = jax.nn.one_hot(ids_BL, codes), ids_BL[..., None] == codes

  def posterior(probs):
    likelihood = late.keep * here + late.noise / codes
    ratio = jnp.where(likelihood > 0, probs, 0.0) / jnp.maximum(likelihood, 1e-300)
    backward = early.keep * ratio + early.noise / codes * ratio.sum(-1, keepdims=True)
    from_code = (step.keep * here + step.noise / codes) * backward
    from_code = from_code / jnp.maximum(from_code.sum(-1, keepdims=True), 1e-300)
    late_mask = jnp.maximum(late.mask, 1e-300)
    from_mask = step.mask / late_mask * (early.keep * probs + early.noise / codes)
    back = jnp.where(masked, from_mask, from_code)
    return jnp.concatenate([back, jnp.where(masked, early.mask / late_mask, 0.0)], -1)

  true = posterior(jax.nn.one_hot(targets_BL, codes))
  model = posterior(jax.nn.softmax(logits_BLK))
  ratio = jnp.where(true > 0, jnp.log(jnp.where(true > 0, true, 1)) - jnp.log(model + 1e-300), 0)
  return (true * ratio).sum(-1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_divergence_is_the_dense_one_with_its_gradient(kernel):
  """At every time, the first and the last included, for every pair of a code and what became of
  it; float32 beside float64. It reads a table: test_diffusion.py has those of all schedules.
  """
  codes, timesteps = 5, 6
  scheme = diffusion.Scheme(Codes((4,), codes), kernel, "linear", timesteps)
  table = scheme._transitions(np.arange(timesteps + 1))
  pairs = list(itertools.product(range(codes + 1), range(codes)))
  if kernel != "mask_and_replace":  # only what the kernel can do
    possible = lambda w, y: w < codes if kernel == "uniform" else w == codes
    pairs = [pair for pair in pairs if possible(*pair)]
  x_t, x_0 = np.broadcast_to(np.transpose(pairs)[:, None], (2, timesteps, len(pairs)))
  rng = np.random.default_rng(0)
  logits = 4 * rng.standard_normal((*x_t.shape, codes))
  weights = rng.standard_normal(x_t.shape)

  @functools.partial(jax.jit, static_argnums=0)
  def both(divergence, logits, table):
    values, back = jax.vjp(lambda x: divergence(x, x_t, x_0, table), logits)
    return values, back(weights.astype(logits.dtype))[0]

  ours = both(_kernels.divergence, jnp.float32(logits), table)
  with jax.enable_x64(True):
    exact = both(dense_divergence, logits, jax.tree.map(lambda x: np.asarray(x, np.float64), table))
  for mine, true in zip(ours, exact):
    np.testing.assert_allclose(mine, true, rtol=1e-5, atol=2e-5)


def test_divergence_keeps_the_logits_and_nothing_else_of_their_size():
  scheme = diffusion.Scheme(Codes((4,), 64))
  ids = jax.ShapeDtypeStruct((2, 4), "int32")

  def loss(logits, ids, t):
    shown = scheme._corrupt_at(jax.random.key(0), ids, t)
    return scheme.loss(logits, shown)[0].sum()

  given = jax.ShapeDtypeStruct((2, 4, 64), "float32"), ids, jax.ShapeDtypeStruct((2,), "int32")
  kept = jax.eval_shape(lambda x, *more: jax.vjp(lambda x: loss(x, *more), x)[1], *given)
  large = [x for x in jax.tree.leaves(kept) if x.size >= 2 * 4 * 64]
  assert len(large) == 1
