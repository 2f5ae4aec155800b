"""Snake's sine against NumPy's."""

import jax
import numpy as np
import pytest

from vqjax.nn import waves


@pytest.mark.parametrize("most", [2, 100, 10_000])
def test_the_squared_sine_and_its_gradient(most):
  x = np.random.default_rng(0).uniform(-most, most, 4_000).astype(np.float32)
  value, grad = jax.vmap(jax.value_and_grad(waves.sine_squared))(x)
  np.testing.assert_allclose(value, np.sin(x.astype(float)) ** 2, atol=3e-7)
  np.testing.assert_allclose(grad, np.sin(2 * x.astype(float)), atol=1e-6)
