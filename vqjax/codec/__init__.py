"""The codec: codes to bytes and back, by an entropy coder that sees integers alone.

A file without an underscore is a mode: how probable each code is taken to be. It defines

    class Mode
      number: int                     what the container calls it; never given to another mode
      Mode.open(source) -> mode       for what `Source` holds; raises UserError where the mode needs
                                      what is not there
      mode.stored: bytes              the hash [8] of what decoding needs beside the tokenizer: a
                                      table, a network; b"" for nothing
      preference: int                 of the modes that a run serves, the one with the largest is
                                      taken by default: what costs less, a portable one first
      networked: bool                 whether its probabilities are those of the source's priors
      mode.environment: str           what else must be the same where the file is read, in words;
                                      "" where the bytes are a function of integers alone, so that
                                      every machine, batch size and version reads them
      mode.encode(coder, examples)    puts the codes of a chunk into a `_coder.Encoder`: a list of
                                      examples, each a tuple with the codes of every level [*grid],
                                      coarse first, of any grid
      mode.decode(coder, shapes) -> examples     gets them from a `_coder.Decoder`, given the grids
                                                 of every example's levels

- All examples of a chunk share one stream, in any order of their codes that depends on the grids
  alone: the coder's few bytes of closing are paid once, networks see batches, and a chunk is what
  can be read alone.
- Frequencies go through `_coder.frequencies`. Every code keeps a share of the probability, so that
  a stream of n bytes holds a bounded number of codes (`_coder.most_codes`), which whoever reads it
  checks before anything is allocated.
- What `decode` makes of bytes that nobody encoded is arbitrary codes or UserError: the container's
  sums tell.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np

from vqjax.errors import UserError

MEMBER = "Mode"

Example = tuple[np.ndarray, ...]
Shapes = tuple[tuple[int, ...], ...]
Tables = tuple[tuple[np.ndarray, ...], ...]


class Source(NamedTuple):
  """What a mode may draw on.

  workdir: of the run, for messages.
  levels: the codes of the tokenizer, see vqjax.latents, coarse first.
  tables: how often each code occurs in the training split, int64 [K] by level and book, see
    `_tables`; None where nobody has counted.
  priors: a vqjax.sampler.Sampler of every level, coarse first; () for a tokenizer alone.
  identity: the hash [8] of the priors' weights and configs.
  """

  workdir: Any
  levels: tuple[Any, ...]
  tables: Tables | None = None
  priors: tuple[Any, ...] = ()
  identity: bytes = b""


def digest(*parts: bytes) -> bytes:
  """A hash [8] of byte strings."""
  lengths = (len(part).to_bytes(8, "little") + part for part in parts)
  return hashlib.sha256(b"".join(lengths)).digest()[:8]


def books_of(ids: np.ndarray, codes: Any) -> np.ndarray:
  """Codes of one level [*grid] as [cells, books], in the order of a sequence."""
  return np.asarray(ids).reshape(-1, codes.books)


def need_tables(source: Source) -> Tables:
  """source.tables. Raises UserError where nobody has counted."""
  if source.tables is None:
    raise UserError(
      f"{source.workdir}: holds no table of how often each code occurs; write one with "
      "python -m vqjax.tokenize or python -m vqjax.evaluate."
    )
  return source.tables
