"""Usage, perplexity and bits against counting."""

import jax
import numpy as np
import pytest

from vqjax import evaluators
from vqjax.errors import UserError
from vqjax.evaluators import codes
from vqjax.latents import Codes


def figures(measure, *ids, mask=None):
  total = None
  for part in ids:
    first = part[0] if isinstance(part, tuple) else part
    kept = np.ones(len(first), np.float32) if mask is None else mask
    total = evaluators.add(total, jax.jit(measure.update)((), {}, {"ids": part}, kept))
  return measure.result(total)


def test_one_codebook():
  # Over both batches: code 0 four times, code 1 twice, code 5 twice.
  a, b = np.array([[[0, 0], [1, 5]]], np.int32), np.array([[[0, 1], [0, 5]]], np.int32)
  got = figures(codes.Measure(levels=(Codes((2, 2), 8),)), a, b)
  assert got.keys() == {"usage", "perplexity", "bits_per_image", "entropy_bits_per_image"}
  np.testing.assert_allclose(got["usage"], 3 / 8)
  np.testing.assert_allclose(got["perplexity"], 2**1.5)
  np.testing.assert_allclose(got["bits_per_image"], 4 * 3)
  np.testing.assert_allclose(got["entropy_bits_per_image"], 4 * 1.5)


def test_padding_is_not_counted():
  ids = np.array([[0, 1], [2, 2]], np.int32)
  got = figures(codes.Measure(levels=(Codes((2,), 4),)), ids, mask=np.array([1.0, 0.0], np.float32))
  np.testing.assert_allclose([got["usage"], got["perplexity"], got["bits_per_image"]], [0.5, 2, 4])


def test_hierarchy_with_several_codebooks():
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 4, size=(3, 2, 2, 2)).astype(np.int32)
  fine = rng.integers(0, 16, size=(3, 4, 4)).astype(np.int32)
  got = figures(codes.Measure(levels=(Codes((2, 2), 4, 2), Codes((4, 4), 16))), (coarse, fine))
  books = {"0.0": (coarse[..., 0], 4), "0.1": (coarse[..., 1], 4), "1.0": (fine, 16)}
  perplexities, bits = [], 0.0
  for name, (ids, size) in books.items():
    p = np.bincount(ids.ravel(), minlength=size) / ids.size
    entropy = -sum(q * np.log2(q) for q in p if q > 0)
    perplexities.append(2**entropy)
    bits += entropy * ids.size / 3
    np.testing.assert_allclose(got[f"codes/{name}/usage"], (p > 0).mean())
    np.testing.assert_allclose(got[f"codes/{name}/perplexity"], 2**entropy)
  np.testing.assert_allclose(got["perplexity"], np.mean(perplexities))
  np.testing.assert_allclose(got["entropy_bits_per_image"], bits)
  np.testing.assert_allclose(got["bits_per_image"], 4 * 2 * 2 + 16 * 4)


def test_no_codes_and_too_many_are_told():
  with pytest.raises(UserError, match="no codes to count"):
    codes.Measure().update((), {}, {"ids": None}, np.ones(1))
  with pytest.raises(UserError, match="at most 16777216"):
    codes.Measure(levels=(Codes((2, 2), 2**30),))
