"""What every scheme promises: known codes stay, only codes come out, batches permute, one
compilation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import build
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.schemes import Draw, Guidance, Network, _guidance
from vqjax.schemes._sampling import uncached

B, L, K = 6, 9, 11
SCHEMES = [  # over codes; those over floats are in test_floats.py
  name
  for name in build.names("schemes")
  if "codes" in getattr(build.member("schemes", name), "takes", ("codes",))
]


def make(name, latent=Codes((L,), K), **fields):
  return build.build("schemes", dict(name=name) | fields, latent=latent)


def network(condition_B, calls=None):
  """Any function of ids and condition, causal for `start` and `step`; it favours an id beyond the
  codes.
  """
  table = jax.random.normal(jax.random.key(0), (K + 2, L, K + 2)).at[..., K:].set(20.0)

  def full(ids_BL, time_B=None, done=None, shift=0):
    if calls is not None:
      calls.append(1)
    total = jnp.cumsum(table[ids_BL, jnp.arange(L)[None]], 1)
    return jnp.roll(total, shift, 1) + condition_B[:, None, None] * table[0][None]

  causal = lambda ids_BL, time_B: (
    full(ids_BL, time_B, shift=1).at[:, 0].set(condition_B[:, None] * table[0, :1])
  )
  return Network(full, *uncached(causal, condition_B.shape[0], Codes((L,), K)))


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
def test_options_are_declared_and_checked_by_range_and_type(name):
  scheme, ids = make(name), jnp.zeros((1, L), int)
  sample = lambda **options: jax.eval_shape(
    lambda key: scheme.sample(key, network(jnp.zeros(1)), ids, ids > 0, **options),
    jax.random.key(0),
  )
  assert not {"temperature", "top_k", "top_p", "trajectory"} & scheme.options.keys()
  for option, kind in scheme.options.items():
    sample(**{option: kind(3)})
    for value in (-1, float("nan"), "3", True, *((2.5, 2.0, 0) if kind is int else ())):
      with pytest.raises(UserError, match=f"^{option}: {value!r} is no ") as e:
        sample(**{option: value})
      assert "\n" not in str(e.value)
  with pytest.raises(UserError, match=f"top_k: {K + 1} is outside 1 to {K}"):
    sample(draw=Draw(top_k=K + 1))


@pytest.mark.parametrize("name", [name for name in SCHEMES if hasattr(make(name), "plan")])
def test_the_plan_changes_no_draw(name):
  scheme, ids = make(name), jax.random.randint(jax.random.key(1), (B, L), 0, K)
  known = patterns()[1].at[2, L - 1].set(True)
  plan = scheme.plan(np.asarray(known))
  assert plan == {"prompt": L // 2}
  run = jax.jit(
    lambda **options: scheme.sample(
      jax.random.key(2), network(jnp.arange(B)), ids, known, **options
    ),
    static_argnames=("prompt",),
  )
  np.testing.assert_array_equal(run(), run(**plan))


@pytest.mark.parametrize("name", SCHEMES)
def test_training_examples_and_losses_have_the_contracts_shapes(name):
  scheme = make(name)
  ids = jax.random.randint(jax.random.key(1), (B, L), 0, K)
  corrupted = jax.jit(scheme.corrupt)(jax.random.key(0), ids)
  assert corrupted.inputs.shape == (B, L) and corrupted.inputs.max() < K + scheme.extra_ids
  assert corrupted.targets.shape == (B, L) and corrupted.targets.max() < K
  assert (corrupted.time_B is not None) == scheme.timed
  logits = network(jnp.zeros(B)).full(corrupted.inputs).astype(jnp.bfloat16)
  nats, weights, metrics = jax.jit(scheme.loss)(logits, corrupted)
  assert nats.shape == weights.shape == (B, L) and nats.dtype == weights.dtype == jnp.float32
  assert np.isfinite(nats).all() and (nats >= -1e-5).all()
  right = np.argmax(logits[..., :K], -1) == corrupted.targets  # ids beyond the codes do not count
  assert metrics.keys() == {"accuracy"} and metrics["accuracy"].dtype == jnp.float32
  np.testing.assert_array_equal(metrics["accuracy"], right)
  if hasattr(scheme, "bound"):
    bound = jax.jit(lambda key: scheme.bound(key, network(jnp.zeros(B)), ids))
    nats, other = (np.asarray(bound(jax.random.key(k))) for k in range(2))
    assert nats.shape == (B, L) and scheme.exact == (nats == other).all()


KERNELS = ("uniform", "absorbing", "mask_and_replace")
BOOKED = [(name, {}) for name in SCHEMES if name != "diffusion"]
BOOKED += [("diffusion", dict(kernel=kernel, timesteps=8)) for kernel in KERNELS]


@pytest.mark.parametrize("name, fields", BOOKED)
def test_several_books_are_codes_of_one_books_size(name, fields):
  """In training and at every step of sampling; noise and samples take every code of the book."""
  latent, n = Codes((3,), 5, books=3), 200
  scheme = make(name, latent, **fields)
  own = lambda ids: (ids >= 0).all() and (ids <= latent.size).all()
  full = lambda ids, *_: jnp.zeros((len(ids), 9, 5))
  ones = latent.flatten(jnp.ones((n, 3, 3), int))

  corrupted = jax.jit(scheme.corrupt)(jax.random.key(0), ones)
  inputs = np.asarray(corrupted.inputs)
  assert own(inputs) and own(np.asarray(corrupted.targets))
  seen = set(inputs[inputs < latent.size])
  assert seen == (set(range(5)) if scheme.extra_ids == 0 and not scheme.causal else seen)
  values = jax.jit(scheme.loss)(full(inputs), corrupted).values_BL
  if name != "diffusion":
    np.testing.assert_allclose(values, np.log(5), rtol=1e-5)

  network, blank = Network(full, *uncached(full, n, latent)), latent.blank(n)
  sample = lambda key: scheme.sample(key, network, blank, blank > 0, trajectory=True)
  out, path = (np.asarray(x) for x in jax.jit(sample)(jax.random.key(2)))
  assert own(out) and own(path) and out.max() < latent.size
  assert np.bincount(out.reshape(-1), minlength=5).min() > 0.7 * out.size / 5


@pytest.mark.parametrize("name", SCHEMES)
def test_guidance_grows_from_none_at_the_first_draw_to_its_scale_at_the_last(name):
  """The scale at each draw, seen from inside: the conditional logits are 1 and the others 0. What
  schedules make of a draw's share is in test_guidance.py.
  """
  scheme, guidance, steps = make(name), Guidance(3.3, "linear"), 4
  tell = lambda ids, *_: jnp.broadcast_to(
    (1.0 - jnp.arange(len(ids)) % 2)[:, None, None], (len(ids), L, K)
  )
  doubled = Network(tell, *uncached(tell, 4, Codes((L,), K)))
  guided, seen = _guidance.guided(doubled, guidance, steps=L), []

  def record(logits):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), logits[..., 0].reshape(2, -1)[:, 0])
    return logits

  with_cache = lambda out: (record(out[0]), out[1])
  watched = Network(
    lambda *args: record(guided.full(*args)),
    lambda: with_cache(guided.start()),
    lambda *args: with_cache(guided.step(*args)),
  )
  options = {} if scheme.causal else dict(steps=steps)
  ids = jnp.zeros((2, L), int)
  # The second example has two codes to draw: where a code a step is kept it is done after two.
  known = jnp.zeros((2, L), bool).at[1, 2:].set(not scheme.causal)
  jax.jit(lambda key: scheme.sample(key, watched, ids, known, **options))(jax.random.key(0))
  jax.effects_barrier()
  scales = np.sort(np.stack(seen), 0)
  assert len(scales) == (L if scheme.causal else steps)
  assert (scales[0] == 1).all() and (scales[-1] == np.float32(3.3)).all()
  assert (np.diff(scales[:, 0]) > 0).all()
  np.testing.assert_array_equal(
    np.sum(scales[:, 1] == np.float32(3.3)), 3 if name == "masked" else 1
  )
