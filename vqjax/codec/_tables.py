"""How often each code occurs in a tokenizer's training split: code_counts.npz in its workdir."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from vqjax import files
from vqjax.codec import Tables, books_of, digest
from vqjax.errors import UserError, reason

FILE = "code_counts.npz"


def count(batches: Iterable[tuple[np.ndarray, ...]], levels: tuple[Any, ...]) -> Tables:
  """int64 [K] by level and book over batches of codes, each `[B, *grid]` by level."""
  tables = tuple(tuple(np.zeros(c.size, np.int64) for _ in range(c.books)) for c in levels)
  for batch in batches:
    for ids, codes, own in zip(batch, levels, tables, strict=True):
      for book, column in enumerate(books_of(ids, codes).T):
        own[book][:] += np.bincount(column, minlength=codes.size)
  return tables


def save(workdir: files.Path, tables: Tables, identity: str) -> None:
  """Writes the tables of the tokenizer with this identity. Raises UserError as files do."""
  files.write_bytes(workdir / FILE, content(tables, identity), workdir)


def content(tables: Tables, identity: str) -> bytes:
  """The same as a file's bytes."""
  named = {f"{i}.{j}": own for i, level in enumerate(tables) for j, own in enumerate(level)}
  made = io.BytesIO()
  np.savez(made, tokenizer=np.array(identity), **named)
  return made.getvalue()


def keep(
  workdir: files.Path, levels: tuple[Any, ...], identity: str, batches: Iterable[tuple]
) -> None:
  """Counts and saves, unless the tables of this tokenizer are there, by which files were written,
  or the run is an exported one, to which nothing is added.
  """
  if not files.is_packed(workdir) and load(workdir, levels, identity) is None:
    save(workdir, count(batches, levels), identity)


def load(workdir: files.Path, levels: tuple[Any, ...], identity: str) -> Tables | None:
  """The tables in a workdir; None where there are none, or those of other weights.

  Raises UserError where the file is damaged.
  """
  if not (file := workdir / FILE).exists():
    return None
  try:
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as found:
      if str(found["tokenizer"]) != identity:
        return None
      tables = tuple(tuple(found[f"{i}.{j}"] for j in range(c.books)) for i, c in enumerate(levels))
  except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
    raise UserError(
      f"{file}: is damaged ({reason(e)}); put it back: files that were written with "
      "its counts cannot be read without it."
    ) from None
  for level, codes in zip(tables, levels):
    if any(t.shape != (codes.size,) or t.dtype != np.int64 or t.min() < 0 for t in level):
      raise UserError(f"{file}: holds no counts of {codes.size} codes; put the right file back.")
  return tables


def stored(tables: Tables) -> bytes:
  """The hash of tables [8]."""
  return digest(*(t.astype("<i8").tobytes() for level in tables for t in level))
