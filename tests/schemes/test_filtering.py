"""Temperature, top-k and top-p against sorting, and keys per example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.schemes import _sampling


def by_sorting(logits, temperature, top_k, top_p):
  """Probabilities after the three filters, the slow way, in float64."""
  logits = np.asarray(logits, np.float64) / temperature
  order = np.argsort(-logits, kind="stable")
  probs = np.exp(logits - logits.max())
  if top_k is not None:
    probs[order[top_k:]] = 0
  probs /= probs.sum()
  if top_p is not None and top_p < 1:
    before = np.cumsum(probs[order]) - probs[order]
    probs[order[before >= top_p]] = 0
  return probs / probs.sum()


@pytest.mark.parametrize(
  "temperature,top_k,top_p",
  [
    (0.3, None, None),
    (1.0, 1, None),
    (2.5, 7, None),
    (1.0, 100, 1.0),
    (1.0, None, 0.05),
    (0.3, None, 0.6),
    (2.5, None, 0.999),
    (1.0, 20, 0.7),
    (2.5, 3, 0.99),
  ],
)
def test_filters_equal_sorting(temperature, top_k, top_p):
  logits = np.random.default_rng(1).normal(size=(2, 3, 100)).astype(np.float32) * 2
  fast = jax.jit(lambda x: jax.nn.softmax(_sampling.filter_logits(x, temperature, top_k, top_p)))(
    logits
  )
  slow = np.stack(
    [by_sorting(row, temperature, top_k, top_p) for row in logits.reshape(-1, 100)]
  ).reshape(logits.shape)
  np.testing.assert_array_equal(np.asarray(fast) > 0, slow > 0)
  np.testing.assert_allclose(fast, slow, atol=1e-5)


def test_filters_keep_equals_and_survive_extremes():
  keep = lambda logits, **options: np.isfinite(
    _sampling.filter_logits(jnp.asarray(logits), **options)
  ).tolist()
  assert keep([1.0, 2.0, 2.0, 0.0], top_k=1) == [False, True, True, False]
  assert keep([0.0, 0.0, 0.0, 0.0], top_p=0.5) == [True] * 4
  assert keep([1e4, -1e4, 0.0, 0.0], top_p=0.5) == [True, False, False, False]
  assert keep([5.0, 5.0, 1.0, 0.0], temperature=0.0) == [True, False, False, False]


def test_draws_follow_the_filtered_distribution(chi2):
  logits = jnp.asarray(np.random.default_rng(2).normal(size=8), jnp.float32)
  keys = _sampling.example_keys(jax.random.key(3), 20_000)
  kept = _sampling.filter_logits(logits, 0.7, 6, 0.9)
  ids = _sampling.draw(keys, jnp.tile(kept[None], (20_000, 1)))
  chi2(np.bincount(ids, minlength=8), by_sorting(logits, 0.7, 6, 0.9))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_an_example_draws_the_same_in_any_batch(impl):
  key = jax.random.key(5, impl=impl)
  few, many = (_sampling.gumbel(_sampling.example_keys(key, n), (6,)) for n in (3, 5))
  np.testing.assert_array_equal(few, many[:3])
  assert len(np.unique(many)) == many.size
  keys = jax.random.split(key, 4)
  order = jnp.asarray([2, 0, 3, 1])
  each, moved = (_sampling.gumbel(_sampling.example_keys(k, 4), (6,)) for k in (keys, keys[order]))
  np.testing.assert_array_equal(each[order], moved)
  assert len(np.unique(each)) == each.size


@pytest.mark.parametrize(
  "options,word",
  [
    (dict(top_k=0), "top_k: 0"),
    (dict(top_k=9), "top_k: 9"),
    (dict(top_p=0.0), "top_p"),
    (dict(top_p=1.1), "top_p"),
    (dict(temperature=-0.1), "temperature"),
    (dict(temperature=float("nan")), "temperature"),
    (dict(steps=0), "steps"),
  ],
)
def test_options_out_of_range_are_one_clear_line(options, word):
  _sampling.check_options(8, top_k=8, top_p=1.0, temperature=0.0, steps=1)
  with pytest.raises(UserError, match=word) as e:
    _sampling.check_options(8, **options)
  assert "\n" not in str(e.value)


def test_wrong_number_of_keys():
  with pytest.raises(ValueError, match="4 examples"):
    _sampling.example_keys(jax.random.split(jax.random.key(0), 3), 4)
