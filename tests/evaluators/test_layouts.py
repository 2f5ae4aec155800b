"""Measures of label maps against counting."""

import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import evaluators
from vqjax.evaluators import layouts
from vqjax.signals.layout import Signal

MEASURE = layouts.Measure(signal=Signal(classes=4))


def test_written_out():
  real = np.array([[[0, 0], [1, 1]], [[0, 0], [0, 0]], [[2, 2], [2, 2]]])
  recon = np.array([[[0, 1], [1, 1]], [[0, 0], [0, 2]], [[3, 3], [3, 3]]])
  batch, out = ({"layout": jnp.asarray(maps)} for maps in (real, recon))
  sums = MEASURE.update((), batch, out, jnp.array([1.0, 1.0, 0.0]))
  # 0: 4 of 6; 1: 2 of 3; 2: 0 of 1; the last map is padding, and class 3 does not occur.
  expected = {"pixel_accuracy": 6 / 8, "mean_iou": (4 / 6 + 2 / 3 + 0) / 3}
  assert MEASURE.result(evaluators.add(None, sums)) == pytest.approx(expected)
