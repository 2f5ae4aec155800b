"""The vocabulary of a run that reads captions: made or read once, and kept in its workdir."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vqjax import checks, fields, files
from vqjax.data.text import Bpe
from vqjax.errors import UserError

log = logging.getLogger("vqjax")

FILE = "bpe.json"


@dataclasses.dataclass(frozen=True)
class Text:
  """How captions become ids.

  Attributes:
    bpe: a file that vqjax.data.text.Bpe reads; None trains one on the run's captions.
    size: ids that a trained one has at most; of one that is read, what it has counts.
    length: ids of a caption at most, with the marks around it; a longer one is cut.
    lower: whether captions are lower-cased.
  """

  bpe: str | None = fields.part(None)
  size: int = 4_096
  length: int = 64
  lower: bool = False

  def __post_init__(self) -> None:
    checks.positive(self, "size", "length")


def keep(
  text: Text, option: str, dataset: Any, workdir: files.Path, marked: bool = False
) -> str | None:
  """Reads or trains the vocabulary and keeps it as `bpe.json` in the workdir; returns its path,
  absolute.

  One that weights in the workdir belong to stays: it is read again.

  Args:
    text: what the config says.
    option: how the user spells it, for messages.
    dataset: whose training captions a new one is made of. Without one, of a conversion, nothing is
      made, and None is returned where no file is named.
    workdir: of the run.
    marked: whether it needs marks around a caption; where it has none, it gets them.

  Raises:
    UserError: no captions, a file that cannot be read, or another one than the weights belong to.
  """
  file, kept = workdir / FILE, None
  given = Bpe.read(text.bpe, text.lower) if text.bpe else None
  given = given.marked() if given and marked else given
  if dataset is None and not given:
    return None
  if files.saved_steps(workdir):
    if not given and not file.exists():
      raise UserError(
        f"{option}.bpe: {workdir} has weights but no {FILE}; give the file that they belong to."
      )
    kept = Bpe.read(file) if file.exists() else None
    if given and kept and given.identity != kept.identity:
      raise UserError(
        f"{option}.bpe: {text.bpe} is another vocabulary than that of {workdir}; bring it back, or "
        "start in a new --workdir."
      )
  if kept is None:
    made = given or _trained(text, option, dataset, marked)
    if jax.process_index() == 0:
      made.write(file)
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      multihost_utils.sync_global_devices("vocabulary written")
  return str(file) if files.is_remote(file) else os.path.abspath(file)


def _trained(text: Text, option: str, dataset: Any, marked: bool) -> Bpe:
  captions = list(dataset.texts())
  if not any(captions):
    raise UserError(
      f"{option}: config.data have no captions to read; give data that do (for folders, "
      "metadata.csv with file_name and text)."
    )
  least = 256 + 2 * marked  # bytes, and the marks
  if text.size < least:
    raise UserError(f"{option}.size: {text.size} is too small; give at least {least}.")
  made = Bpe.train(captions, text.size - 2 * marked, text.lower)
  made = made.marked() if marked else made
  log.info("%d ids from %d captions", made.size, len(captions))
  return made


def opened(text: Text, option: str) -> Captions:
  """Captions to ids, by a vocabulary that is there.

  Raises UserError where it is not, or is larger than `text` says; `option`: as in `keep`.
  """
  if not text.bpe:
    raise UserError(
      f"{option}.bpe: is not set, so that captions cannot be read; training makes it, or give a "
      "file, with converted weights as --option bpe=FILE."
    )
  bpe = Bpe.read(text.bpe, text.lower)
  if bpe.size > text.size:
    raise UserError(
      f"{option}.size: {text.size} is less than the {bpe.size} ids of {text.bpe}; set it to "
      f"{bpe.size}."
    )
  return Captions(bpe, text.length)


class Captions:
  """Ids of captions, counting those that are cut: the first is logged, then every tenfold."""

  def __init__(self, bpe: Bpe, length: int):
    self.bpe, self.length = bpe, length
    self.seen = self.cut = 0
    self._said = 0

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """int32 [B, length], -1 after the end."""
    ids, cut = self.bpe.encode(texts, self.length)
    self.seen, self.cut = self.seen + len(texts), self.cut + cut
    if self.cut >= max(1, 10 * self._said):
      self._said = self.cut
      log.warning(
        "%d of %d captions are longer than %d ids and were cut", self.cut, self.seen, self.length
      )
    return ids
