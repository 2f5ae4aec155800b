"""Grid: 1 without one, more with one, by its period alone."""

import jax
import numpy as np
import pytest

from vqjax import evaluators
from vqjax.errors import UserError
from vqjax.evaluators import grid

MEASURE = grid.Measure()
UPDATE = jax.jit(MEASURE.update)


@pytest.fixture
def image():
  """Noise with all frequencies, smoothed a little."""
  noise = np.random.default_rng(0).normal(size=(16, 64, 64, 3))
  smooth = noise + np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2)
  return np.clip(128 + 25 * smooth, 0, 255).astype(np.uint8)


def figures(image, recon01):
  out = {"image": (2 * recon01 - 1).astype(np.float32)}
  sums = UPDATE((), {"image": image}, out, np.ones(len(image), np.float32))
  return MEASURE.result(evaluators.add(None, sums))


def test_a_pattern_shows_at_its_period(image):
  x = image / 255.0
  tile = np.random.default_rng(1).normal(size=(4, 4, 1)) * 0.05
  pattern = np.tile(tile, (16, 16, 1))
  same, with_grid = figures(image, x), figures(image, x + pattern)
  assert all(abs(value - 1) < 1e-6 for value in same.values())
  assert with_grid["grid"] == max(with_grid.values()) and with_grid["grid/4"] > 1.5
  # Half the contrast, a blur and noise are no grid.
  blur = (x + np.roll(x, 1, 1) + np.roll(x, 1, 2) + np.roll(x, (1, 1), (1, 2))) / 4
  noise = x + 0.1 * np.random.default_rng(2).normal(size=x.shape)
  for other in (0.5 * x + 0.25, blur, noise):
    got = figures(image, other)
    assert max(got.values()) < 1.35, got


def test_periods_that_do_not_fit(image):
  got = figures(image[:, :28, :28], image[:, :28, :28] / 255.0)
  assert got == pytest.approx({"grid": 1, "grid/2": 1, "grid/4": 1})
  for nothing in (image[:, :10, :10], np.zeros_like(image)):
    with pytest.raises(UserError, match=r"none of periods=\(2, 4, 8\) .* leave the measure out"):
      figures(nothing, nothing / 255.0)
  with pytest.raises(UserError, match="periods=\\(1,\\): give periods"):
    grid.Measure(periods=(1,))
