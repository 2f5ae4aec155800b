"""Frames of video: the figures of each are those of images, those of change by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import evaluators
from vqjax.evaluators import distortion, frames, ssim

RNG = np.random.default_rng(0)
REAL = RNG.integers(0, 256, (3, 4, 12, 16, 3)).astype(np.uint8)
RECON = np.clip(REAL / 127.5 - 1 + 0.2 * RNG.normal(size=REAL.shape), -1, 1).astype(np.float32)


@functools.cache
def update(measure):
  return jax.jit(measure.update)


def figures(measure, field, real, recon):
  mask = np.ones(len(real), np.float32)
  batch, out = {field: jnp.asarray(real)}, {field: jnp.asarray(recon)}
  return measure.result(evaluators.add(None, update(measure)((), batch, out, mask)))


def test_each_frame_is_measured_as_an_image():
  found = figures(frames.Measure(), "video", REAL, RECON)
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  for name, measure in (("psnr", distortion.Measure()), ("ssim", ssim.Measure())):
    whole = figures(measure, "image", flat(REAL), flat(RECON))[name]
    np.testing.assert_allclose(found[name], whole, rtol=1e-5)
    for t in range(4):
      one = figures(measure, "image", REAL[:, t], RECON[:, t])[name]
      np.testing.assert_allclose(found[f"{name}_at/{t}"], one, rtol=1e-5)


def test_a_constant_error_changes_nothing_and_a_flicker_does():
  still = np.repeat(REAL[:, :1], 4, axis=1) // 2 + 40
  scale = lambda x: (x / 127.5 - 1).astype(np.float32)
  brighter = figures(frames.Measure(), "video", still, scale(still + 20))
  flicker = figures(
    frames.Measure(),
    "video",
    still,
    scale(still + 20 * (np.arange(4) % 2)[None, :, None, None, None]),
  )
  assert brighter["psnr_of_change"] == 100 > brighter["psnr"]
  np.testing.assert_allclose(flicker["psnr_of_change"], -20 * np.log10(20 / 255), rtol=1e-5)
  assert flicker["psnr"] > brighter["psnr"]


def test_small_frames_have_no_ssim_and_one_frame_no_change():
  found = figures(frames.Measure(), "video", REAL[:, :1, :8], RECON[:, :1, :8])
  assert found.keys() == {"psnr", "psnr_at/0"}
