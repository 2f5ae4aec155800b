"""Replacement: shares of replaced codes, and the sampler's Markov chain against enumeration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.schemes import Draw, Network, replace


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_sampler_is_the_enumerated_chain(world, temperature):
  n = 20_000
  table = np.random.default_rng(3).dirichlet(np.ones(3), size=(256, 4))
  sharp = table ** (1 / temperature)
  sharp /= sharp.sum(-1, keepdims=True)
  now = np.full(81, 1 / 81)
  for _ in range(3):
    now = sum(
      p * functools.reduce(np.kron, sharp[world.index(g)]) for p, g in zip(now, world.grids)
    )
  ids = jnp.zeros((n, 4), int)
  network = Network(world.lookup(table))
  sample = jax.jit(
    lambda key: replace.Scheme(world.latent).sample(
      key, network, ids, ids > 0, Draw(temperature), steps=3
    )
  )
  world.check(sample(jax.random.key(0)), now)


def test_corruption_replaces_a_uniform_share_and_a_tenth_more():
  n, length, codes = 3000, 200, 50
  ids = jnp.asarray(np.random.default_rng(0).integers(codes, size=(n, length)))
  out = jax.jit(replace.Scheme(Codes((length,), codes)).corrupt)(jax.random.key(0), ids)
  first = np.asarray(out.targets != ids).mean(-1) / (1 - 1 / codes)
  np.testing.assert_allclose(np.quantile(first, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.04)
  second = np.asarray(out.inputs != out.targets).mean() / (1 - 1 / codes)
  np.testing.assert_allclose(second, 0.1, atol=0.003)
  counts = np.bincount(
    np.asarray(out.inputs)[np.asarray(out.inputs != out.targets)], minlength=codes
  )
  assert counts.min() > 0.85 * counts.mean()


def test_loss_is_the_cross_entropy_of_the_less_noisy_codes():
  ids = jnp.asarray([[0, 1, 2, 3]])
  scheme = replace.Scheme(Codes((4,), 4), extra_share=1.0)
  out = scheme.corrupt(jax.random.key(0), ids)
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4)), jnp.float32)
  probs = np.exp(np.asarray(logits, np.float64))
  probs /= probs.sum(-1, keepdims=True)
  nats, weights, _ = scheme.loss(logits, out)
  np.testing.assert_allclose(
    nats[0], -np.log(probs[0, range(4), np.asarray(out.targets)[0]]), rtol=1e-5
  )
  np.testing.assert_array_equal(weights, np.ones((1, 4)))


def test_errors():
  with pytest.raises(UserError, match="extra_share"):
    replace.Scheme(Codes((4,), 3), extra_share=0.0)
