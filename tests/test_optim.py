"""Optimizers: schedules at their corners, players kept apart, weight decay on kernels alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vqjax import optim
from vqjax.errors import UserError

PARAMS = {
  "model": {"conv": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
  "disc": {"conv": {"kernel": jnp.ones((2, 2))}},
}


def test_schedule_corners():
  lr = optim.Optimizer(lr=1.0, warmup=10, schedule="cosine", end_lr=0.1).learning_rate(110)
  np.testing.assert_allclose(
    [lr(0), lr(4), lr(9), lr(10), lr(60), lr(110)], [0.1, 0.5, 1.0, 1.0, 0.55, 0.1], atol=1e-6
  )
  assert optim.Optimizer(lr=1.0, schedule="constant").learning_rate(10)(9) == 1.0


def made(fields, disc=None, total_steps=10, accumulate=1):
  return optim.make(
    dict(optim=fields, optim_disc=disc, total_steps=total_steps, accumulate=accumulate)
  )


def test_players_have_their_own_learning_rates():
  tx = made({"lr": 1e-2, "schedule": "constant"}, {"lr": 1e-3, "schedule": "constant"})
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
  np.testing.assert_allclose(updates["model"]["conv"]["kernel"], -1e-2, rtol=1e-4)
  np.testing.assert_allclose(updates["disc"]["conv"]["kernel"], -1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor"])
def test_weight_decay_follows_the_learning_rate_and_leaves_biases_alone(name):
  tx = made({"name": name, "lr": 0.1, "schedule": "linear", "weight_decay": 0.5})
  zero, state = jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS)
  for lr in (0.1, 0.09, 0.08):
    updates, state = tx.update(zero, state, PARAMS)
    np.testing.assert_allclose(updates["model"]["conv"]["kernel"], -lr * 0.5, rtol=1e-5)
    np.testing.assert_array_equal(updates["model"]["conv"]["bias"], 0)


def test_adafactor_without_decay_is_the_one_of_optax():
  grads = jax.tree.map(lambda p: jnp.full_like(p, 0.3), PARAMS["model"])
  tx, theirs = (
    made({"name": "adafactor", "lr": 0.1, "schedule": "constant"}),
    optax.adafactor(0.1),
  )
  ours, _ = tx.update(
    {"model": grads}, tx.init({"model": PARAMS["model"]}), {"model": PARAMS["model"]}
  )
  expected, _ = theirs.update(grads, theirs.init(PARAMS["model"]), PARAMS["model"])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours["model"], expected)


def test_the_learning_rate_goes_by_steps_however_many_make_an_update():
  """With a constant gradient Adam's updates are -lr: they show it at each group's last step."""
  fields = {"lr": 1.0, "warmup": 8, "schedule": "linear", "end_lr": 0.5, "eps": 1e-12}
  grads, shown = jax.tree.map(jnp.ones_like, PARAMS), {}
  for accumulate in (1, 4):
    tx = made(fields, None, 24, accumulate)
    update, state = jax.jit(tx.update), tx.init(PARAMS)
    for step in range(24):
      updates, state = update(grads, state, PARAMS)
      shown[accumulate, step] = -float(updates["model"]["conv"]["bias"][0])
  # Update u of W, from 0, at (u + 1) / W: with 4 steps to an update, W is 2.
  rise = np.arange(1, 9) / 8
  np.testing.assert_allclose([shown[1, s] for s in range(8)], rise, atol=1e-5)
  np.testing.assert_allclose([shown[4, 3], shown[4, 7]], [0.5, 1], atol=1e-5)
  np.testing.assert_allclose([shown[1, s] for s in (8, 16)], [1, 0.75], atol=1e-5)
  for step in range(24):
    np.testing.assert_allclose(shown[4, step], shown[1, step] if step % 4 == 3 else 0, atol=1e-5)


def test_accumulation_equals_the_mean_gradient():
  grads = [jax.tree.map(lambda p, s=s: jnp.full_like(p, s), PARAMS) for s in (1.0, 3.0)]
  tx = made({"lr": 0.1, "schedule": "constant"}, None, 10, 2)
  params, state = PARAMS, tx.init(PARAMS)
  for g in grads:
    updates, state = tx.update(g, state, params)
    params = optax.apply_updates(params, updates)
  once = made({"lr": 0.1, "schedule": "constant"}, None, 5, 1)
  updates, _ = once.update(
    jax.tree.map(lambda p: jnp.full_like(p, 2.0), PARAMS), once.init(PARAMS), PARAMS
  )
  jax.tree.map(np.testing.assert_allclose, params, optax.apply_updates(PARAMS, updates))


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"learning_rate": 1}, "config.optim.learning_rate: unknown field"),
    ({"lr": 0.0}, "config.optim: lr: 0.0 is out of range"),
    ({"name": "adam"}, "config.optim.name: 'adam' is none of adamw"),
    ({"name": "lion", "eps": 1e-6}, "config.optim.eps: 1e-06 is given, but lion does not read it"),
    (
      {"name": "adafactor", "b1": 0.5},
      "config.optim.b1: 0.5 is given, but adafactor does not read it",
    ),
  ],
)
def test_bad_fields(fields, message):
  with pytest.raises(UserError, match=message):
    made(fields)
