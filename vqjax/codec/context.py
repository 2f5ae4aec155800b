"""Every code by how often it stood beside the same neighbours before: counts that coding learns.

Counts of longer contexts rest on those of shorter ones (MacKay and Bauman Peto, "A hierarchical
Dirichlet language model", 1995): of a code k seen n_k times in n places with this context, p(k) =
(n_k + c · shorter(k)) / (n + c), where c grows with the number of different codes seen there
(Witten and Bell, 1991). In integers, so that every machine finds the same.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from typing import Any, ClassVar

import numpy as np

from vqjax.codec import Example, Shapes, Source, Tables, _coder, _tables

_SCALE = 2**24  # of probabilities
_ANYWHERE, _BESIDE, _EACH = 1024, 16, 4


@dataclasses.dataclass(frozen=True)
class Mode:
  """Adaptive counts of a code given its neighbours: those before it along every axis, the earlier
  books of its place, the coarser level's code there. Portable, and without anything stored; it
  starts from the table of `static` where the workdir has one. Each chunk learns anew.
  """

  levels: tuple[Any, ...]
  tables: Tables | None
  stored: bytes

  number: ClassVar[int] = 2
  preference: ClassVar[int] = 1
  networked: ClassVar[bool] = False
  environment: ClassVar[str] = ""

  @classmethod
  def open(cls, source: Source) -> Mode:
    stored = b"" if source.tables is None else _tables.stored(source.tables)
    return cls(source.levels, source.tables, stored)

  def encode(self, coder: Any, examples: list[Example]) -> None:
    models = self._models()
    for example in examples:
      self._walk(models, [x.shape for x in example], example, coder.put)

  def decode(self, coder: Any, shapes: list[Shapes]) -> list[Example]:
    models, examples = self._models(), []
    for grids in shapes:
      blank = tuple(np.zeros(grid, np.int32) for grid in grids)
      self._walk(models, grids, blank, lambda ids, f: ids.__setitem__(..., coder.get(f)))
      examples.append(blank)
    return examples

  def _models(self) -> list[list[_Counts]]:
    none = [[None] * codes.books for codes in self.levels]
    return [
      [_Counts(codes.size, table) for table in tables]
      for codes, tables in zip(self.levels, self.tables or none)
    ]

  def _walk(self, models: Any, grids: Any, example: Example, visit: Any) -> None:
    """visit(ids [1], frequencies [1, K]) for every code; what it leaves in ids is counted."""
    coarser = None
    for grid, codes, own, level in zip(grids, self.levels, models, example, strict=True):
      cells = level.reshape(*grid[: len(codes.shape)], codes.books)
      for at in itertools.product(*map(range, cells.shape[:-1])):
        before = _neighbours(cells, at, coarser)
        for book in range(codes.books):
          contexts = own[book].contexts((*cells[at][:book][::-1].tolist(), *before))
          ids = cells[at][book : book + 1]
          visit(ids, own[book].frequencies(contexts)[None])
          own[book].count(contexts, int(ids[0]))
      coarser = cells[..., 0]


def _neighbours(cells: np.ndarray, at: tuple[int, ...], coarser: np.ndarray | None) -> list[int]:
  """Codes that tell most first: the coarser level's, then those before along each axis; -1 where
  there is none.
  """
  found = []
  if coarser is not None:
    place = tuple(i * n // m for i, n, m in zip(at, coarser.shape, cells.shape))
    found.append(int(coarser[place]))
  for axis in reversed(range(len(at))):
    inside = at[axis] > 0
    place = tuple(i - (a == axis) for a, i in enumerate(at))
    found.append(int(cells[place][0]) if inside else -1)
  return found


class _Counts:
  """Counts of the codes of one book in contexts of one and of two neighbours."""

  def __init__(self, size: int, table: np.ndarray | None):
    start = np.ones(size, np.int64) if table is None else 2 * table + 1
    self._base = _coder.frequencies(start)
    self._seen: dict[tuple, dict[int, int]] = {}
    self._totals: collections.Counter = collections.Counter()

  def contexts(self, before: tuple[int, ...]) -> list[tuple]:
    """From none over the single neighbours, the telling ones last, to the two that tell most."""
    singles = [(i, code) for i, code in enumerate(before)]
    pair = [(*singles[0], *singles[1])] if len(singles) > 1 else []
    return [(), *reversed(singles), *pair]

  def frequencies(self, contexts: list[tuple]) -> np.ndarray:
    """int64 [K] that add up to the coder's total."""
    share = self._base
    for context in contexts:
      if not (seen := self._seen.get(context)):
        continue
      weight = _BESIDE + _EACH * len(seen) if context else _ANYWHERE
      total = self._totals[context] + weight
      share = share * weight // total
      share[list(seen)] += np.array(list(seen.values())) * _SCALE // total
    return share if share is self._base else _coder.frequencies(share)

  def count(self, contexts: list[tuple], code: int) -> None:
    for context in contexts:
      seen = self._seen.setdefault(context, {})
      seen[code] = seen.get(code, 0) + 1
      self._totals[context] += 1
