"""Classifier-free guidance on a doubled batch against mixing two networks by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.schemes import Network, _guidance, autoregressive


def test_schedules():
  done = np.linspace(0, 1, 5)
  np.testing.assert_allclose(_guidance.scheduled(4.0, "constant", done), [4, 4, 4, 4, 4])
  np.testing.assert_allclose(_guidance.scheduled(4.0, "linear", done), [1, 1.75, 2.5, 3.25, 4])
  np.testing.assert_allclose(
    _guidance.scheduled(4.0, "cosine", done), 1 + 3 * np.sin(np.pi * done / 2) ** 2, rtol=1e-6
  )


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_guided_network_mixes_the_two(schedule):
  batch, length, vocab, scale = 3, 4, 5, 3.0
  # Row r of a batch of 2B has its own condition; the logits depend on it, on the ids and on the
  # time.
  table = jnp.asarray(np.random.default_rng(0).normal(size=(2, vocab, length, vocab)), jnp.float32)
  kind = jnp.tile(jnp.asarray([0, 1]), batch)

  def on(rows):
    full = lambda ids, time=None: (
      table[rows[:, None], ids, jnp.arange(length)[None]]
      * (1 if time is None else 1 + time[:, None, None])
    )
    start = lambda: (table[rows, 0, 0], ())
    step = lambda ids, index, cache: (table[rows, ids, index], cache)
    return Network(full, start, step)

  network = _guidance.guided(on(kind), scale, schedule, length=length)
  cond, uncond = on(jnp.zeros(batch, int)), on(jnp.ones(batch, int))
  mix = lambda a, b, s: np.asarray(b) + s * (np.asarray(a) - np.asarray(b))
  ids = jnp.asarray(np.random.default_rng(1).integers(vocab, size=(batch, length)))
  time = jnp.asarray([1.0, 0.5, 0.25])
  scales = np.asarray(_guidance.scheduled(scale, schedule, 1 - time))[:, None, None]
  call = lambda n: jax.jit(
    lambda: (n.full(ids, time), n.full(ids, None), n.start()[0], n.step(ids[:, 2], 2, ())[0])
  )()
  at = lambda done: float(_guidance.scheduled(scale, schedule, done))
  for mixed, a, b, s in zip(
    call(network), call(cond), call(uncond), (scales, scale, at(0), at(3 / 4))
  ):
    np.testing.assert_allclose(mixed, mix(a, b, s), rtol=1e-4, atol=1e-5)


def test_scale_one_is_the_conditional_network_and_zero_the_other(world):
  scheme, batch = autoregressive.Scheme(3), 6
  cond = world.cached(batch)
  even = lambda x: _guidance.double(x, jnp.zeros_like(x))
  doubled = Network(
    lambda ids, time: even(cond.full(ids[::2], time)),
    lambda: (even(cond.start()[0]), cond.start()[1]),
    lambda ids, index, cache: (lambda out: (even(out[0]), out[1]))(
      cond.step(ids[::2], index, cache)
    ),
  )
  ids = jnp.zeros((batch, 4), int)
  sample = lambda network: jax.jit(lambda key: scheme.sample(key, network, ids, ids > 0))(
    jax.random.key(0)
  )
  np.testing.assert_array_equal(sample(_guidance.guided(doubled, 1.0, length=4)), sample(cond))
  flat = Network(
    cond.full,
    lambda: (jnp.zeros((batch, 3)), 0),
    lambda ids, index, cache: (jnp.zeros((batch, 3)), cache),
  )
  np.testing.assert_array_equal(sample(_guidance.guided(doubled, 0.0, length=4)), sample(flat))
