"""Raster-order sampling against enumeration; the cache, the prompt and the sliding window against
the plain way.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.schemes import Draw, Network, _sampling, autoregressive

N = 20_000
SCHEME = autoregressive.Scheme(Codes((4,), 3))


def draw(world, known=(), values=(), n=N, network=None, how=Draw(), **options):
  ids = jnp.zeros((n, 4), jnp.int32).at[:, list(known)].set(jnp.asarray(values, jnp.int32)[None])
  mask = jnp.zeros((n, 4), bool).at[:, list(known)].set(True)
  network = network or world.cached(n)
  return jax.jit(lambda key: SCHEME.sample(key, network, ids, mask, how, **options))(
    jax.random.key(7)
  )


def test_samples_follow_the_joint(world):
  world.check(draw(world), world.joint)


@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_completions_follow_the_conditional(world, prompt):
  match = (world.grids[:, :2] == (1, 2)).all(1)
  world.check(
    draw(world, (0, 1), (1, 2), prompt=prompt),
    np.where(match, world.joint, 0) / world.joint[match].sum(),
  )


def test_a_prompt_changes_no_draw(world):
  plain = draw(world, (0, 1), (1, 2), n=64)
  for prompt in (1, 2):
    np.testing.assert_array_equal(plain, draw(world, (0, 1), (1, 2), n=64, prompt=prompt))
  known = draw(world, (0, 1, 2, 3), (1, 2, 0, 1), n=2, prompt=4)
  np.testing.assert_array_equal(known, [[1, 2, 0, 1]] * 2)


def test_the_plan_is_what_every_example_starts_with():
  known = np.array([[1, 1, 1, 0], [1, 1, 0, 1]], bool)
  assert SCHEME.plan(known) == {"prompt": 2} and SCHEME.plan(known[:1]) == {"prompt": 3}
  assert SCHEME.plan(known & False) == {"prompt": 0} and SCHEME.plan(known | True) == {"prompt": 4}


def test_a_code_known_later_is_forced_and_fed(world):
  table, expected = world.causal(), []
  for grid in world.grids:
    p = table[world.index(grid), np.arange(4), grid]
    expected.append(p[0] * p[1] * p[3] * (grid[2] == 1))
  world.check(draw(world, (2,), (1,)), expected)


@pytest.mark.parametrize("options", [dict(temperature=0.5), dict(top_k=2), dict(top_p=0.7)])
def test_options_shape_each_conditional(world, options):
  table = world.causal()
  power = table ** (1 / options.get("temperature", 1.0))
  rank = np.argsort(np.argsort(-power, -1), -1)
  if "top_k" in options:
    power = np.where(rank < 2, power, 0)
  if "top_p" in options:
    ordered = -np.sort(-power, -1)
    before = np.take_along_axis(np.cumsum(ordered, -1) - ordered, rank, -1)
    power = np.where(before < options["top_p"], power, 0)
  table = power / power.sum(-1, keepdims=True)
  world.check(
    draw(world, how=Draw(**options)),
    [table[world.index(g), np.arange(4), g].prod() for g in world.grids],
  )


def test_greedy_is_the_argmax_continuation(world):
  table, ids = world.causal(), [1]
  for i in range(1, 4):
    ids.append(int(np.argmax(table[world.index(np.array(ids + [0] * (4 - i))), i])))
  np.testing.assert_array_equal(draw(world, (0,), (1,), n=3, how=Draw(0.0)), [ids] * 3)


def test_first_code_is_from_start_and_the_last_is_drawn():
  # Code i + 1 is one more than code i, plus i: a step with a wrong index or a wrong code shows.
  step = lambda ids_BJ, index, cache: (jax.nn.one_hot((ids_BJ + 1 + index) % 3, 3) * 50, cache)
  network = Network(None, lambda: (jnp.asarray([[[0.0, 0.0, 50.0]]]), ()), step)
  np.testing.assert_array_equal(draw(None, n=1, network=network), [[2, 0, 2, 2]])


def test_uncached_equals_cached(world):
  cached = world.cached(50)
  network = Network(cached.full, *_sampling.uncached(cached.full, 50, world.latent))
  np.testing.assert_array_equal(
    draw(world, (1,), (2,), n=50), draw(world, (1,), (2,), n=50, network=network)
  )


def test_likelihood_is_that_of_the_joint(world):
  network = world.cached(81)
  ids = jnp.asarray(world.grids)
  nats, weights, _ = SCHEME.loss(network.full(ids, None), SCHEME.corrupt(jax.random.key(0), ids))
  np.testing.assert_allclose(jnp.sum(nats * weights, -1), -np.log(world.joint), rtol=1e-4)
  np.testing.assert_allclose(SCHEME.bound(jax.random.key(0), network, ids), nats, rtol=1e-6)


def test_bfloat16_logits_are_weighed_in_float32():
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 5)), jnp.bfloat16)
  scheme = autoregressive.Scheme(Codes((2,), 5))
  nats = scheme.loss(logits, SCHEME.corrupt(None, jnp.asarray([[1, 4]]))).values_BL
  exact = np.asarray(logits, np.float64)
  exact = np.log(np.exp(exact).sum(-1)) - exact[:, [0, 1], [1, 4]]
  assert nats.dtype == jnp.float32
  np.testing.assert_allclose(nats, exact, rtol=1e-5)


def test_errors(world):
  with pytest.raises(UserError, match="not causal"):
    draw(world, n=2, network=Network(lambda ids, time: ids))
  with pytest.raises(UserError, match="prompt: 5"):
    draw(world, n=2, prompt=5)
  with pytest.raises(UserError, match="prompt: 1.0"):
    draw(world, n=2, prompt=1.0)
  with pytest.raises(UserError, match="top_k: 4 is outside 1 to 3, the number of codes"):
    draw(world, n=2, how=Draw(top_k=4))
  grid = jnp.zeros((1, 2, 4), int)
  with pytest.raises(UserError, match="window: 3 x 4"):
    autoregressive.Scheme(Codes((3, 4), 3)).window(jax.random.key(0), None, grid, grid > 0)
  with pytest.raises(UserError, match="window: .* no height and width"):
    autoregressive.Scheme(Codes((2, 4), 3, 2)).window(jax.random.key(0), None, grid, grid > 0)


def test_window_as_large_as_the_grid_is_plain_sampling(world):
  full = world.lookup(world.causal())
  ids, known = jnp.full((40, 2, 2), 2), jnp.zeros((40, 2, 2), bool).at[:, 0, 1].set(True)
  out = jax.jit(
    lambda key: autoregressive.Scheme(Codes((2, 2), 3)).window(
      key, lambda ids, top, left: full(ids), ids, known, Draw(0.9)
    )
  )(jax.random.key(7))
  np.testing.assert_array_equal(out.reshape(40, 4), draw(world, (1,), (2,), n=40, how=Draw(0.9)))


@pytest.mark.parametrize("window", [(2, 3), (3, 2), (5, 4), (1, 1)])
def test_window_is_centred_and_clipped(window):
  (height, width), (h, w) = (5, 6), window

  # Greedy: every place answers with its window's corner and its place in it.
  def full(ids_BL, top, left):
    place = jnp.arange(h * w)
    return jax.nn.one_hot((top * width + left) * h * w + place, height * width * h * w)[None]

  ids = jnp.zeros((1, height, width), int)
  out = jax.jit(
    lambda key: autoregressive.Scheme(Codes(window, height * width * h * w)).window(
      key, full, ids, ids > 0, Draw(0.0)
    )
  )(jax.random.key(0))
  corner, place = np.divmod(np.asarray(out[0]), h * w)
  top, left = np.divmod(corner, width)
  row, col = np.mgrid[:height, :width]
  np.testing.assert_array_equal(top + place // w, row)
  np.testing.assert_array_equal(left + place % w, col)
  np.testing.assert_array_equal(top, np.minimum(np.maximum(row - h // 2, 0), height - h))
  np.testing.assert_array_equal(left, np.minimum(np.maximum(col - w // 2, 0), width - w))


def test_window_shows_what_was_drawn_and_what_is_known():
  # Each code is one more than its left neighbour in the window, 0 in the window's first column.
  def full(ids_BL, top, left):
    grid = ids_BL.reshape(-1, 2, 3)
    after = jnp.concatenate([jnp.zeros_like(grid[..., :1]), grid[..., :-1] + 1], -1)
    return jax.nn.one_hot(after.reshape(-1, 6), 20)

  known = jnp.zeros((1, 3, 7), bool).at[0, 1, 3].set(True)
  out = autoregressive.Scheme(Codes((2, 3), 20)).window(
    jax.random.key(0), full, jnp.full((1, 3, 7), 9), known, Draw(0.0)
  )
  np.testing.assert_array_equal(out[0], [np.arange(7), [0, 1, 2, 9, 10, 11, 12], np.arange(7)])
