"""What priors share: token embeddings with holes, a prefix of tokens as the condition of a network
on a grid.
"""

from __future__ import annotations

import functools
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from vqjax.errors import UserError
from vqjax.nn import codebook


class Embed(nn.Module):
  """Embeds ids `[...]` in 0 to rows - 1 as `[..., width]`; a negative id is a hole and reads the
  learned `null`.
  """

  rows: int
  width: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    table = self.param("table", nn.initializers.normal(0.02), (self.rows, self.width))
    null = self.param("null", nn.initializers.normal(0.02), (self.width,))
    x = codebook.lookup(table, jnp.maximum(ids, 0), self.dtype)
    hole = jnp.broadcast_to((ids < 0)[..., None], x.shape)
    return jnp.where(hole, jnp.broadcast_to(null.astype(x.dtype), x.shape), x)


def head(size: int, dtype: str, **fields: Any) -> nn.Dense:
  """A dense layer to logits: products in `dtype`, sums and result in float32, so that near equals
  do not become ties.
  """
  return nn.Dense(
    size,
    dtype=dtype,
    dot_general=functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32),
    **fields,
  )


def image_grid(grid: tuple[int, ...], causal: bool, kernel: int) -> tuple[int, int]:
  """(height, width) of the grid, with one row where it has one axis.

  Raises:
    UserError: for what masked convolutions cannot be: over more axes, bidirectional, of even width.
  """
  if len(grid) > 2:
    raise UserError(
      f"grid: {grid} has {len(grid)} axes, masked convolutions take 1 or 2; use the transformer."
    )
  if not causal:
    raise UserError(
      "causal: masked convolutions see earlier codes only; use the transformer with this scheme."
    )
  if kernel % 2 == 0:
    raise UserError(f"kernel: {kernel} is even; use an odd width.")
  return (1, *grid)[-2:]


def split_prefix(
  prefix_BP: jax.Array | None, batch: int, prefix_grid: tuple[int, ...]
) -> tuple[jax.Array, jax.Array | None]:
  """Splits a prefix into tokens about the whole picture, `[B, P - h*w]`, and the coarser grid after
  them, `[B, h, w]`.

  Raises:
    UserError: `prefix_grid` is not () or (h, w), or the prefix is shorter than it.
  """
  prefix_BP = jnp.zeros((batch, 0), jnp.int32) if prefix_BP is None else prefix_BP
  if not prefix_grid:
    return prefix_BP, None
  if len(prefix_grid) != 2:
    raise UserError(f"prefix_grid: {prefix_grid} is not (height, width).")
  h, w = prefix_grid
  if prefix_BP.shape[1] < h * w:
    raise UserError(
      f"prefix_grid: {prefix_grid} needs a prefix of at least {h * w} tokens, not "
      f"{prefix_BP.shape[1]}."
    )
  split = prefix_BP.shape[1] - h * w
  return prefix_BP[:, :split], einops.rearrange(prefix_BP[:, split:], "b (h w) -> b h w", w=w)


def upsample(x_BHWC: jax.Array, grid: tuple[int, int]) -> jax.Array:
  """Repeats the positions of a coarser grid until it has the shape `grid`.

  UserError where it does not divide.
  """
  h, w = x_BHWC.shape[1:3]
  if grid[0] % h or grid[1] % w:
    raise UserError(f"prefix_grid: ({h}, {w}) does not divide the grid {tuple(grid)}.")
  return einops.repeat(x_BHWC, "b h w c -> b (h i) (w j) c", i=grid[0] // h, j=grid[1] // w)
