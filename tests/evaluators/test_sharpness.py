"""Sharpness: energies against known spectra, and the order of blur, noise and detail."""

import jax
import numpy as np
import pytest

from vqjax import evaluators
from vqjax.errors import UserError
from vqjax.evaluators import sharpness

MEASURE = sharpness.Measure()
UPDATE = jax.jit(MEASURE.update)


def figures(image, recon01):
  out = {"image": (2 * recon01 - 1).astype(np.float32)}
  sums = UPDATE((), {"image": image}, out, np.ones(len(image), np.float32))
  return MEASURE.result(evaluators.add(None, sums))


@pytest.fixture
def image():
  """Noise with all frequencies, smoothed a little."""
  noise = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
  smooth = noise + np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2)
  return np.clip(128 + 25 * smooth, 0, 255).astype(np.uint8)


def test_a_wave_lies_in_its_band():
  wave = np.cos(2 * np.pi * 0.18 * np.arange(64, dtype=np.float32))
  x = np.broadcast_to(wave[None, None, :, None], (1, 64, 64, 1))
  energy = np.asarray(sharpness.band_energy(x, (0.0625, 0.125, 0.25)))[0]
  assert energy[2] > 0.99 * energy.sum()
  window = np.outer(np.hanning(66)[1:-1], np.hanning(66)[1:-1])
  np.testing.assert_allclose(
    energy.sum(), ((x[0, :, :, 0] - x.mean()) ** 2 * window**2).sum(), rtol=1e-4
  )


def test_halved_contrast_has_a_quarter_of_the_energy(image):
  x = image / 255.0
  half = x.mean(axis=(1, 2), keepdims=True) + 0.5 * (x - x.mean(axis=(1, 2), keepdims=True))
  got = figures(image, half)
  for key, value in got.items():
    np.testing.assert_allclose(value, 0.25, rtol=0.02, err_msg=key)


def test_blur_and_noise(image):
  x = image / 255.0
  blurred = sum(np.roll(x, (i, j), axis=(1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
  noisy = np.clip(x + 0.2 * np.random.default_rng(1).normal(size=x.shape), 0, 1)
  same, blur, noise = figures(image, x), figures(image, blurred), figures(image, noisy)
  np.testing.assert_allclose([same["sharpness"], same["residual/0.25-max"]], [1, 0], atol=1e-6)
  assert blur["sharpness"] < 0.2 and blur["sharpness/0-0.0625"] > 0.8
  assert noise["sharpness"] > 1.2
  assert 0.7 < blur["residual/0.25-max"] < 1.4


def test_bands_without_detail_in_the_originals_are_left_out():
  flat = np.full((1, 8, 8, 1), 7, np.uint8)
  assert figures(flat, flat / 255.0) == {}


def test_edges_must_rise():
  with pytest.raises(UserError, match="rising frequencies"):
    sharpness.Measure(edges=(0.25, 0.125))
