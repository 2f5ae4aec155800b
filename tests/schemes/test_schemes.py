"""What every scheme promises: known codes stay, only codes come out, batches permute, one
compilation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import build
from vqjax.errors import UserError
from vqjax.schemes import Network
from vqjax.schemes.autoregressive import uncached

B, L, K = 6, 9, 11
SCHEMES = build.names("schemes")


def make(name):
  return build.build("schemes", dict(name=name), num_codes=K)


def network(condition_B, calls=None):
  """Any function of ids and condition, causal for `start` and `step`; it favours an id beyond the
  codes.
  """
  table = jax.random.normal(jax.random.key(0), (K + 2, L, K + 2)).at[..., K:].set(20.0)

  def full(ids_BL, time_B=None, shift=0):
    if calls is not None:
      calls.append(1)
    total = jnp.cumsum(table[ids_BL, jnp.arange(L)[None]], 1)
    return jnp.roll(total, shift, 1) + condition_B[:, None, None] * table[0][None]

  causal = lambda ids_BL, time_B: (
    full(ids_BL, time_B, shift=1).at[:, 0].set(condition_B[:, None] * table[0, :1])
  )
  return Network(full, *uncached(causal, condition_B.shape[0], L))


def patterns():
  """Which codes are known: none, the first half, some, all."""
  some = jax.random.bernoulli(jax.random.key(4), 0.4, (B, L))
  return [some & False, jnp.tile(jnp.arange(L)[None] < L // 2, (B, 1)), some, some | True]


@pytest.mark.parametrize("name", SCHEMES)
def test_known_codes_stay_and_only_codes_come_out(name):
  sample = jax.jit(
    lambda *inputs: make(name).sample(
      jax.random.key(2), network(jnp.arange(B)), *inputs, trajectory=True
    )
  )
  ids, other = (jax.random.randint(jax.random.key(k), (B, L), 0, K) for k in (1, 5))
  for known in patterns():
    out, path = sample(ids, known)
    assert out.shape == (B, L) and out.dtype == jnp.int32
    assert 0 <= out.min() and out.max() < K
    assert path.shape[1:] == (B, L) and path.min() >= 0 and path.max() <= K
    np.testing.assert_array_equal(path[-1], out)
    keep = np.broadcast_to(known[None], path.shape)
    np.testing.assert_array_equal(
      np.asarray(path)[keep], np.broadcast_to(ids[None], path.shape)[keep]
    )
    if not known.all():
      assert (out != ids)[~known].any()
    # What stands at unknown places is never looked at.
    np.testing.assert_array_equal(out, sample(jnp.where(known, ids, other), known)[0])


@pytest.mark.parametrize("name", SCHEMES)
def test_permuting_the_batch_permutes_the_samples(name):
  order, keys = jnp.asarray([3, 0, 5, 1, 4, 2]), jax.random.split(jax.random.key(3), B)
  ids = jax.random.randint(jax.random.key(1), (B, L), 0, K)
  known, condition = jax.random.bernoulli(jax.random.key(4), 0.3, (B, L)), jnp.arange(B)
  run = jax.jit(lambda at: make(name).sample(keys[at], network(condition[at]), ids[at], known[at]))
  plain = run(jnp.arange(B))
  np.testing.assert_array_equal(plain[order], run(order))
  assert len(np.unique(plain, axis=0)) == B


@pytest.mark.parametrize("name", SCHEMES)
def test_a_sample_does_not_depend_on_the_size_of_its_batch(name):
  sample = lambda ids: make(name).sample(
    jax.random.key(2), network(jnp.zeros(len(ids))), ids, ids > 0
  )
  run = lambda n: jax.jit(sample)(jnp.zeros((n, L), int))
  np.testing.assert_array_equal(run(B)[:2], run(2))


@pytest.mark.parametrize("name", SCHEMES)
def test_sampling_is_one_compilation_with_the_network_in_a_loop(name):
  calls, scheme = [], make(name)
  sample = jax.jit(
    lambda key, ids, known: scheme.sample(key, network(jnp.zeros(B), calls), ids, known)
  )
  for seed in range(3):
    ids = jax.random.randint(jax.random.key(seed), (B, L), 0, K)
    sample(jax.random.key(seed), ids, ids > 7)
  assert sample._cache_size() == 1
  assert len(calls) <= 3  # once per trace of start and of the loop's body, not once per step


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(
  "options", [dict(top_k=0), dict(top_k=K + 1), dict(top_p=0.0), dict(temperature=-1.0)]
)
def test_bad_options_are_refused(name, options):
  ids = jnp.zeros((1, L), int)
  with pytest.raises(UserError, match=next(iter(options))):
    make(name).sample(jax.random.key(0), Network(None), ids, ids > 0, **options)


@pytest.mark.parametrize("name", SCHEMES)
def test_training_examples_and_losses_have_the_contracts_shapes(name):
  scheme = make(name)
  ids = jax.random.randint(jax.random.key(1), (B, L), 0, K)
  corrupted = jax.jit(scheme.corrupt)(jax.random.key(0), ids)
  assert corrupted.inputs_BL.shape == (B, L) and corrupted.inputs_BL.max() < K + scheme.extra_ids
  assert corrupted.targets_BL.shape == (B, L) and corrupted.targets_BL.max() < K
  assert (corrupted.time_B is not None) == scheme.timed
  logits = network(jnp.zeros(B)).full(corrupted.inputs_BL).astype(jnp.bfloat16)
  nats, weights = jax.jit(scheme.loss)(logits, corrupted)
  assert nats.shape == weights.shape == (B, L) and nats.dtype == weights.dtype == jnp.float32
  assert np.isfinite(nats).all() and (nats >= -1e-5).all()
  if hasattr(scheme, "bound"):
    bound = jax.jit(lambda key: scheme.bound(key, network(jnp.zeros(B)), ids))
    assert bound(jax.random.key(0)).shape == (B, L)
