"""Captions to ids and back: byte-level byte-pair encoding (arXiv 1508.07909; bytes as in GPT-2)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from vqjax import files
from vqjax.errors import UserError, reason

# What marks the end of a word in CLIP's files, its marks of a text, and how it splits a text
# (simple_tokenizer.py in github.com/openai/CLIP).
_SUFFIX, _START, _END = "</w>", "<|startoftext|>", "<|endoftext|>"
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_KINDS = (
  "bpe.json of a run, a tokenizer.json of the library tokenizers, or vocab.json with merges.txt "
  "beside it"
)


@dataclasses.dataclass(frozen=True)
class Bpe:
  """A vocabulary, the merges that make it, and how a text is cut before; any text can be written.

  Attributes:
    content: all of it, as the library `tokenizers` writes it.
    start, end: ids that stand before and after every text, or None; CLIP's files have both.
  """

  content: str
  start: int | None = None
  end: int | None = None

  @classmethod
  def train(cls, texts: Iterable[str], size: int, lower: bool = False) -> Bpe:
    """The pairs that are most frequent in `texts`; the same in every process.

    Args:
      texts: captions; may be none.
      size: how many ids at most, 256 bytes among them. Few texts have fewer pairs.
      lower: whether texts are lower-cased, here and by `encode`.

    Raises UserError for a size below 256.
    """
    if size < 256:
      raise UserError(f"size: {size} is too small; there are 256 bytes.")
    made = _byte_level(models.BPE(), lower)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
      vocab_size=size, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    made.train_from_iterator(texts, trainer)
    return cls(made.to_str())

  @classmethod
  def read(cls, file: str | os.PathLike[str], lower: bool = False) -> Bpe:
    """Reads what `write` wrote, a tokenizer.json, or GPT-2's or CLIP's files; downloads nothing.

    Args:
      file: it, vocab.json or merges.txt with the other beside it, or a folder with one of these.
      lower: whether texts are lower-cased also where the file does not say so.

    Raises UserError for anything else, and for a vocabulary that lacks single bytes.
    """
    path = _found(files.path(file))
    if path.name in ("vocab.json", "merges.txt"):
      bpe = _of_pairs(_json(path.with_name("vocab.json")), _merges(path.with_name("merges.txt")))
    else:
      bpe = _of_json(_json(path), path)
    made = bpe and bpe._tokenizer
    if not made or not set(pre_tokenizers.ByteLevel.alphabet()) <= made.get_vocab().keys():
      raise UserError(f"{path}: is no byte-level BPE; give {_KINDS}.")
    return dataclasses.replace(bpe, content=_lowered(made).to_str()) if lower else bpe

  def write(self, file: str | os.PathLike[str]) -> None:
    """Writes what `read` reads; a reader meanwhile finds the old file or the new one."""
    content = {"start": self.start, "end": self.end, "tokenizers": json.loads(self.content)}
    text = json.dumps(content, ensure_ascii=False)
    files.write_bytes(files.path(file), text.encode())

  @functools.cached_property
  def _tokenizer(self) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(self.content)

  @functools.cached_property
  def size(self) -> int:
    """Ids are 0 … size - 1."""
    marks = (-1 if mark is None else mark for mark in (self.start, self.end))
    return 1 + max(*self._tokenizer.get_vocab().values(), *marks)

  @functools.cached_property
  def identity(self) -> str:
    """A hash of all that `encode` depends on."""
    # Read again, so that the library's versions differ by nothing but what they do.
    content = json.dumps([json.loads(self._tokenizer.to_str()), self.start, self.end])
    return hashlib.sha256(content.encode()).hexdigest()[:16]

  def marked(self) -> Bpe:
    """The same with two more ids as marks around every text, unless it has an end mark."""
    size = self.size
    return self if self.end is not None else dataclasses.replace(self, start=size, end=size + 1)

  @property
  def marks(self) -> int:
    """How many ids `encode` puts around a text."""
    return (self.start is not None) + (self.end is not None)

  def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, int]:
    """Ids int32 [B, length], -1 after a text's end, and how many texts were cut to fit.

    Raises UserError for a length that has no room for a single id beside the marks.
    """
    if length <= self.marks:
      raise UserError(f"length: {length} is too small; a text needs at least {self.marks + 1}.")
    room, cut = length - self.marks, 0
    ids = np.full((len(texts), length), -1, np.int32)
    # Lone surrogates, as of broken arguments, become "?".
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    for row, found in zip(ids, self._tokenizer.encode_batch(texts, add_special_tokens=False)):
      cut += len(found.ids) > room
      before, after = ([] if mark is None else [mark] for mark in (self.start, self.end))
      whole = [*before, *found.ids[:room], *after]
      row[: len(whole)] = whole
    return ids, cut

  def decode(self, ids: Any) -> list[str]:
    """Texts of ids [B, L]; negative ones and marks are left out.

    CLIP's are lower-case with spaces between all words: the ids do not tell more.
    """
    marks = (self.start, self.end)
    kept = [[int(i) for i in row if i >= 0 and i not in marks] for row in np.asarray(ids)]
    texts = self._tokenizer.decode_batch(kept, skip_special_tokens=False)
    return [text.strip() for text in texts] if _SUFFIX in self.content else texts


def _byte_level(model: models.BPE, lower: bool) -> tokenizers.Tokenizer:
  made = tokenizers.Tokenizer(model)
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  return _lowered(made) if lower else made


def _lowered(made: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
  """The same for any case; itself where it is that already, so that its identity stays."""
  if "Lowercase" in json.dumps(json.loads(made.to_str())["normalizer"]):
    return made
  made = tokenizers.Tokenizer.from_str(made.to_str())
  before = [made.normalizer] if made.normalizer else []
  made.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
  return made


def _of_pairs(vocabulary: Any, merges: list[tuple[str, str]]) -> Bpe | None:
  """GPT-2's, or CLIP's where words have ends; None for what fits neither."""
  ends = isinstance(vocabulary, dict) and any(token.endswith(_SUFFIX) for token in vocabulary)
  try:
    model = models.BPE(vocabulary, merges, **(dict(end_of_word_suffix=_SUFFIX) if ends else {}))
  except Exception:  # the library has no narrower class
    return None
  if not ends:
    return Bpe(_byte_level(model, lower=False).to_str())
  made = tokenizers.Tokenizer(model)
  spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
  made.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
  made.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(_CLIP_WORDS), "removed", invert=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  made.decoder = decoders.Sequence([decoders.Replace(_SUFFIX, " "), decoders.ByteLevel()])
  return Bpe(made.to_str(), vocabulary.get(_START), vocabulary.get(_END))


def _of_json(content: Any, path: files.Path) -> Bpe | None:
  """What `write` wrote, or a file of the library; None for anything else."""
  if not isinstance(content, dict):
    return None
  model = content.get("model") or {}
  if content.keys() == {"start", "end", "tokenizers"}:
    bpe = Bpe(json.dumps(content["tokenizers"]), content["start"], content["end"])
  elif isinstance(model, Mapping) and model.get("end_of_word_suffix") == _SUFFIX:
    pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return _of_pairs(model["vocab"], pairs)
  else:
    bpe = Bpe(json.dumps(content))
  try:
    return bpe if isinstance(bpe._tokenizer.model, models.BPE) else None
  except Exception as e:
    raise UserError(f"{path}: cannot be read ({reason(e, 80)}); give {_KINDS}.") from None


def _found(path: files.Path) -> files.Path:
  """The file that `path` is or holds."""
  if path.is_dir():
    names = ("bpe.json", "tokenizer.json", "vocab.json")
    path = next((path / name for name in names if (path / name).is_file()), path)
  if not path.is_file():
    raise UserError(f"{path}: has no byte-level BPE; give {_KINDS}.")
  return path


def _json(path: files.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as e:
    raise UserError(f"{path}: cannot be read ({e}); give {_KINDS}.") from None


def _merges(path: files.Path) -> list[tuple[str, str]]:
  try:
    lines = path.read_text(encoding="utf-8").split("\n")
  except (OSError, ValueError) as e:
    raise UserError(f"{path}: cannot be read ({e}); give {_KINDS}.") from None
  pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
  if any(len(pair) != 2 for pair in pairs):
    raise UserError(f"{path}: is no list of merges, two tokens on a line; give {_KINDS}.")
  return pairs
