"""Codes and floats as sequences: there and back, what can stand where, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.latents import IMPOSSIBLE, Codes, Floats

LATENTS = {
  "codes": Codes((2, 3), 5),
  "books": Codes((2,), 5, books=3),
  "floats": Floats((2, 3), 2, (1.0, -2.0), (0.5, 4.0)),
}


def example(latent):
  rng = np.random.default_rng(0)
  if isinstance(latent, Floats):
    return rng.normal(size=(4, *latent.grid, latent.width)).astype(np.float32)
  return rng.integers(latent.size, size=(4, *latent.grid))


@pytest.mark.parametrize("latent", LATENTS.values(), ids=LATENTS)
def test_a_sequence_and_back(latent):
  x = example(latent)
  flat = latent.flatten(x)
  assert flat.shape == latent.blank(4).shape and flat.shape[:2] == (4, latent.length)
  assert flat.dtype == latent.blank(4).dtype == latent.dtype and not latent.blank(4).any()
  back = latent.unflatten(flat)
  assert back.dtype == latent.dtype
  np.testing.assert_allclose(back, x, atol=1e-6)
  assert latent == type(latent)(**vars(latent)) and hash(latent) == hash(
    type(latent)(**vars(latent))
  )


def test_books_follow_one_another():
  latent = LATENTS["books"]
  assert (latent.grid, latent.length, latent.vocabulary) == ((2, 3), 6, 15)
  np.testing.assert_array_equal(
    latent.flatten(jnp.array([[[0, 1, 2], [4, 4, 4]]])), [[0, 6, 12, 4, 9, 14]]
  )
  np.testing.assert_array_equal(latent.first_of_book(4), [0, 5, 10, 0])
  assert Codes([np.int64(2)], 5, 3) == latent and Codes((2, 3), 5).grid == (2, 3)


def test_channels_are_normalised():
  latent = LATENTS["floats"]
  z = np.broadcast_to(np.array([2.0, 2.0], np.float32), (1, 2, 3, 2))
  np.testing.assert_allclose(latent.flatten(z), np.broadcast_to([2.0, 1.0], (1, 6, 2)))
  np.testing.assert_allclose(latent.unflatten(latent.blank(1))[0, 1, 2], latent.mean)


def test_restrict_leaves_each_position_its_book():
  latent, logits = (
    LATENTS["books"],
    jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 15)), jnp.float32),
  )
  whole = latent.restrict(logits)
  own = np.arange(15)[None] // 5 == np.arange(6)[:, None] % 3
  np.testing.assert_array_equal(whole, np.where(own, logits, np.float32(IMPOSSIBLE)))
  np.testing.assert_array_equal(latent.possible(6), own)
  at = jax.jit(latent.restrict)
  for i in range(6):
    np.testing.assert_array_equal(at(logits[:, i], i), whole[:, i])
  np.testing.assert_array_equal(latent.restrict(logits[:, 4], 4), whole[:, 4])
  for name in ("codes", "floats"):
    assert LATENTS[name].restrict(logits) is logits and LATENTS[name].restrict(logits, 1) is logits


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: Codes((), 4), r"shape: \(\) has no axis"),
    (lambda: Codes((4, 0), 4), "shape: 0 is no whole number from 1 up"),
    (lambda: Codes((4, 2.0), 4), "shape: 2.0 is no"),
    (lambda: Codes((4,), 0), "size: 0 is no"),
    (lambda: Codes((4,), 4, books=True), "books: True is no"),
    (lambda: Floats((-1,), 1, (0.0,), (1.0,)), "shape: -1 is no"),
    (lambda: Floats((4,), 0), "width: 0 is no"),
    (lambda: Floats((4,), 2, (0.0,), (1.0, 1.0)), r"mean: 1 number\(s\) for 2 channels"),
    (lambda: Floats((4,), 1, (np.nan,), (1.0,)), r"mean: \(nan,\) are not finite numbers"),
    (lambda: Floats((4,), 1, (0.0,), (0.0,)), r"std: \(0.0,\) are not finite positive numbers"),
  ],
)
def test_impossible_values_are_refused_in_one_line(make, message):
  with pytest.raises(UserError, match=message) as e:
    make()
  assert "\n" not in str(e.value)
