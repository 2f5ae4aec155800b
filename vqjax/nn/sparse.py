"""The sparse attention masks of DALL·E (arXiv 2102.12092, appendix B.1 and figure 11)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

Kind = Literal["row", "column", "convolution"]


def pattern(layers: int) -> tuple[Kind, ...]:
  """The kind of every layer: row, column, row, row, again and again; the last is a convolution."""
  kinds = ["column" if i % 4 == 1 else "row" for i in range(layers - 1)]
  return (*kinds, "convolution")


@dataclasses.dataclass(frozen=True)
class Masks:
  """Who sees whom among `lead` positions and the codes of a grid after them, cut off at `length`.

  The first `lead` positions see themselves and those before; codes see all of these, and of the
  codes up to their own:

    row: themselves and as many before as the grid is wide, so that the last stands right above
    column: those above in their column
    convolution: those under a window of `kernel` x `kernel` around them; as in a row, what leaves
      the grid at one side comes in at the other

  Attributes:
    kinds: those that layers name by their index.
    width: of the grid.
  """

  kinds: tuple[Kind, ...]
  lead: int
  width: int
  kernel: int
  length: int

  @property
  def sees(self) -> tuple[Callable[[Any, Any], Any], ...]:
    """For each kind (query, key) -> bool, of int32 positions as arrays of NumPy or JAX."""
    return tuple(functools.partial(self._sees, kind) for kind in self.kinds)

  def _sees(self, kind: Kind, query: Any, key: Any) -> Any:
    behind, reach = query - key, self.kernel // 2
    if kind == "row":
      near = behind <= self.width
    elif kind == "column":
      near = self._column(behind) == 0
    else:
      near = (self._column(behind + reach) <= 2 * reach) & (behind <= reach * (self.width + 1))
    return (behind >= 0) & ((key < self.lead) | near)

  def _column(self, place: Any) -> Any:
    # Division is slow on a TPU's vectors.
    even = self.width & (self.width - 1) == 0
    return place & (self.width - 1) if even else place % self.width

  @functools.cached_property
  def arrays(self) -> np.ndarray:
    """bool `[kinds, length, length]`, true where a query (row) sees a key."""
    places = np.arange(self.length, dtype=np.int32)
    return np.stack([sees(places[:, None], places[None]) for sees in self.sees])
