"""Grids cut into patches, on any number of axes, and joined again."""

from __future__ import annotations

from collections.abc import Sequence

import einops
import jax


def cut(x: jax.Array, sides: Sequence[int]) -> jax.Array:
  """[B, ..., C] cut into patches of `sides`, one per grid axis: [B, ... / sides, prod(sides) C].

  A patch is flattened in raster order with its channels last.
  """
  patches, inside, whole, lengths = _names(sides)
  return einops.rearrange(x, f"b {whole} c -> b {patches} ({inside} c)", **lengths)


def join(x: jax.Array, sides: Sequence[int]) -> jax.Array:
  """The inverse of `cut`."""
  patches, inside, whole, lengths = _names(sides)
  return einops.rearrange(x, f"b {patches} ({inside} c) -> b {whole} c", **lengths)


def repeat(x: jax.Array, sides: Sequence[int]) -> jax.Array:
  """Repeats every position of [B, ..., C] as often on each grid axis as `sides` say."""
  patches, _, whole, lengths = _names(sides)
  return einops.repeat(x, f"b {patches} c -> b {whole} c", **lengths)


def _names(sides: Sequence[int]) -> tuple[str, str, str, dict[str, int]]:
  """einops' spelling of a grid of patches: "i0 i1", "p0 p1", "(i0 p0) (i1 p1)" and the sides."""
  patches, inside = ([f"{letter}{axis}" for axis in range(len(sides))] for letter in "ip")
  whole = " ".join(f"({i} {p})" for i, p in zip(patches, inside, strict=True))
  return " ".join(patches), " ".join(inside), whole, dict(zip(inside, sides, strict=True))
