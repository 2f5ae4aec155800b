"""Files of the modes without a network: there and back, to the byte, and never a wrong code."""

import importlib.util
import os
import pathlib
import random
import re
import zlib

import numpy as np
import pytest

from vqjax import build
from vqjax.api.codec import modes
from vqjax.codec import _container
from vqjax.errors import UserError
from vqjax.latents import Codes

_spec = importlib.util.spec_from_file_location(
  "codec_conftest", pathlib.Path(__file__).with_name("conftest.py")
)
helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helpers)
PLAIN = ("static", "context")
CASES = int(os.environ.get("VQJAX_FUZZ", 600))  # damaged files


def examples_of(codec, number=5):
  """Codes of several sizes, smaller and larger than in training, and these sizes."""
  info = codec.tokenizer.info
  sizes = [tuple(n + 3 * i - 4 for n in info.size) for i in range(number)]
  return [helpers.draw(info.levels, size, i) for i, size in enumerate(sizes)], sizes


def same(a, b):
  return len(a) == len(b) and all(map(np.array_equal, a, b))


def test_modes_have_numbers_of_their_own():
  assert set(modes()) == set(build.names("codec"))
  numbers = {mode.number for mode in modes().values()}
  assert len(numbers) == len(modes()) and all(0 < n < 256 for n in numbers)


@pytest.mark.parametrize("mode", PLAIN)
def test_there_and_back(codec, mode):
  examples, sizes = examples_of(codec)
  for group in (1, 2, 64):
    (data,) = codec.pack_codes(examples, sizes, mode, group=group)
    archive = codec.open(data)
    assert len(archive) == len(examples)
    for i in (3, 0, 4, 1, 2):
      assert same(archive.codes(i), examples[i])
    assert archive.header + archive.payload == len(data)
  each = codec.pack_codes(examples, sizes, mode, alone=True)
  assert all(same(codec.open(data).codes(0), e) for data, e in zip(each, examples, strict=True))
  assert codec.pack_codes(examples, sizes, mode, alone=True) == each


def test_the_counts_of_context_follow_what_was_coded():
  codec = helpers.make((Codes((4, 4), 500),), tables=False)
  rows = np.tile(np.arange(64, dtype=np.int32), (64, 1))
  (data,) = codec.pack_codes([(rows,)], [(256, 256)], "context")
  assert codec.open(data).payload * 8 < 0.4 * rows.size * np.log2(500)


def test_context_without_a_table_is_read_where_there_is_one():
  levels = helpers.LEVELS["image"]
  bare, counted = helpers.make(levels, tables=False), helpers.make(levels)
  examples, sizes = examples_of(bare)
  (data,) = bare.pack_codes(examples, sizes, "context")
  assert same(counted.open(data).codes(2), examples[2])
  (data,) = counted.pack_codes(examples, sizes, "context")
  with pytest.raises(UserError, match="here: was written in mode 'context' with"):
    bare.open(data, "here")
  with pytest.raises(UserError, match="holds no table of how often"):
    bare.pack_codes(examples, sizes, "static")


def test_the_bytes_of_a_file():
  """The header as the README has it, written out by hand."""
  codec = helpers.make(helpers.LEVELS["image"])
  examples, sizes = examples_of(codec, 2)
  (data,) = codec.pack_codes(examples, sizes, "static", names=["ab/c.png", "ab/d.png"])
  stored = codec.mode("static").stored
  payload = data[-codec.open(data).payload :]
  content = b"ab/c.png" + np.array(sizes[0], "<i8").tobytes() + examples[0][0].tobytes()
  content += b"ab/d.png" + np.array(sizes[1], "<i8").tobytes() + examples[1][0].tobytes()
  header = b"VQJC" + bytes([1, 1]) + bytes.fromhex("0123456789abcdef") + bytes([8]) + stored
  header += bytes([5]) + b"image" + bytes([0])  # no environment
  header += bytes([2, 2, 1, 2, *sizes[0], 1, 2, *sizes[1]])
  header += bytes([1, 2, len(payload)])
  header += zlib.crc32(payload).to_bytes(4, "little") + zlib.crc32(content).to_bytes(4, "little")
  header += bytes([1, 0, 8]) + b"ab/c.png" + bytes([3, 5]) + b"d.png"
  assert data == header + zlib.crc32(header).to_bytes(4, "little") + payload
  assert codec.open(data).names == ("ab/c.png", "ab/d.png")


@pytest.mark.parametrize(
  "name", ["../x", "/x", "a//b", "a/./b", "a/../../b", "C:x", "a\\b", "a\nb", "a\0", "", "x" * 5000]
)
def test_names_lead_nowhere_else(name, monkeypatch):
  codec = helpers.make(helpers.LEVELS["image"])
  examples, sizes = examples_of(codec, 1)
  assert not _container.may_name(name)
  with monkeypatch.context() as patch:
    patch.setattr(_container, "may_name", lambda name: True)  # as another program might write it
    (data,) = codec.pack_codes(examples, sizes, "static", names=[name])
  with pytest.raises(UserError, match="no name|too long"):
    codec.open(data)


@pytest.mark.parametrize(
  "names, message",
  [
    (["a", "../../b"], "names: '../../b' cannot be kept"),
    (["a", ""], "names: '' cannot be kept"),
    (["a", "a"], "names: 2 of 2 examples; give each its own"),
    (["a"], "names: 1 of 2 examples"),
  ],
)
def test_names_that_could_not_be_read_are_not_written(names, message):
  codec = helpers.make(helpers.LEVELS["image"])
  examples, sizes = examples_of(codec, 2)
  with pytest.raises(UserError, match=re.escape(message)):
    codec.pack_codes(examples, sizes, "context", names)
  (data,) = codec.pack_codes(examples, sizes, "context", ["a", "b"])
  archive = codec.open(data)
  for call in (archive.codes, archive.size):
    for index in (-1, 2, 1.5, "x"):
      with pytest.raises(UserError, match="has 2 examples, number .* is none of them"):
        call(index)
  for files in (data, [None], None, []):
    with pytest.raises(UserError, match="give a list of bytes"):
      codec.unpack(files)


def test_foreign_files_are_refused_by_name():
  levels = helpers.LEVELS["image"]
  codec, other = helpers.make(levels), helpers.make(levels)
  examples, sizes = examples_of(codec)
  (data,) = codec.pack_codes(examples, sizes, "static")
  other.tokenizer.identity = "f" * 16
  with pytest.raises(UserError, match="a.vqjc: was written with tokenizer 0123456789abcdef"):
    other.open(data, "a.vqjc")
  tables = tuple(tuple(t + 1 for t in level) for level in codec.source.tables)
  other = type(codec)(codec.tokenizer, codec.source._replace(tables=tables))
  with pytest.raises(UserError, match="a.vqjc: was written in mode 'static' with"):
    other.open(data, "a.vqjc")
  for content, message in (
    (b"", "is no .vqjc file"),
    (b"\x89PNG\r\n\x1a\n" + bytes(99), "is no .vqjc file"),
    (data[:4] + b"\x02" + data[5:], "has version 2 of the format, this program reads 1"),
    (data[:-1], "is cut short"),
    (data + b"\0", "goes on after its end"),
  ):
    with pytest.raises(UserError, match=f"^a.vqjc: {message}") as e:
      codec.open(content, "a.vqjc")
    assert "\n" not in str(e.value)
  with pytest.raises(UserError, match="mode: unknown name 'statik'. Did you mean 'static'"):
    codec.pack_codes(examples, sizes, "statik")
  with pytest.raises(UserError, match=r"ids: of shape \(4, 4\)"):
    codec.pack_codes([(np.zeros((4, 4), int),)], [(99, 16)], "static")


def damaged(rng, files):
  """One of the files with bits flipped, cut, spliced with another, or with a header that lies."""
  data, other = bytearray(rng.choice(files)), rng.choice(files)
  kind = rng.randrange(5)
  if kind == 0:
    for _ in range(rng.choice([1, 1, 2, 8])):
      data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  elif kind == 1:
    del data[rng.randrange(len(data)) :]
  elif kind == 2:
    cut = rng.randrange(len(data))
    data[cut:] = other[rng.choice([cut, rng.randrange(len(other))]) :]
  elif kind == 3:
    at, length = rng.randrange(len(data)), rng.randrange(1, 9)
    data[at : at + length] = rng.randbytes(rng.randrange(9))
  else:
    lying(rng, data)
  return bytes(data)


def lying(rng, data):
  """Changes one byte of the header, or puts a large number there, and mends the header's sum."""
  header, _ = _container.read(bytes(data), "")
  end = len(data) - sum(chunk.bytes for chunk in header.chunks)
  at = rng.randrange(4, end - 4)
  data[at : at + 1] = rng.choice([rng.randbytes(1), b"\xff" * rng.randrange(1, 9) + b"\x7f", b""])
  moved = len(data) - sum(chunk.bytes for chunk in header.chunks)
  data[moved - 4 : moved] = zlib.crc32(data[: moved - 4]).to_bytes(4, "little")


def fuzz(codec, files, right, cases, seed=0):
  """Reads damaged files: each gives one line, or the very codes that were written."""
  rng, said = random.Random(seed), {"refused": 0, "right": 0}
  for _ in range(cases):
    data = damaged(rng, files)
    try:
      archive = codec.open(data, "a.vqjc")
      found = [archive.codes(i) for i in range(len(archive))]
      found += [archive.names, tuple(map(archive.size, range(len(archive))))]
    except UserError as e:
      assert str(e).startswith("a.vqjc: ") and "\n" not in str(e) and len(str(e)) < 500
      said["refused"] += 1
      continue
    assert any(len(found) == len(one) and all(map(same, found, one)) for one in right)
    said["right"] += 1
  return said


def written(codec):
  """(files of two sets of pictures in every plain mode; their codes, names and sizes)."""
  sets = [examples_of(codec, 5), examples_of(codec, 3)]
  sets[1] = ([tuple(ids[::-1] for ids in e) for e in sets[1][0]], sets[1][1])
  names = [f"sub/{i}.png" for i in range(5)]
  packed = [codec.pack_codes(*s, mode, names[: len(s[0])], 2) for s in sets for mode in PLAIN]
  right = [[*examples, tuple(names[: len(sizes)]), tuple(sizes)] for examples, sizes in sets]
  return [data for (data,) in packed], right


@pytest.mark.parametrize("latent", ["image", "books"])
def test_damage_is_one_line_and_never_another_picture(latent):
  codec = helpers.make(helpers.LEVELS[latent])
  said = fuzz(codec, *written(codec), cases=CASES // 2)
  print(latent, said)
  # The others are no damage: a splice of equal files, an equal byte.
  assert said["refused"] > 0.45 * CASES and said["right"] < 0.05 * CASES
