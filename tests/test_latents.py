"""Codes and floats as sequences: there and back, what can stand where, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.latents import Codes, Floats

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
  ids = jnp.array([[[0, 1, 2], [4, 4, 4]]])
  np.testing.assert_array_equal(latent.flatten(ids), [[0, 1, 2, 4, 4, 4]])
  np.testing.assert_array_equal(latent.tokens(ids), [[[0, 6, 12], [4, 9, 14]]])
  # A mask comes after the codes of all books; what is no code at all is -1.
  np.testing.assert_array_equal(latent.numbered(jnp.array([5, 6, -3, 1])), [15, 16, -1, 1])
  places = jnp.array([-1, 2, 4])
  np.testing.assert_array_equal(latent.numbered(jnp.array([3, 3, 5]), places), [-1, 13, 15])
  assert Codes([np.int64(2)], 5, 3) == latent and Codes((2, 3), 5).grid == (2, 3)


def test_channels_are_normalised():
  latent = LATENTS["floats"]
  z = np.broadcast_to(np.array([2.0, 2.0], np.float32), (1, 2, 3, 2))
  np.testing.assert_allclose(latent.flatten(z), np.broadcast_to([2.0, 1.0], (1, 6, 2)))
  np.testing.assert_allclose(latent.unflatten(latent.blank(1))[0, 1, 2], latent.mean)


@pytest.mark.parametrize("order", ["flattened", "parallel", "delayed"])
def test_steps_hold_every_code_once(order):
  latent = Codes((2, 3), 5, books=4, order=order)
  flat = latent.flatten(np.arange(48).reshape(2, 2, 3, 4))
  steps = latent.arrange(flat, fill=-1)
  assert steps.shape == (2, *latent.places.shape) and len(latent.places) == latent.steps
  assert np.prod(latent.step_grid) == latent.steps
  assert latent.cycle * latent.places.shape[1] == latent.books
  np.testing.assert_array_equal(latent.collect(steps), flat)
  np.testing.assert_array_equal(np.sort(steps[steps >= 0]), np.arange(48))
  np.testing.assert_array_equal(steps < 0, np.broadcast_to(latent.places < 0, steps.shape))
  # Slot j of every step of a cycle belongs to one book, which is that of step s + cycle too.
  books = np.where(latent.places < 0, -1, latent.places % 4)
  again = books[latent.cycle :]
  both = (again >= 0) & (books[: len(again)] >= 0)
  assert (again == books[: len(again)])[both].all()


def test_floats_go_one_vector_a_step():
  latent, z = LATENTS["floats"], jnp.arange(24.0).reshape(2, 6, 2)
  assert latent.step_grid == (2, 3) and latent.steps == 6 and latent.places.shape == (6, 1)
  np.testing.assert_array_equal(latent.arrange(z, 0)[:, :, 0], z)
  np.testing.assert_array_equal(latent.collect(latent.arrange(z, 0)), z)


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
