"""The file format: a header that every picture of the file shares, then chunks of coded pictures.

All numbers are little-endian; a varint is LEB128 of at most nine bytes.

    4  "VQJC"
    1  version, 1
    1  mode, its number
    8  hash of the tokenizer
    1  n, 0 or 8; n bytes: hash of what the mode stored
    1  n; n bytes: the signal's field, ASCII
    v  n; n bytes: the environment that the mode needs, UTF-8; n = 0: none
    v  pictures
    v  runs of pictures of one size; of each: v pictures, 1 axes, v per axis
    v  chunks; of each: v pictures, v bytes, 4 CRC-32 of its bytes, 4 of its content
    1  1: pictures have names, 0: none; each: v bytes as in the name before, v n; n bytes UTF-8
    4  CRC-32 of all bytes so far
       the chunks' bytes, one after the other, to the end of the file

The second CRC-32 of a chunk is over its content, picture after picture: the name, the size as
int64 and the codes of all levels as int32. What was decoded with other weights, on a machine that
computes otherwise, or under a header that says something else does not pass for the picture.
"""

from __future__ import annotations

import itertools
import posixpath
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from vqjax.codec import Example
from vqjax.errors import UserError

MAGIC, VERSION, SUFFIX = b"VQJC", 1, ".vqjc"
_NAME, _AXES = 4096, 8


class Chunk(NamedTuple):
  """What the header says of a chunk: pictures, bytes, and the CRC-32 of its bytes and content."""

  pictures: int
  bytes: int
  crc: int
  content: int


class Runs(NamedTuple):
  """Sizes of many pictures: (how many, their size)."""

  runs: tuple[tuple[int, tuple[int, ...]], ...]

  def slice(self, start: int, count: int) -> list[tuple[int, ...]]:
    """Sizes of pictures `start` to `start + count`."""
    found, first = [], 0
    for number, size in self.runs:
      found += [size] * max(0, min(start + count, first + number) - max(start, first))
      first += number
    return found

  @classmethod
  def of(cls, sizes: Iterable[tuple[int, ...]]) -> Runs:
    return cls(tuple((len(list(same)), size) for size, same in itertools.groupby(sizes)))


class Header(NamedTuple):
  """What stands before the chunks, see above.

  tokenizer, stored: hashes; stored is b"" where the mode stored nothing.
  names: one for each picture, or ().
  """

  mode: int
  tokenizer: bytes
  stored: bytes
  field: str
  environment: str
  sizes: Runs
  chunks: tuple[Chunk, ...]
  names: tuple[str, ...] = ()

  @property
  def pictures(self) -> int:
    return sum(chunk.pictures for chunk in self.chunks)


def write(header: Header, streams: Sequence[bytes]) -> bytes:
  """The whole file."""
  out = bytearray(MAGIC + bytes((VERSION, header.mode)) + header.tokenizer)
  out += bytes((len(header.stored),)) + header.stored
  out += bytes((len(header.field),)) + header.field.encode("ascii")
  environment = header.environment.encode()
  out += _varint(len(environment)) + environment
  out += _varint(header.pictures) + _varint(len(header.sizes.runs))
  for number, size in header.sizes.runs:
    out += _varint(number) + bytes((len(size),)) + b"".join(map(_varint, size))
  out += _varint(len(header.chunks))
  for chunk in header.chunks:
    out += _varint(chunk.pictures) + _varint(chunk.bytes)
    out += chunk.crc.to_bytes(4, "little") + chunk.content.to_bytes(4, "little")
  out += bytes((bool(header.names),)) + _packed_names(header.names)
  out += zlib.crc32(out).to_bytes(4, "little")
  return bytes(out) + b"".join(streams)


def crc_of_content(
  examples: Iterable[Example], sizes: Iterable[tuple[int, ...]], names: Sequence[str]
) -> int:
  """The check over what a chunk's pictures are, see above; `names` are () where they have none."""
  crc = 0
  for example, size, name in itertools.zip_longest(examples, sizes, names, fillvalue=""):
    crc = zlib.crc32(name.encode() + np.array(size, "<i8").tobytes(), crc)
    for ids in example:
      crc = zlib.crc32(np.ascontiguousarray(ids, "<i4").tobytes(), crc)
  return crc


def read(data: bytes, name: str) -> tuple[Header, list[bytes]]:
  """(header, the bytes of each chunk), whose sums are not compared yet: see `check`.

  Raises UserError, which begins with `name`, for what is no file of this format, of another
  version, damaged or cut short. Nothing larger than `data` is allocated.
  """
  reader = _Reader(data, name)
  if reader.take(min(4, len(data))) != MAGIC:
    raise UserError(f"{name}: is no {SUFFIX} file; give one that python -m vqjax.compress wrote.")
  if (version := reader.byte()) != VERSION:
    raise UserError(f"{name}: has version {version} of the format, this program reads {VERSION}.")
  header, start = _header(reader), reader.at
  end = start + sum(chunk.bytes for chunk in header.chunks)
  if len(data) != end:
    what = "is cut short" if len(data) < end else "goes on after its end"
    raise UserError(f"{name}: {what}: has {len(data)} bytes, its header says {end}; get it anew.")
  ends = itertools.accumulate((chunk.bytes for chunk in header.chunks), initial=start)
  return header, [data[a:b] for a, b in itertools.pairwise(ends)]


def check(chunk: Chunk, data: bytes, name: str) -> None:
  """Raises UserError where a chunk's bytes are not those that were written."""
  if zlib.crc32(data) != chunk.crc:
    raise damaged(name, "a chunk's sum does not match its bytes")


def damaged(name: str, why: str) -> UserError:
  return UserError(f"{name}: is damaged ({why}); get it anew.")


def _header(reader: _Reader) -> Header:
  mode, tokenizer = reader.byte(), reader.take(8)
  stored = reader.take(reader.byte())
  field = reader.text(reader.byte(), "ascii")
  environment = reader.text(reader.varint(), "utf-8")
  pictures = reader.varint()
  sizes = Runs(tuple(reader.run() for _ in range(reader.count(3))))
  chunks = tuple(reader.chunk() for _ in range(reader.count(10)))
  named = reader.byte()
  if named and pictures > len(reader.data):
    raise damaged(reader.name, "more pictures than names")
  names = tuple(reader.names(pictures)) if named else ()
  body = reader.data[: reader.at]
  if reader.take(4) != zlib.crc32(body).to_bytes(4, "little"):
    raise damaged(reader.name, "the header's sum does not match")
  header = Header(mode, tokenizer, stored, field, environment, sizes, chunks, names)
  counts = {pictures, header.pictures, sum(number for number, _ in sizes.runs)}
  if len(counts) > 1 or not pictures or not all(chunk.pictures for chunk in chunks):
    raise damaged(reader.name, "the header's numbers of pictures differ")
  if len(stored) not in (0, 8) or named > 1 or len(set(names)) < len(names):
    raise damaged(reader.name, "the header says what no header says")
  return header


class _Reader:
  """Goes through a file's bytes; raises UserError beyond their end."""

  def __init__(self, data: bytes, name: str):
    self.data, self.name, self.at = data, name, 0

  def take(self, count: int) -> bytes:
    if count > len(self.data) - self.at:
      raise UserError(f"{self.name}: is cut short or damaged within its header; get it anew.")
    self.at += count
    return self.data[self.at - count : self.at]

  def byte(self) -> int:
    return self.take(1)[0]

  def varint(self) -> int:
    value = 0
    for shift in range(0, 63, 7):
      byte = self.byte()
      value |= (byte & 127) << shift
      if byte < 128:
        return value
    raise damaged(self.name, "a number is too long")

  def count(self, least: int) -> int:
    """A number of things that take at least so many bytes each."""
    count = self.varint()
    if count * least > len(self.data) - self.at:
      raise damaged(self.name, "a number exceeds what the file can hold")
    return count

  def text(self, count: int, encoding: str) -> str:
    try:
      return self.take(count).decode(encoding)
    except UnicodeDecodeError:
      raise damaged(self.name, f"a text is no {encoding}") from None

  def run(self) -> tuple[int, tuple[int, ...]]:
    number, axes = self.varint(), self.byte()
    if not number or not 0 < axes <= _AXES:
      raise damaged(self.name, "a size has no axes")
    size = tuple(self.varint() for _ in range(axes))
    if not all(size):
      raise damaged(self.name, "a size is 0")
    return number, size

  def chunk(self) -> Chunk:
    pictures, count = self.varint(), self.varint()
    crc, content = (int.from_bytes(self.take(4), "little") for _ in range(2))
    return Chunk(pictures, count, crc, content)

  def names(self, count: int) -> Iterable[str]:
    before = b""
    for _ in range(count):
      shared, more = self.varint(), self.varint()
      if shared > len(before) or shared + more > _NAME:
        raise damaged(self.name, "a name is too long")
      before = before[:shared] + self.take(more)
      yield self._checked(before)

  def _checked(self, name: bytes) -> str:
    """A name that leads nowhere but below the folder in which it is written."""
    try:
      text = name.decode()
    except UnicodeDecodeError:
      raise damaged(self.name, "a name is no UTF-8") from None
    if not may_name(text):
      raise UserError(f"{self.name}: names a picture {text!r}, which is no name; it is not read.")
    return text


def may_name(text: str) -> bool:
  """Whether a picture may have this name: one below the folder in which it is written."""
  parts = text.split("/")
  plain = {"", ".", ".."}.isdisjoint(parts) and not any(c in text for c in "\\:\0\n\r")
  return plain and len(text.encode(errors="replace")) <= _NAME


def _packed_names(names: Sequence[str]) -> bytes:
  out, before = b"", b""
  for name in names:
    now = name.encode()
    shared = len(posixpath.commonprefix([before, now]))
    out += _varint(shared) + _varint(len(now) - shared) + now[shared:]
    before = now
  return out


def _varint(value: int) -> bytes:
  out = bytearray()
  while value >= 128:
    out.append(value & 127 | 128)
    value >>= 7
  return bytes([*out, value])
