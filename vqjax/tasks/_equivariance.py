"""Equivariance of a decoder (EQ-VAE, arXiv 2502.09509): latents that are turned or made smaller
decode to the picture that is turned or made smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

_SHARES = (1.0, 0.75, 0.5, 0.25)  # of the grid's sides; the paper's lie between 1/4 and 1


def sides(grid: tuple[int, int]) -> tuple[tuple[int, int], ...]:
  """The grids that latents are brought to, the whole one first."""
  shrunk = [tuple(max(1, round(share * n)) for n in grid) for share in _SHARES]
  return tuple(dict.fromkeys(shrunk))


def moved(x: jax.Array, side: tuple[int, int], turn: int) -> jax.Array:
  """`[B, H, W, C]` resized to `side`, linearly and without aliasing, and turned by quarters."""
  if x.shape[1:3] != side:
    x = jax.image.resize(x, (len(x), *side, x.shape[-1]), "linear")
  return jnp.rot90(x, turn, axes=(1, 2))


def loss(
  key: jax.Array, z: jax.Array, x: jax.Array, compare: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
  """`compare(moved z, moved x)` under one movement for the batch, a scalar.

  Args:
    z: latents [B, h, w, D] as the decoder reads them.
    x: what was encoded, [B, H, W, C], its sides a multiple of theirs.
    compare: the loss of what is decoded of the first against the second.
  """
  grid, size = z.shape[1:3], x.shape[1:3]
  factors = tuple(n // g for n, g in zip(size, grid))
  # Quarter turns of what is no square would have other shapes, which is no matter.
  moves = [(side, turn) for side in sides(grid) for turn in range(4)][1:]  # not the one as it is

  def branch(side: tuple[int, int], turn: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    whole = tuple(n * f for n, f in zip(side, factors))
    return lambda z, x: compare(moved(z, side, turn), moved(x, whole, turn))

  index = jax.random.randint(key, (), 0, len(moves))
  return jax.lax.switch(index, [branch(*move) for move in moves], z, x)
