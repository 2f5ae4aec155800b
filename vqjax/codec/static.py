"""Every code by how often it occurs in the training split, whatever stands beside it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from vqjax.codec import Example, Shapes, Source, _coder, _tables, books_of, need_tables


@dataclasses.dataclass(frozen=True)
class Mode:
  """Integer counts of the tokenizer's workdir, the same for every place. Portable."""

  levels: tuple[Any, ...]
  frequencies: tuple[tuple[np.ndarray, ...], ...]
  stored: bytes

  number: ClassVar[int] = 1
  preference: ClassVar[int] = 0
  networked: ClassVar[bool] = False
  environment: ClassVar[str] = ""

  @classmethod
  def open(cls, source: Source) -> Mode:
    tables = need_tables(source)
    found = tuple(tuple(of_counts(t) for t in level) for level in tables)
    return cls(source.levels, found, _tables.stored(tables))

  def encode(self, coder: Any, examples: list[Example]) -> None:
    for example in examples:
      for ids, codes, tables in zip(example, self.levels, self.frequencies):
        for column, table in zip(books_of(ids, codes).T, tables):
          coder.put(column, table)

  def decode(self, coder: Any, shapes: list[Shapes]) -> list[Example]:
    return [
      tuple(self._level(coder, *level) for level in zip(grids, self.levels, self.frequencies))
      for grids in shapes
    ]

  def _level(self, coder: Any, grid: tuple[int, ...], codes: Any, tables: Any) -> np.ndarray:
    cells = int(np.prod(grid)) // codes.books
    return np.stack([coder.get(table, cells) for table in tables], axis=-1).reshape(grid)


def of_counts(counts: np.ndarray) -> np.ndarray:
  """Frequencies of counts, each with half a count more (Krichevsky and Trofimov's estimate)."""
  return _coder.frequencies(2 * counts + 1)
