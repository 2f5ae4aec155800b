"""Classifier-free guidance on a doubled batch against mixing two networks by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.schemes import Guidance, Network, _guidance, autoregressive


def test_schedules():
  at = lambda schedule: Guidance(3.3, schedule).at(np.linspace(0, 1, 5))
  np.testing.assert_allclose(at("constant"), [3.3] * 5)
  np.testing.assert_allclose(at("linear"), [1, 1.575, 2.15, 2.725, 3.3])
  cosine = 1 + 2.3 * np.sin(np.pi * np.linspace(0, 1, 5) / 2) ** 2
  np.testing.assert_allclose(at("cosine"), cosine, rtol=1e-6)


@pytest.mark.parametrize(
  "fields,message",
  [
    (dict(scale=float("nan")), "guidance: nan is no finite number"),
    (dict(scale=float("inf")), "guidance: inf is no finite number"),
    (dict(scale="3"), "guidance: '3' is no finite number"),
    (dict(schedule="cosin"), "guidance_schedule: 'cosin' is none of constant, linear, cosine."),
  ],
)
def test_errors(fields, message):
  with pytest.raises(UserError, match=message):
    Guidance(**fields)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_guided_network_mixes_the_two(schedule):
  batch, length, vocab, scale = 3, 4, 5, 3.0
  # Row r of a batch of 2B has its own condition; the logits depend on it, on the ids and on the
  # time.
  table = jnp.asarray(np.random.default_rng(0).normal(size=(2, vocab, length, vocab)), jnp.float32)
  kind = jnp.tile(jnp.asarray([0, 1]), batch)

  def on(rows):
    full = lambda ids, time=None, done=None: (
      table[rows[:, None], ids, jnp.arange(length)[None]]
      * (1 if time is None else 1 + time[:, None, None])
    )
    start = lambda: (table[rows, 0, 0][:, None], ())
    step = lambda ids, index, cache: (table[rows[:, None], ids, index], cache)
    return Network(full, start, step)

  guidance = Guidance(scale, schedule)
  network = _guidance.guided(on(kind), guidance, steps=length)
  cond, uncond = on(jnp.zeros(batch, int)), on(jnp.ones(batch, int))
  mix = lambda a, b, s: np.asarray(b) + s * (np.asarray(a) - np.asarray(b))
  ids = jnp.asarray(np.random.default_rng(1).integers(vocab, size=(batch, length)))
  time, done = jnp.asarray([1.0, 0.5, 0.25]), jnp.asarray([0.0, 0.5, 1.0])
  scales = np.asarray(guidance.at(done))[:, None, None]
  call = lambda n: jax.jit(
    lambda: (
      n.full(ids, time, done),
      n.full(ids, time, 0.5),
      n.full(ids),
      n.start()[0],
      *(n.step(ids[:, i : i + 1], i, ())[0] for i in range(3)),
    )
  )()
  at = [float(guidance.at(i / 3)) for i in range(4)]
  assert at[0] == (scale if schedule == "constant" else 1) and at[3] == scale
  for mixed, a, b, s in zip(
    call(network),
    call(cond),
    call(uncond),
    (scales, float(guidance.at(0.5)), scale, *at),
    strict=True,
  ):
    np.testing.assert_allclose(mixed, mix(a, b, s), rtol=1e-4, atol=1e-5)


def test_scale_one_is_the_conditional_network_and_zero_the_other(world):
  scheme, batch = autoregressive.Scheme(world.latent), 6
  cond = world.cached(batch)
  even = lambda x: _guidance.double(x, jnp.zeros_like(x))
  doubled = Network(
    lambda ids, time=None: even(cond.full(ids[::2], time)),
    lambda: (even(cond.start()[0]), cond.start()[1]),
    lambda ids, index, cache: (lambda out: (even(out[0]), out[1]))(
      cond.step(ids[::2], index, cache)
    ),
  )
  ids = jnp.zeros((batch, 4), int)
  sample = lambda network: jax.jit(lambda key: scheme.sample(key, network, ids, ids > 0))(
    jax.random.key(0)
  )
  np.testing.assert_array_equal(
    sample(_guidance.guided(doubled, Guidance(1.0), steps=4)), sample(cond)
  )
  flat = Network(
    cond.full,
    lambda: (jnp.zeros((batch, 1, 3)), 0),
    lambda ids, index, cache: (jnp.zeros((batch, 1, 3)), cache),
  )
  np.testing.assert_array_equal(
    sample(_guidance.guided(doubled, Guidance(0.0), steps=4)), sample(flat)
  )
