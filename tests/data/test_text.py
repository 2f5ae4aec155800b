"""Byte-level BPE: any text there and back, the same everywhere, files of others, and bad ones."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from vqjax.data.text import Bpe
from vqjax.errors import UserError

TEXTS = ["a red circle above a blue square", "a Blue circle left of a green square", ""] * 4
STRANGE = ["", " ", "Ünïcödé 漢字 🧑‍🚀 \u0000\n\t", "never seen: Ω≈ç√", "x" * 10_000, *TEXTS[:2]]


@pytest.fixture(scope="module")
def bpe() -> Bpe:
  return Bpe.train(TEXTS, 300)


def clip_files(folder):
  """CLIP's layout: bytes, bytes at a word's end, merges, and the marks."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  merges = [("r", "e"), ("re", "d</w>"), ("a", "n")]
  tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges)]
  tokens += ["<|startoftext|>", "<|endoftext|>"]
  folder.mkdir()
  (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
  lines = ["#version: 0.2", *(" ".join(m) for m in merges), ""]
  (folder / "merges.txt").write_text("\n".join(lines))
  return folder, {t: i for i, t in enumerate(tokens)}


def test_any_text_there_and_back(bpe, tmp_path):
  ids, cut = bpe.encode(STRANGE, 10_001)
  assert ids.dtype == np.int32 and ids.shape == (len(STRANGE), 10_001)
  assert cut == 0 and ids.max() < bpe.size <= 300 and (ids[0] == -1).all()
  assert bpe.decode(ids) == STRANGE
  bpe.write(tmp_path / "bpe.json")
  for where in (tmp_path, tmp_path / "bpe.json"):
    again = Bpe.read(where)
    assert again == Bpe.read(where) and again.identity == bpe.identity and again.size == bpe.size
    np.testing.assert_array_equal(again.encode(STRANGE, 10_001)[0], ids)


def test_too_long_is_cut_and_counted(bpe):
  ids, cut = bpe.encode(STRANGE, 4)
  assert ids.shape == (len(STRANGE), 4)
  assert cut == sum(n > 4 for n in (bpe.encode(STRANGE, 10_001)[0] >= 0).sum(-1))
  assert STRANGE[-1].startswith(bpe.decode(ids)[-1])


def test_lower_case(tmp_path):
  lower = Bpe.train(TEXTS, 300, lower=True)
  assert lower.decode(lower.encode(["A Red CIRCLE"], 20)[0]) == ["a red circle"]
  assert lower.identity != Bpe.train(TEXTS, 300).identity
  lower.write(tmp_path / "bpe.json")
  assert Bpe.read(tmp_path / "bpe.json", lower=True).identity == lower.identity


def test_is_the_same_in_every_process(bpe):
  code = f"from vqjax.data.text import Bpe; print(Bpe.train({TEXTS!r}, 300).identity)"
  found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
  assert found.stdout.strip() == bpe.identity


def test_clip_files(tmp_path):
  folder, vocabulary = clip_files(tmp_path / "clip")
  for where in (folder, folder / "vocab.json", folder / "merges.txt"):
    bpe = Bpe.read(where)
    ids, cut = bpe.encode(["  A\n RED 7's an", "", "x" * 10_000], 12)
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    words = [vocabulary[t] for t in ("a</w>", "red</w>", "7</w>", "'", "s</w>", "a", "n</w>")]
    assert ids[0].tolist() == [start, *words, end, -1, -1, -1]
    assert ids[1].tolist() == [start, end, *[-1] * 10]
    assert cut == 1 and ids[2, -1] == end and (ids[2] >= 0).all()
    assert bpe.decode(ids)[:2] == ["a red 7 's an", ""]
  bpe.write(tmp_path / "bpe.json")
  assert Bpe.read(tmp_path).identity == bpe.identity
  # What the library makes of the same files.
  (tmp_path / "tokenizer.json").write_text(bpe.content)
  assert Bpe.read(tmp_path / "tokenizer.json").identity == bpe.identity


def test_gpt2_files(bpe, tmp_path):
  content = json.loads(bpe.content)["model"]
  (tmp_path / "vocab.json").write_text(json.dumps(content["vocab"]))
  merges = [m if isinstance(m, str) else " ".join(m) for m in content["merges"]]
  (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
  np.testing.assert_array_equal(
    Bpe.read(tmp_path).encode(STRANGE, 99)[0], bpe.encode(STRANGE, 99)[0]
  )
  lower = Bpe.read(tmp_path, lower=True)
  assert lower.decode(lower.encode(["A"], 2)[0]) == ["a"]


@pytest.mark.parametrize(
  "content", ["", "{", "[]", "{}", '{"model": {"type": "WordLevel", "vocab": {"a": 0}}}', "\xff"]
)
def test_other_files_are_named_in_one_line(tmp_path, content):
  (tmp_path / "other.json").write_bytes(content.encode("latin-1"))
  with pytest.raises(UserError, match=re.escape(str(tmp_path / "other.json"))) as e:
    Bpe.read(tmp_path / "other.json")
  assert "\n" not in str(e.value)


def test_bad_sizes(bpe, tmp_path):
  with pytest.raises(UserError, match="256"):
    Bpe.train(TEXTS, 255)
  with pytest.raises(UserError, match="length"):
    bpe.encode(TEXTS, 0)
  with pytest.raises(UserError, match="has no byte-level BPE"):
    Bpe.read(tmp_path)
  (tmp_path / "vocab.json").write_text('{"a": 0}')
  with pytest.raises(UserError, match="merges.txt"):
    Bpe.read(tmp_path)
  (tmp_path / "merges.txt").write_text("a b\n")
  with pytest.raises(UserError, match="byte-level"):
    Bpe.read(tmp_path)
