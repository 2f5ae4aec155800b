"""SSIM against a brute-force version of its definition."""

import jax
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.evaluators import ssim


def brute_force(x, y):
  """One window at a time, weighted moments by definition."""
  offsets = np.arange(11) - 5
  weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
  weights /= weights.sum()
  values = []
  for i in range(x.shape[0] - 10):
    for j in range(x.shape[1] - 10):
      for c in range(x.shape[2]):
        a, b = x[i : i + 11, j : j + 11, c], y[i : i + 11, j : j + 11, c]
        ma, mb = (weights * a).sum(), (weights * b).sum()
        va, vb, cov = (
          (weights * u).sum() for u in ((a - ma) ** 2, (b - mb) ** 2, (a - ma) * (b - mb))
        )
        values.append(
          (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
        )
  return np.mean(values)


def test_brute_force():
  rng = np.random.default_rng(0)
  x = rng.uniform(size=(3, 13, 16, 2))
  x[2] = x[2] * 0.01 + 0.9  # nearly flat and bright: the variance is a small difference
  y = np.clip(x + 0.1 * rng.normal(size=x.shape), 0, 1)
  y[1] = 1 - x[1]
  got = jax.jit(ssim.ssim)(x.astype(np.float32), y.astype(np.float32))
  np.testing.assert_allclose(got, [brute_force(a, b) for a, b in zip(x, y)], rtol=1e-3, atol=1e-4)
  assert got[1] < 0
  np.testing.assert_allclose(ssim.ssim(x.astype(np.float32), x.astype(np.float32)), 1, rtol=1e-5)


def test_small_images_are_told():
  with pytest.raises(UserError, match="at least 11 pixels, got 8x20"):
    ssim.ssim(np.zeros((1, 8, 20, 3), np.float32), np.zeros((1, 8, 20, 3), np.float32))
