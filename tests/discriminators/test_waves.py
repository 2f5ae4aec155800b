"""The judges of sound: shapes, periods that do not mix, tuples of logits in every loss."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from vqjax.build import build
from vqjax.errors import UserError
from vqjax.nn import losses
from vqjax.tasks import _loss_terms

ADVERSARIAL = typing.get_args(typing.get_type_hints(_loss_terms.Losses)["adversarial"])
TINY = dict(periods=(2, 3), windows=(64,), period_channels=2, channels=4)


@functools.cache
def made():
  disc = build("discriminators", dict(name="waves") | TINY)
  x = 0.1 * jax.random.normal(jax.random.key(0), (2, 500, 1))
  variables = weights.initialised(disc, x, std=0.3)
  judge = jax.jit(lambda x: disc.apply(variables, x, train=False))
  return disc, variables, x, judge


def test_one_tensor_of_logits_for_each_judge():
  _, variables, x, judge = made()
  logits, features = judge(x)
  assert len(logits) == 3 and all(y.dtype == jnp.float32 and y.shape[-1] == 1 for y in logits)
  assert [y.shape[2] for y in logits[:2]] == [2, 3]
  assert len(features) == 2 * 5 + 5 * 5  # layers of each period, and of each band of the window
  assert variables.keys() == {"params"}


def test_periods_do_not_mix():
  """What one sample changes lies in the column that it stands in."""
  _, _, x, judge = made()
  (before, _), (after, _) = judge(x), judge(x.at[0, 100].add(1.0))
  for i, period in enumerate((2, 3)):
    change = np.asarray(after[i] - before[i])[0, ..., 0]
    columns = np.flatnonzero(np.abs(change).max(0))
    assert columns.tolist() == [100 % period]


def test_every_band_and_judge_learns():
  disc, variables, x, _ = made()

  def loss(variables):
    logits, features = disc.apply(variables, x, train=True)
    fake, others = disc.apply(variables, 0.5 * x, train=True)
    terms = [losses.discriminator_loss(name, logits, fake) for name in ADVERSARIAL]
    return sum(terms) + losses.feature_matching(others, features)

  for path, grad in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(variables)):
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0, jax.tree_util.keystr(path)


def test_several_judges_count_alike():
  """However many logits each has."""
  a, b = jnp.array([0.5, 2.0, -3.0]), jnp.array([[1.0]])
  one = lambda fn, *x: float(fn(*x))
  for name in ADVERSARIAL:
    for fn in (losses.generator_loss, losses.discriminator_loss):
      count = 1 if fn is losses.generator_loss else 2
      fn = functools.partial(fn, name)
      alone = [one(fn, *[x] * count) for x in (a, b)]
      np.testing.assert_allclose(one(fn, *[(a, b)] * count), np.mean(alone), rtol=1e-6)
  assert one(functools.partial(losses.generator_loss, "least_squares"), b) == 0
  value, averages = losses.lecam(losses.lecam_averages(), (a, b), (b, a))
  assert np.isfinite(value) and np.isfinite(averages["real"])
  np.testing.assert_allclose(
    losses.r1(lambda x: (2 * x, 3 * x[:, :1]), jnp.ones((1, 2))), 2.5**2 + 1
  )


@pytest.mark.parametrize(
  "field, value",
  [("channels", 0), ("bands", (0.5, 0.2)), ("periods", (0,)), ("windows", (-1,)), ("axes", 2)],
)
def test_impossible_fields_are_named(field, value):
  given = {"axes": value} if field == "axes" else {}
  fields = {} if field == "axes" else {field: value}
  with pytest.raises(UserError, match="waves is made for" if given else f"{field}: "):
    build("discriminators", dict(name="waves") | TINY | fields, **given)


def test_without_any_judge():
  with pytest.raises(UserError, match="periods, windows: there is none"):
    build("discriminators", dict(name="waves", periods=(), windows=()))
