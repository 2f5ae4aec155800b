"""Spectra against SciPy and PyTorch, distances against their definition."""

import jax
import numpy as np
import pytest
import scipy.signal

from vqjax.nn import spectra, target

X = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 1_000, 1)).astype(np.float32)


@pytest.mark.parametrize("window, hop", [(64, 16), (64, 24), (512, 128)])
def test_stft_is_scipys(window, hop):
  ours = np.asarray(spectra.stft(X, window, hop))
  padded = np.pad(X[0, :, 0], window // 2, mode="reflect")
  starts = range(0, len(padded) - window + 1, hop)
  hann = scipy.signal.get_window("hann", window)
  theirs = np.stack([np.fft.rfft(padded[s : s + window] * hann) for s in starts])
  assert ours.shape == (2, 1, 1 + 1_000 // hop, window // 2 + 1)
  np.testing.assert_allclose(ours[0, 0], theirs, atol=1e-4)


@pytest.mark.parametrize("window", [1, 7, 64, 600])
def test_the_transform_as_a_product(window):
  x = np.random.default_rng(window).normal(size=(3, window)).astype(np.float32)
  np.testing.assert_allclose(spectra._product(x), np.fft.rfft(x), atol=2e-5 * window**0.5)


def test_where_the_transform_is_xlas_own():
  uses = lambda fn: "fft" in str(jax.make_jaxpr(fn)(X))
  assert jax.device_count() > 1 and not uses(lambda x: spectra.magnitudes(x, 64))
  with target.tracing_for(jax.devices()[:1]):
    assert uses(lambda x: spectra.magnitudes(x, 64))


def test_sounds_shorter_than_a_window():
  assert np.isfinite(np.asarray(spectra.stft(X[:, :1], 64))).all()
  assert float(spectra.mel_distance(X[:, :7], X[:, :7], 8_000)) == 0


def test_mel_scale_is_slaneys():
  """Values of librosa's hz_to_mel and mel_frequencies, which are published with it."""
  np.testing.assert_allclose(spectra.to_mel(60), 0.9)
  np.testing.assert_allclose(spectra.to_mel(np.array([110, 220, 440])), [1.65, 3.3, 6.6])
  hertz = np.array([10.0, 999.0, 1_001.0, 9_000.0])
  np.testing.assert_allclose(spectra.from_mel(spectra.to_mel(hertz)), hertz)
  np.testing.assert_allclose(spectra.to_mel(6_400), 15 + 27, rtol=1e-12)


def test_bands_have_equal_areas_and_cover_the_middle():
  filters = spectra.mel_filters(16_000, 2_048, 40)
  assert filters.shape == (1_025, 40) and (filters >= 0).all()
  np.testing.assert_allclose(filters[:, 5:].sum(0) * 16_000 / 2_048, 1.0, rtol=0.05)


def test_gradients_at_silence_and_at_the_sound_itself():
  for distance in (
    lambda x, r: spectra.mel_distance(x, r, 8_000, (32, 64)),
    lambda x, r: spectra.stft_distance(x, r, (64,)),
  ):
    run = jax.jit(jax.value_and_grad(distance, argnums=1))
    for x, y in ((X, X), (X, 0 * X), (0 * X, 0 * X)):
      value, grad = run(x, y)
      assert np.isfinite(grad).all() and (value == 0) == np.array_equal(x, y)
