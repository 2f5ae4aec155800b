"""A coded file opened with the run that reads it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vqjax import checks
from vqjax.codec import Example, _coder, _container
from vqjax.errors import UserError
from vqjax.tasks._first_stage import joined

TOGETHER = 64  # examples that a tokenizer decodes at once


class Archive:
  """A file opened with the run that reads it: examples by number, a chunk at a time.

  Args:
    codec: the vqjax.api.codec.Codec of that run.
    data: the whole file.
    name: what messages call it.

  Attributes:
    names: of the examples, or ().
    header, payload: what the file holds, in bytes: sums and names, and codes.

  Raises UserError, in one line that begins with `name`, for what is damaged or of other weights.
  """

  def __init__(self, codec: Any, data: bytes, name: str):
    self.tokenizer, self.name = codec.tokenizer, name
    self._header, self._streams = _container.read(data, name)
    self.names = self._header.names
    payload = sum(map(len, self._streams))
    self.header, self.payload = len(data) - payload, payload
    self._check_fits(codec.source.workdir)
    self._mode = self._opened(codec)
    self._last: tuple[int, list[Example]] = (-1, [])

  def __len__(self) -> int:
    return self._header.pictures

  def size(self, index: int) -> tuple[int, ...]:
    """Lengths of the grid axes of one example."""
    self._check(index)
    return self._header.sizes.slice(index, 1)[0]

  def _check(self, index: int) -> None:
    if not checks.is_whole(index) or not 0 <= index < len(self):
      raise UserError(f"{self.name}: has {len(self)} examples, number {index} is none of them.")

  def codes(self, index: int) -> Example:
    """Codes of one example, a tuple of levels [*grid], coarse first. Raises like the class."""
    self._check(index)
    number = first = 0
    while index >= first + (held := self._header.chunks[number].pictures):
      number, first = number + 1, first + held
    return self._chunk(number, first)[index - first]

  def read(self, index: int) -> np.ndarray:
    """One example of the signal, of its original size, as Tokenizer.decode gives them."""
    ids = joined(tuple(level[None] for level in self.codes(index)))
    return self.tokenizer.decode(ids)[0][tuple(slice(n) for n in self.size(index))]

  def read_all(self) -> list[np.ndarray]:
    """All examples; those of one size are decoded together."""
    found: list[np.ndarray] = []
    for start in range(0, len(self), TOGETHER):
      examples = [self.codes(i) for i in range(start, min(start + TOGETHER, len(self)))]
      sizes = self._header.sizes.slice(start, len(examples))
      whole = len({tuple(x.shape for x in e) for e in examples}) == 1
      parts = [examples] if whole else [[e] for e in examples]
      values = [self.tokenizer.decode(joined(tuple(map(np.stack, zip(*part))))) for part in parts]
      rows = [row for value in values for row in value]
      found += [row[tuple(slice(n) for n in size)] for row, size in zip(rows, sizes)]
    return found

  def _chunk(self, number: int, first: int) -> list[Example]:
    if self._last[0] == number:
      return self._last[1]
    chunk, data = self._header.chunks[number], self._streams[number]
    _container.check(chunk, data, self.name)
    info = self.tokenizer.info
    most = _coder.most_codes(len(data), min(codes.size for codes in info.levels))
    if chunk.pictures > most:  # before their sizes are written out
      raise _container.damaged(
        self.name, f"{len(data)} bytes cannot hold {chunk.pictures} pictures"
      )
    try:
      sizes = self._header.sizes.slice(first, chunk.pictures)
      shapes = [grids_of(info, size) for size in sizes]
      total = sum(math.prod(grid) for grids in shapes for grid in grids)
      if total > most:
        raise UserError(f"is damaged ({len(data)} bytes cannot hold {total} codes); get it anew.")
      examples = self._mode.decode(_coder.Decoder(data), shapes)
    except UserError as e:
      raise UserError(f"{self.name}: {e}") from None
    names = self.names[first : first + chunk.pictures]
    if _container.crc_of_content(examples, sizes, names) != chunk.content:
      hint = " or the machine computes otherwise than the one that wrote it"
      hint = hint if self._mode.environment else ""
      raise UserError(
        f"{self.name}: its codes are not those that were written; it is damaged{hint}."
      )
    self._last = number, examples
    return examples

  def _check_fits(self, workdir: Any) -> None:
    header, info = self._header, self.tokenizer.info
    if header.field != info.signal.field:
      raise UserError(
        f"{self.name}: holds {header.field!r}, the tokenizer in {workdir} decodes "
        f"{info.signal.field!r}; give the run that wrote it."
      )
    if header.tokenizer.hex() != self.tokenizer.identity:
      raise UserError(
        f"{self.name}: was written with tokenizer {header.tokenizer.hex()}, {workdir} has "
        f"{self.tokenizer.identity}; give the run that wrote it."
      )
    if any(len(size) != info.signal.axes for _, size in header.sizes.runs):
      raise _container.damaged(self.name, f"a size has not {info.signal.axes} axes")

  def _opened(self, codec: Any) -> Any:
    header = self._header
    name = {cls.number: name for name, cls in codec.modes.items()}.get(header.mode)
    if name is None:
      raise UserError(f"{self.name}: was written in mode {header.mode}, which is unknown here.")
    try:
      mode = codec.mode(name, bool(header.stored))
    except UserError as e:
      raise UserError(f"{self.name}: was written in mode {name!r}: {e}") from None
    if mode.stored != header.stored:
      raise UserError(
        f"{self.name}: was written in mode {name!r} with {header.stored.hex() or 'nothing stored'},"
        f" {codec.source.workdir} has {mode.stored.hex() or 'nothing'}; give the run that wrote it."
      )
    if mode.environment != header.environment:
      raise UserError(
        f"{self.name}: was written in mode {name!r} under [{header.environment}] and can be read "
        f"there alone; here is [{mode.environment}]."
      )
    return mode


def grids_of(info: Any, size: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
  """Grids of codes, by level, of an example whose grid axes have these lengths."""
  model = info.modules.model
  grids = model.grid(*(n + (a - n) % f for n, f, a in zip(size, info.factors, info.first)))
  grids = grids if isinstance(grids[0], tuple) else (grids,)
  return tuple((*grid, *codes.grid[len(grid) :]) for grid, codes in zip(grids, info.levels))
