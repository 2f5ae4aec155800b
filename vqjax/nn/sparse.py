"""The sparse attention masks of DALL·E (arXiv 2102.12092, appendix B.1 and figure 11)."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np

Kind = Literal["row", "column", "convolution"]


def pattern(layers: int) -> tuple[Kind, ...]:
  """The kind of every layer: row, column, row, row, again and again; the last is a convolution."""
  kinds = ["column" if i % 4 == 1 else "row" for i in range(layers - 1)]
  return (*kinds, "convolution")


@functools.lru_cache(maxsize=16)
def mask(kind: Kind, lead: int, grid: tuple[int, int], kernel: int) -> np.ndarray:
  """Who sees whom, bool `[T, T]`, T = lead + height * width: true where a query (row) sees a key.

  The first `lead` positions see themselves and those before; codes see all of these, and of the
  codes up to their own:

    row: themselves and as many before as the grid is wide, so that the last stands right above
    column: those above in their column
    convolution: those under a window of `kernel` x `kernel` around them; as in a row, what leaves
      the grid at one side comes in at the other
  """
  height, width = grid
  behind = np.arange(height * width)[:, None] - np.arange(height * width)[None]
  if kind == "row":
    seen = behind <= width
  elif kind == "column":
    seen = behind % width == 0
  else:
    reach = kernel // 2
    window = [r * width + c for r in range(reach + 1) for c in range(-reach, reach + 1)]
    seen = np.isin(behind, window)
  total = np.tri(lead + height * width, dtype=bool)
  total[lead:, lead:] &= seen
  total.setflags(write=False)
  return total
