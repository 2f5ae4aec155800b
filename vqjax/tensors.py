"""Tensors and texts by name in one file: the safetensors format, which holds nothing else
(github.com/huggingface/safetensors), read and written without the library of that name.

    8 bytes        length of the header, little-endian
    header         JSON: {name: {"dtype", "shape", "data_offsets"}}, texts under "__metadata__"
    the rest       the tensors' bytes, row-major and little-endian, one after another without gaps
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vqjax import files
from vqjax.errors import UserError

SUFFIX = files.EXPORTED

_TEXTS = "__metadata__"
_LARGEST = 100_000_000  # bytes of a header, as the library has it
_TYPES = {
  "BOOL": np.dtype(bool),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
  "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
} | {
  f"{letter}{8 * size}": np.dtype(f"<{kind}{size}")
  for letter, kind, sizes in (
    ("U", "u", (1, 2, 4, 8)),
    ("I", "i", (1, 2, 4, 8)),
    ("F", "f", (2, 4, 8)),
  )
  for size in sizes
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


class _Entry(NamedTuple):
  """Of one tensor: its type, its shape, and where its bytes stand in the file."""

  dtype: np.dtype
  shape: tuple[int, ...]
  start: int
  end: int


class Tensors(Mapping[str, np.ndarray]):
  """The tensors of a file, each read when it is asked for.

  Attributes:
    texts: {name: text}.

  Raises UserError, one line that names the file, where it is cut short or is none of this format.
  """

  def __init__(self, file: files.Path):
    self.file = file
    with file.open("rb") as opened:
      size = opened.seek(0, 2)
      opened.seek(0)
      length = int.from_bytes(opened.read(8), "little")
      if size < 8 or not 2 <= length <= _LARGEST:
        raise self._fault("it has no header")
      start = 8 + length
      if size < start:
        raise self._fault(f"it is cut short within the {length} bytes of its header")
      self.texts, self._entries = self._parsed(opened.read(length), start)
    end = max((entry.end for entry in self._entries.values()), default=start)
    if size != end:
      raise self._fault(f"it is of {size} bytes, and should be of {end}")

  def _parsed(self, header: bytes, start: int) -> tuple[dict[str, str], dict[str, _Entry]]:
    try:
      found = json.loads(header)
      texts = found.pop(_TEXTS, {})
      named = {name: self._entry(name, said, start) for name, said in found.items()}
      if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError("a text")
    except UserError:
      raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
      raise self._fault("its header is none of this format") from None
    for entry in sorted(named.values(), key=lambda entry: (entry.start, entry.end)):
      if entry.start != start:
        raise self._fault("its tensors do not follow one another")
      start = entry.end
    return texts, named

  def _entry(self, name: str, said: Mapping[str, Any], start: int) -> _Entry:
    if (dtype := _TYPES.get(said["dtype"])) is None:
      raise UserError(f"{self.file}: tensor {name!r} is of type {said['dtype']!r}, unknown here.")
    shape, (begin, end) = tuple(said["shape"]), said["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
      raise ValueError("a size")
    if end - begin != math.prod(shape) * dtype.itemsize:
      raise ValueError("a length")
    return _Entry(dtype, shape, start + begin, start + end)

  def _fault(self, what: str) -> UserError:
    return UserError(f"{self.file}: is damaged, or no safetensors file: {what}; get it anew.")

  def __getitem__(self, name: str) -> np.ndarray:
    return dict(self.read([name]))[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._entries)

  def __len__(self) -> int:
    return len(self._entries)

  def read(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor) of these, in the order in which they stand in the file."""
    entries = {name: self._entries[name] for name in names}
    with self.file.open("rb") as opened:
      for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
        opened.seek(entry.start)
        content = opened.read(entry.end - entry.start)
        if len(content) != entry.end - entry.start:
          raise self._fault(f"tensor {name!r} is cut short")
        yield name, np.frombuffer(content, entry.dtype).reshape(entry.shape)


def is_float(dtype: np.dtype) -> bool:
  """Whether a tensor's type is one of floats, those that numpy does not know among them."""
  return dtype.kind in "fV"


def content(tensors: Mapping[str, np.ndarray], texts: Mapping[str, str] | None = None) -> bytes:
  """The bytes of a file. Raises TypeError for a type that the format does not have."""
  header: dict[str, Any] = {_TEXTS: dict(texts)} if texts else {}
  parts, end = [], 0
  # Wide types first, as the library does: every tensor is aligned.
  for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
    x = np.asarray(tensors[name])
    if (kind := _NAMES.get(x.dtype)) is None:
      raise TypeError(f"{name}: {x.dtype}")
    parts.append(raw(x))
    start, end = end, end + x.nbytes
    header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [start, end]}
  head = json.dumps(header, separators=(",", ":")).encode()
  head += b" " * (-len(head) % 8)
  return b"".join((len(head).to_bytes(8, "little"), head, *parts))


def raw(x: np.ndarray) -> memoryview:
  """The bytes of a tensor."""
  return memoryview(np.ascontiguousarray(x).reshape(-1).view(np.uint8))
