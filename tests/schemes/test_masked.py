"""Masked sampling with true conditionals against the joint; corruption and its bound."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.schemes import Corrupted, Network, masked

N = 20_000
LATENT = Codes((4,), 3)


def draw(world, known=(), values=(), n=N, schedule="cosine", table=None, **options):
  ids = jnp.zeros((n, 4), jnp.int32).at[:, list(known)].set(jnp.asarray(values, jnp.int32)[None])
  mask = jnp.zeros((n, 4), bool).at[:, list(known)].set(True)
  network = Network(world.lookup(world.masked() if table is None else table))
  return jax.jit(
    lambda key: masked.Scheme(LATENT, schedule).sample(key, network, ids, mask, **options)
  )(jax.random.key(9))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_one_code_per_step_in_random_order_is_exact(world, schedule):
  ids, path = draw(world, steps=4, choice_temperature=math.inf, schedule=schedule, trajectory=True)
  np.testing.assert_array_equal(
    (np.asarray(path) == 3).sum(-1), np.tile([[3], [2], [1], [0]], (1, N))
  )
  world.check(ids, world.joint)


def test_one_code_per_step_is_exact_given_known_codes(world):
  match = (world.grids[:, [1, 3]] == (0, 2)).all(1)
  ids = draw(world, (1, 3), (0, 2), steps=2, choice_temperature=math.inf)
  world.check(ids, np.where(match, world.joint, 0) / world.joint[match].sum())


def test_more_steps_than_codes_and_a_large_temperature_are_exact_too(world):
  world.check(draw(world, steps=7, choice_temperature=1e5), world.joint)


def test_a_single_step_draws_all_codes_apart(world):
  first = world.masked()[-1]
  world.check(draw(world, steps=1), [first[np.arange(4), g].prod() for g in world.grids])


def test_without_choice_temperature_the_most_confident_code_stays(world):
  table = np.full((256, 4, 3), 1 / 3)
  table[:, 2] = [0.02, 0.96, 0.02]
  _, path = draw(world, n=200, steps=4, choice_temperature=0.0, table=table, trajectory=True)
  first = np.asarray(path[0])
  kept_likely = first[:, 2] == 1
  assert kept_likely.mean() > 0.85 and (first[kept_likely][:, [0, 1, 3]] == 3).all()


@pytest.mark.parametrize("schedule,left", [("cosine", 2), ("sqrt", 1)])  # of 4: ⌊2.83⌋ and ⌊1.17⌋
def test_the_schedule_says_how_many_stay_hidden(world, schedule, left):
  _, path = draw(world, n=50, steps=2, schedule=schedule, trajectory=True)
  np.testing.assert_array_equal((np.asarray(path) == 3).sum(-1), np.tile([[left], [0]], (1, 50)))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "square", "cubic", "sqrt"])
def test_schedules_fall_from_one_to_zero(schedule):
  share = np.asarray(masked._SCHEDULES[schedule](jnp.linspace(0, 1, 20)))
  np.testing.assert_allclose(share[[0, -1]], [1, 0], atol=1e-6)
  assert (np.diff(share) < 0).all()


def test_corruption_hides_the_scheduled_share_at_uniform_places(chi2):
  ids = jnp.asarray(np.random.default_rng(0).integers(3, size=(N, 4)))
  out = jax.jit(masked.Scheme(LATENT, "linear").corrupt)(jax.random.key(1), ids)
  hidden = np.asarray(out.inputs) == 3
  np.testing.assert_array_equal(hidden, np.asarray(out.weights) == 1)
  np.testing.assert_array_equal(np.where(hidden, out.targets, out.inputs), ids)
  chi2(np.bincount(hidden.sum(-1), minlength=5), [0, 0.25, 0.25, 0.25, 0.25])
  places = hidden[hidden.sum(-1) == 2]
  chi2(
    np.bincount(places @ [8, 4, 2, 1], minlength=16),
    np.isin(np.arange(16), [3, 5, 6, 9, 10, 12]) / 6,
  )
  share = jax.jit(masked.Scheme(LATENT).corrupt)(
    jax.random.key(1), jnp.zeros((2000, 64), int)
  ).weights.mean()
  assert (
    abs(share - 2 / np.pi - 0.5 / 64) < 0.03
  )  # the mean of the cosine schedule, and half a code for rounding up


def test_label_smoothing_is_cross_entropy_against_the_smoothed_target():
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 5)), jnp.float32)
  corrupted = Corrupted(jnp.asarray([[5, 1]]), jnp.asarray([[3, 1]]), jnp.asarray([[1.0, 0.0]]))
  nats, weights, _ = masked.Scheme(Codes((2,), 5), label_smoothing=0.2).loss(logits, corrupted)
  target = 0.8 * np.eye(5)[[3, 1]] + 0.2 / 5
  np.testing.assert_allclose(
    nats[0], -(target * np.asarray(jax.nn.log_softmax(logits[0]))).sum(-1), rtol=1e-5
  )
  np.testing.assert_array_equal(weights, [[1, 0]])


def test_bound_with_true_conditionals_is_the_likelihood(world):
  network, n = Network(world.lookup(world.masked())), 4000
  bound = jax.jit(lambda ids: masked.Scheme(LATENT).bound(jax.random.key(2), network, ids).sum(-1))
  for grid in world.grids[[5, 50]]:
    nats = bound(jnp.tile(jnp.asarray(grid)[None], (n, 1)))
    exact = -np.log(world.joint[(world.grids == grid).all(1)][0])
    assert abs(nats.mean() - exact) < 5 * nats.std() / n**0.5


def test_bound_of_any_network_is_the_mean_over_orders():
  """With conditionals that belong to no joint: a code's order matters, and the bound is loose."""
  latent, n = Codes((2,), 3), 20_000
  table = np.random.default_rng(0).dirichlet(np.full(3, 0.5), size=(4, 4, 2))
  full = lambda ids, time=None, done=None: jnp.log(table)[ids[:, 0], ids[:, 1]]
  bound = jax.jit(lambda key, ids: masked.Scheme(latent).bound(key, Network(full), ids).sum(-1))
  total, loosest = 0.0, 0.0
  for x, y in itertools.product(range(3), repeat=2):
    orders = [table[3, 3, 0, x] * table[x, 3, 1, y], table[3, 3, 1, y] * table[3, y, 0, x]]
    mean, exact = -np.log(orders).mean(), -np.log(np.mean(orders))
    nats = np.asarray(bound(jax.random.key(3 * x + y), jnp.tile(jnp.array([[x, y]]), (n, 1))))
    assert abs(nats.mean() - mean) < 5 * nats.std() / n**0.5 and exact <= mean
    total, loosest = total + np.exp(-exact), max(loosest, mean - exact)
  np.testing.assert_allclose(total, 1.0, rtol=1e-6)  # drawing in a random order is the model
  assert loosest > 0.1


def test_errors(world):
  with pytest.raises(UserError, match="choice_temperature"):
    draw(world, n=2, choice_temperature=-1.0)
  with pytest.raises(UserError, match="steps: 0"):
    draw(world, n=2, steps=0)
  with pytest.raises(UserError, match="steps: 2.5"):
    draw(world, n=2, steps=2.5)
  with pytest.raises(UserError, match="choice_temperature: nan"):
    draw(world, n=2, choice_temperature=math.nan)
  with pytest.raises(UserError, match="label_smoothing"):
    masked.Scheme(LATENT, label_smoothing=1.0)
