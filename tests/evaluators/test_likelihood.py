"""Likelihood: figures of known nats, and standard errors that hold the noise of a bound's draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import evaluators
from vqjax.evaluators.likelihood import Measure
from vqjax.latents import Codes
from vqjax.schemes import Network, diffusion, masked


def figures_of(measure, nats_NL, mask_N=None):
  mask = np.ones(len(nats_NL)) if mask_N is None else mask_N
  return measure.result(evaluators.add(None, measure.update((), {}, {"nats": nats_NL}, mask)))


def test_figures_of_known_nats():
  nats_NL = np.random.default_rng(0).gamma(2.0, size=(7, 4)).astype(np.float32)
  padded_NL = np.concatenate([nats_NL, np.full((2, 4), np.nan, np.float32)])
  got = figures_of(Measure(values=48), padded_NL, np.array([1.0] * 7 + [0.0] * 2))
  of_images, bits = nats_NL.sum(1), nats_NL.sum(1) / np.log(2)
  error = lambda x: x.std(ddof=1) / 7**0.5
  expected = {
    "nats_per_code": of_images.mean() / 4,
    "nats_per_code_standard_error": error(of_images / 4),
    "bits_per_image": bits.mean(),
    "bits_per_dim": bits.mean() / 48,
    "bits_per_dim_standard_error": error(bits / 48),
  } | {f"nats_at/{i}": x for i, x in enumerate(nats_NL.mean(0))}
  assert got.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-4, err_msg=name)


def test_the_protocol_says_whether_it_is_a_bound():
  assert "bound" in Measure().protocol and "exact" not in Measure().protocol
  assert "exact" in Measure(exact=True).protocol and "bound" not in Measure(exact=True).protocol


@pytest.mark.parametrize("name", ["masked", "diffusion"])
def test_standard_errors_hold_the_noise_of_the_draws(name):
  """Equal images differ by their draws alone: evaluations scatter as the error of one says."""
  latent = Codes((3,), 4)
  scheme = {"masked": masked, "diffusion": diffusion}[name].Scheme(latent)
  table = 2 * jax.random.normal(jax.random.key(0), (5**3, 3, 4))
  full = lambda ids, time=None, done=None: table[ids @ jnp.array([25, 5, 1])]
  ids = jnp.tile(jnp.array([[0, 3, 1]]), (64, 1))
  bound = jax.jit(lambda key: scheme.bound(key, Network(full), ids))
  found = [figures_of(Measure(values=9), bound(jax.random.key(k))) for k in range(60)]
  scatter = np.std([f["bits_per_dim"] for f in found], ddof=1)
  error = np.mean([f["bits_per_dim_standard_error"] for f in found])
  assert 0 < scatter < 1.3 * error
  if name == "diffusion":  # masked spreads its draws evenly over the images, which is better
    assert scatter > 0.7 * error
