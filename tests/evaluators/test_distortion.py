"""MSE and PSNR against their definitions."""

import jax
import numpy as np

from vqjax import evaluators
from vqjax.evaluators import distortion

MEASURE = distortion.Measure()
UPDATE = jax.jit(MEASURE.update)


def figures(image, recon):
  mask = np.ones(len(image), np.float32)
  return MEASURE.result(evaluators.add(None, UPDATE((), {"image": image}, {"image": recon}, mask)))


def test_values_by_hand():
  """Off by 51 levels of 255 is an error of 0.2; by 25.5 after rounding 26."""
  image = np.full((2, 4, 4, 1), 100, np.uint8)
  recon = np.stack(
    [np.full((4, 4, 1), 151 / 127.5 - 1), np.full((4, 4, 1), 125.6 / 127.5 - 1)]
  ).astype(np.float32)
  mse = np.array([0.2**2, (26 / 255) ** 2])
  got = figures(image, recon)
  np.testing.assert_allclose(got["mse"], mse.mean(), rtol=1e-5)
  np.testing.assert_allclose(got["psnr"], (-10 * np.log10(mse)).mean(), rtol=1e-5)
  np.testing.assert_allclose(got["psnr_of_mse"], -10 * np.log10(mse.mean()), rtol=1e-5)


def test_every_level_survives_the_scale():
  image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  recon = image.astype(np.float32) / 127.5 - 1
  assert figures(image, recon) == {"mse": 0.0, "psnr": 100.0, "psnr_of_mse": 100.0}
  beyond = np.where(image == 255, 1.7, recon).astype(np.float32)
  assert figures(image, beyond)["mse"] == 0.0


def test_the_host_adds_in_double_precision():
  total = evaluators.add({"x": np.float64(2**24)}, {"x": np.float32(1)})
  assert total["x"] == 2**24 + 1
