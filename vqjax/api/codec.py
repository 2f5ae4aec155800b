"""The codec over a trained run: the signal to bytes and back, in files and archives."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vqjax import build, checks, tiles
from vqjax.api._archive import Archive, grids_of
from vqjax.codec import Example, Source, _coder, _container
from vqjax.codec._container import Chunk, Header, Runs
from vqjax.errors import UserError, near_miss
from vqjax.tasks._first_stage import joined, separated

SUFFIX = _container.SUFFIX
GROUP = 64  # examples of a chunk, and of a batch through the networks


@functools.cache
def modes() -> dict[str, Any]:
  """{name: the class} of all modes."""
  return {name: build.member("codec", name) for name in build.names("codec")}


class Codec:
  """Writes and reads files of the codes of one tokenizer.

  Args:
    tokenizer: a vqjax.api.Tokenizer.
    source: what its modes may draw on.

  Attributes:
    modes: {name: the class} of vqjax/codec.

  Raises UserError for a codebook of more codes than frequencies can tell apart.
  """

  def __init__(self, tokenizer: Any, source: Source):
    largest = max(codes.size for codes in source.levels)
    if largest > _coder.LARGEST:
      raise UserError(
        f"{source.workdir}: has a codebook of {largest} codes; the codec takes up to "
        f"{_coder.LARGEST}."
      )
    self.tokenizer, self.source = tokenizer, source
    self.modes = modes()
    self._opened: dict[Any, Any] = {}

  def mode(self, name: str, stored: bool = True) -> Any:
    """A mode of vqjax/codec, opened once; not `stored`: without the tables that it can do without.

    Raises UserError for an unknown mode, or one that the run does not serve.
    """
    if name not in self.modes:
      raise UserError(f"mode: unknown name {name!r}.{near_miss(str(name), self.modes)}")
    if (name, stored) not in self._opened:
      source = self.source if stored else self.source._replace(tables=None)
      self._opened[name, stored] = self.modes[name].open(source)
    return self._opened[name, stored]

  def best(self) -> str:
    """The mode that costs least of those that the run serves, a portable one first."""
    preferred = sorted(self.modes, key=lambda name: -self.modes[name].preference)
    return next(filter(self.serves, preferred))

  def serves(self, name: str) -> bool:
    try:
      self.mode(name)
    except UserError:
      return False
    return True

  def pack(self, values: Any, mode: str | None = None, alone: bool = False) -> list[bytes]:
    """Files of examples of the signal: one for all, or with `alone` one for each.

    Args:
      values: as Tokenizer.encode takes them, or a list of such without the batch axis, whose sizes
        may differ; a side that is no multiple of the model's factor is padded by its own edge.
      mode: a name of vqjax/codec, see `best`.
    """
    return self.pack_codes(*self.encode(values), mode, alone=alone)

  def encode(self, values: Iterable[Any]) -> tuple[list[Example], list[tuple[int, ...]]]:
    """(codes of every example, a tuple of levels [*grid], coarse first; sizes of their grid axes).

    Args:
      values: examples without the batch axis; a side that is no multiple of the model's factor is
        padded by its own edge.
    """
    found, sizes = [], []
    for part in _same_size(values):
      codes = separated(jax.device_get(self.tokenizer.encode(self._padded(part))))
      found += [tuple(level[i] for level in codes) for i in range(len(part))]
      sizes += [part.shape[1 : 1 + self.tokenizer.info.signal.axes]] * len(part)
    return found, sizes

  def pack_codes(
    self,
    examples: Sequence[Example],
    sizes: Sequence[tuple[int, ...]],
    mode: str | None = None,
    names: Sequence[str] = (),
    group: int = GROUP,
    alone: bool = False,
  ) -> list[bytes]:
    """Like `pack`, of codes: for each example a tuple of its levels, coarse first, and its size.

    Args:
      names: one for each, where the file shall name them.
      group: examples that share a stream: more cost fewer bytes each, and only together they are
        read.

    Raises UserError for codes that are not the tokenizer's, or that do not come back: nothing that
    could not be read here is ever returned.
    """
    checks.whole("group", group, 1)
    examples = [self._checked(example, size) for example, size in zip(examples, sizes, strict=True)]
    if not examples:
      raise UserError("images: none are given; give one or more.")
    opened, step = self.mode(mode or self.best()), 1 if alone else group
    names = () if alone else tuple(names)
    if names and (len(names), len(set(names))) != (len(examples), len(examples)):
      raise UserError(f"names: {len(names)} of {len(examples)} examples; give each its own.")
    if bad := [name for name in names if not _container.may_name(name)]:
      raise UserError(f"names: {bad[0]!r} cannot be kept on every machine; give another.")
    cuts = [slice(i, i + step) for i in range(0, len(examples), step)]
    streams = [_stream(opened, examples[cut]) for cut in cuts]
    chunks = [
      Chunk(
        len(examples[cut]),
        len(data),
        zlib.crc32(data),
        _container.crc_of_content(examples[cut], sizes[cut], names[cut]),
      )
      for cut, data in zip(cuts, streams)
    ]
    if not alone:
      return [self._file(opened, Runs.of(sizes), chunks, streams, names)]
    each = zip(sizes, chunks, streams)
    return [self._file(opened, Runs.of([s]), [c], [d], ()) for s, c, d in each]

  def open(self, data: bytes, name: str = "data") -> Archive:
    """The file in `data`; `name` is what messages call it. Raises UserError as `Archive` does."""
    return Archive(self, data, name)

  def unpack(self, files: Sequence[bytes]) -> list[np.ndarray]:
    """What `pack` was given, of all of its files; see `open`."""
    if isinstance(files, bytes) or not all(isinstance(data, bytes) for data in files or [None]):
      raise UserError("files: give a list of bytes, as compress returns it.")
    opened = [self.open(data, f"files[{i}]") for i, data in enumerate(files)]
    return [example for archive in opened for example in archive.read_all()]

  def bits(self, examples: Sequence[Example], mode: str, group: int = GROUP) -> float:
    """Bits that the mode's frequencies give to the codes of examples, in chunks of `group`."""
    total = 0.0
    for start in range(0, len(examples), group):
      self.mode(mode).encode(coder := _coder.Encoder(), list(examples[start : start + group]))
      total += coder.bits
    return total

  def _file(
    self, mode: Any, sizes: Runs, chunks: list[Chunk], streams: list[bytes], names: tuple[str, ...]
  ) -> bytes:
    identity, field = self.tokenizer.identity, self.tokenizer.info.signal.field
    fixed = (mode.number, bytes.fromhex(identity), mode.stored, field, mode.environment)
    return _container.write(Header(*fixed, sizes, tuple(chunks), names), streams)

  def _checked(self, example: Example, size: tuple[int, ...]) -> Example:
    example = tuple(np.asarray(ids) for ids in example)
    levels = self.tokenizer.checked(joined(tuple(ids[None] for ids in example)))
    grids = grids_of(self.tokenizer.info, size)
    if tuple(ids.shape for ids in example) != grids:
      shapes = " and ".join(str(ids.shape) for ids in example)
      raise UserError(f"ids: of shape {shapes}; examples of {size} have codes of {grids}.")
    return tuple(np.ascontiguousarray(ids[0], np.int32) for ids in levels)

  def _padded(self, values: np.ndarray) -> np.ndarray:
    info = self.tokenizer.info
    if values.ndim != 1 + len(info.shape):
      return values  # encode says what is wrong
    return tiles.padded(values, (1, *info.factors), (1, *info.first))


def _same_size(values: Iterable[Any]) -> Iterator[np.ndarray]:
  """Batches of examples of one size, none larger than GROUP, in the order in which they come."""
  batch: list[np.ndarray] = []
  for row in map(np.asarray, values):
    if batch and (
      len(batch) == GROUP or (batch[0].shape, batch[0].dtype) != (row.shape, row.dtype)
    ):
      yield np.stack(batch)
      batch = []
    batch.append(row)
  if batch:
    yield np.stack(batch)


def _stream(mode: Any, part: list[Example]) -> bytes:
  """Bytes of a chunk. Raises UserError where floats do not give the codes back."""
  mode.encode(coder := _coder.Encoder(), part)
  data = coder.finish()
  if mode.environment:  # what is not seen to come back is not written
    shapes = [tuple(x.shape for x in example) for example in part]
    back = mode.decode(_coder.Decoder(data), shapes)
    if not all(np.array_equal(a, b) for x, y in zip(back, part) for a, b in zip(x, y)):
      raise UserError(
        "mode: 'prior' does not give the codes back on this machine, whose floats change from run "
        "to run; use integer, context or static."
      )
  return data
