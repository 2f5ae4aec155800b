"""Patches against slices of the grid."""

import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.nn import patches


@pytest.mark.parametrize("sides", [(3,), (2, 3), (1, 3, 2)])
def test_patches_are_blocks_of_the_grid(sides):
  grid = (2, 3, 4)[: len(sides)]
  size = [n * s for n, s in zip(grid, sides, strict=True)]
  x = jnp.arange(2 * np.prod(size) * 5).reshape(2, *size, 5)
  cut = patches.cut(x, sides)
  assert cut.shape == (2, *grid, np.prod(sides) * 5)
  where = (1, 2, 3)[: len(sides)]
  block = x[(1, *(slice(i * s, (i + 1) * s) for i, s in zip(where, sides, strict=True)))]
  np.testing.assert_array_equal(cut[(1, *where)], block.reshape(-1))
  np.testing.assert_array_equal(patches.join(cut, sides), x)


@pytest.mark.parametrize("grid", [(3,), (2, 3), (2, 3, 4)])
def test_double_repeats_positions(grid):
  x = jnp.arange(2 * np.prod(grid)).reshape(1, *grid, 2)
  expected = x
  for axis in range(1, x.ndim - 1):
    expected = np.repeat(expected, 2, axis)
  np.testing.assert_array_equal(patches.repeat(x, (2,) * (x.ndim - 2)), expected)
