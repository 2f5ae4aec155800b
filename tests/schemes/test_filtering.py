"""Temperature, top-k and top-p against sorting, and keys per example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.schemes import Draw, _sampling


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
  fast = jax.jit(lambda x: jax.nn.softmax(Draw(temperature, top_k, top_p).filter(x)))(logits)
  slow = np.stack(
    [by_sorting(row, temperature, top_k, top_p) for row in logits.reshape(-1, 100)]
  ).reshape(logits.shape)
  np.testing.assert_array_equal(np.asarray(fast) > 0, slow > 0)
  np.testing.assert_allclose(fast, slow, atol=1e-5)


def test_filters_keep_equals_and_survive_extremes():
  keep = lambda logits, **options: np.isfinite(Draw(**options).filter(jnp.asarray(logits))).tolist()
  assert keep([1.0, 2.0, 2.0, 0.0], top_k=1) == [False, True, True, False]
  assert keep([0.0, 0.0, 0.0, 0.0], top_p=0.5) == [True] * 4
  assert keep([1e4, -1e4, 0.0, 0.0], top_p=0.5) == [True, False, False, False]
  assert keep([5.0, 5.0, 1.0, 0.0], temperature=0.0) == [True, False, False, False]


def test_draws_follow_the_filtered_distribution(chi2):
  logits = jnp.asarray(np.random.default_rng(2).normal(size=8), jnp.float32)
  keys = _sampling.example_keys(jax.random.key(3), 20_000)
  kept = Draw(0.7, 6, 0.9).filter(logits)
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
  "name,value",
  [
    ("temperature", -0.1),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("temperature", "1"),
    ("temperature", 1e-38),
    ("top_k", 0),
    ("top_k", 2.5),
    ("top_k", 3.0),
    ("top_k", True),
    ("top_p", 0.0),
    ("top_p", 1.1),
    ("top_p", float("nan")),
  ],
)
def test_options_out_of_range_are_one_clear_line(name, value):
  with pytest.raises(UserError, match=f"^{name}: {value!r} is ") as e:
    Draw(**{name: value})
  assert "\n" not in str(e.value)


def test_numbers_are_traced_and_what_leaves_a_step_out_is_not():
  structure = lambda **options: jax.tree.structure(Draw(**options))
  assert structure(temperature=0.5, top_p=0.3) == structure(temperature=2, top_p=np.float32(0.9))
  assert len({structure(), structure(temperature=0), structure(top_p=0.9), structure(top_k=2)}) == 4
  assert structure(top_p=1) != structure() == structure(temperature=3)
  logits = jax.random.normal(jax.random.key(0), (3, 8))
  for how in (Draw(0.7, 6, 0.9), Draw(0), Draw(0.5, None, 1.0)):
    filtered = jax.jit(Draw.filter)(how, logits)
    np.testing.assert_allclose(filtered, how.filter(logits), rtol=1e-6)


def test_top_k_is_held_against_the_number_of_codes_when_it_is_known():
  jax.eval_shape(Draw(np.float32(0.0), np.int64(8), 1).filter, jnp.zeros(8))
  with pytest.raises(UserError, match="top_k: 9 is outside 1 to 8, the number of codes"):
    jax.eval_shape(Draw(top_k=9).filter, jnp.zeros(8))


def test_noise_reaches_codes_too_rare_for_23_random_bits():
  """The upper tail exp(-g) of noise made of 23 bits takes whole multiples of 2^-23 alone, and ends
  there: of 2^17 codes far in a flat tail nearly none could ever win.
  """
  keys = _sampling.example_keys(jax.random.key(0), 32)
  noise = np.asarray(jax.jit(lambda keys: _sampling.gumbel(keys, (2**17,)))(keys), np.float64)
  share = -np.expm1(-np.exp(-noise[noise > 10]))
  assert 120 < share.size < 270  # of 2^22 · exp(-10) = 190
  off_grid = np.abs(share * 2**23 - np.round(share * 2**23))
  assert 0.2 < off_grid.mean() < 0.3


def test_wrong_number_of_keys():
  with pytest.raises(ValueError, match="4 examples"):
    _sampling.example_keys(jax.random.split(jax.random.key(0), 3), 4)
