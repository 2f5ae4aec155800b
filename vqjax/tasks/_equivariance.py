"""Equivariance of a decoder (EQ-VAE, arXiv 2502.09509): latents that are turned or made smaller
decode to the picture that is turned or made smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

_SHARES = (1.0, 0.75, 0.5, 0.25)  # of the grid's sides; the paper's lie between 1/4 and 1


def sides(grid: tuple[int, int]) -> tuple[tuple[int, int], ...]:
  """The grids that latents are brought to, the whole one first."""
  shrunk = [tuple(max(1, round(share * n)) for n in grid) for share in _SHARES]
  return tuple(dict.fromkeys(shrunk))


def turned(x: jax.Array, quarters: Sequence[int], index: jax.Array) -> jax.Array:
  """`[B, H, W, C]` turned by one of several numbers of quarters, all of one shape."""
  ways = [lambda x, n=n: jnp.rot90(x, n, axes=(1, 2)) for n in quarters]
  return jax.lax.switch(index, ways, x)


def shrunk(x: jax.Array, side: tuple[int, int]) -> jax.Array:
  """`[B, H, W, C]` resized linearly and without aliasing."""
  return jax.image.resize(x, (len(x), *side, x.shape[-1]), "linear")


def loss(
  key: jax.Array, z: jax.Array, x: jax.Array, compare: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
  """`compare(moved z, moved x)`, a scalar: each size with a share of the batch, under one turn.

  The paper draws one size for a batch. All of them together need no branch that holds a decoder,
  whose gradient XLA's CPU backend would run ten times slower there, and vary less.

  Args:
    z: latents [B, h, w, D] as the decoder reads them.
    x: what was encoded, [B, H, W, C], its sides a multiple of theirs.
    compare: the loss of what is decoded of the first against the second.
  """
  grid, size = z.shape[1:3], x.shape[1:3]
  factors = tuple(n // g for n, g in zip(size, grid))
  targets = sides(grid)[: len(z)]
  total = 0.0
  for i, side in enumerate(targets):
    # Every n-th example: devices that hold as many multiples keep their own.
    own_z, own_x = z[i :: len(targets)], x[i :: len(targets)]
    quarters = range(4) if side[0] == side[1] and size[0] == size[1] else range(0, 4, 2)
    quarters = quarters[1:] if side == grid else quarters  # not the one as it is
    index = jax.random.randint(jax.random.fold_in(key, i), (), 0, len(quarters))
    whole = tuple(n * f for n, f in zip(side, factors))
    own_z, own_x = shrunk(own_z, side), shrunk(own_x, whole)
    value = compare(turned(own_z, quarters, index), turned(own_x, quarters, index))
    total += value * len(own_z) / len(z)
  return total
