"""Figures of sound against values worked out by hand."""

import jax
import numpy as np
import pytest

from vqjax.evaluators import sound
from vqjax.signals import audio

MEASURE = sound.Measure(signal=audio.Signal(8_000))
SHAPE = (2, 4_096, 1)  # of all, so that one program serves
UPDATE = jax.jit(
  lambda real, recon, mask: MEASURE.update((), {"audio": real}, {"audio": recon}, mask)
)


def figures(real, recon, mask=(1, 1)):
  return MEASURE.result(jax.device_get(UPDATE(real, recon, np.float32(mask))))


def test_si_sdr_is_the_ratio_of_what_is_along_and_across():
  rng = np.random.default_rng(0)
  real = rng.standard_normal(SHAPE).astype(np.float32) * 0.02
  across = rng.standard_normal(real.shape).astype(np.float32) * 0.1
  across -= (across * real).sum(1, keepdims=True) / (real**2).sum(1, keepdims=True) * real
  across *= np.linalg.norm(real, axis=1, keepdims=True) / np.linalg.norm(
    across, axis=1, keepdims=True
  )
  recon = 3 * real + 0.3 * across  # 20 decibels, at any loudness
  assert abs(figures(real, recon)["si_sdr"] - 20) < 1e-2
  assert figures(real, real)["si_sdr"] == 100 and figures(real, across)["si_sdr"] < -50


def test_what_is_silent_has_no_si_sdr():
  real = np.zeros(SHAPE, np.float32)
  real[0] = 0.1 * np.random.default_rng(0).standard_normal(SHAPE[1:])
  assert figures(real, real)["si_sdr"] == 100
  assert figures(real, real, (0, 1))["si_sdr"] == 0
  assert np.isfinite(list(figures(real, real * 0).values())).all()


def test_spectra_of_what_is_ten_times_louder():
  """One step of log10 power squared is 2, of magnitude 1, in every band and at every window."""
  real = 0.1 * np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
  found = figures(real / 10, real)
  assert abs(found["log_spectral_distance"] - 2) < 0.05
  assert abs(found["mel_distance"] - 7) < 0.35  # seven windows
  assert found["si_sdr"] == pytest.approx(100, abs=1)
