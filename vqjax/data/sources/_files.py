"""What sources of folders of files have in common: splits, classes, captions, unreadable files.

Splits: `train/` with one of `eval/`, `validation/`, `valid/`, `val/`, `test/`; otherwise one in ten
is held out by a hash of its name.

Classes: the first folder level below the split, where all files lie in two or more such folders.

Captions: `metadata.csv` or `metadata.jsonl` (`file_name`, `text`) in the folder or the split's, or
a `.txt` beside the file, or beside the folder that is an example. One has several where rows repeat
its name, or `text` is a list.

A file that cannot be read is named in the log once and left out; more than 5 % of them is an error.

What was read is kept, decoded, as long as there is room: half a gigabyte a folder. Of a video the
list of its pictures is kept, not they.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import json
import logging
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vqjax import pictures
from vqjax.data.sources import EVAL_NAMES, hold_out
from vqjax.errors import UserError

MAX_BAD = 0.05
KEPT = 2**29  # bytes


class Kind(NamedTuple):
  """What a folder's files are.

  noun: what people call one of them.
  suffixes: of their names.
  read(path) -> the example's fields. May raise anything for a damaged file.
  log: where what cannot be read is named.
  examples(names) -> names of the examples, of those of all files with such suffixes: the files
    themselves, unless an example is a folder of them.
  content(path) -> what the fingerprint hashes of one.
  """

  noun: str
  suffixes: tuple[str, ...]
  read: Callable[[pathlib.Path], dict[str, Any]]
  log: logging.Logger
  examples: Callable[[list[str]], list[str]] = lambda names: names
  content: Callable[[pathlib.Path], np.ndarray] = lambda path: np.fromfile(path, np.uint8)


def split_of(path: str, split: str, kind: Kind) -> Files:
  """One split of a folder. Raises UserError where there is none, or nothing in it."""
  root = pathlib.Path(path).expanduser()
  if not root.is_dir():
    raise UserError(f"config.data.path: {path!r} is not a folder of {kind.noun}s.")
  files = _scan(root, kind)[split]
  if not files.names:
    raise UserError(f"{root}: has no {kind.noun}s for the {split} split.")
  return files


class Tally:
  """Unreadable files of a folder, both splits together."""

  def __init__(self, root: pathlib.Path, total: int, kind: Kind):
    self.root, self.total, self.kind, self.bad = root, total, kind, set()
    self._lock = threading.Lock()

  def add(self, name: str, error: Exception) -> None:
    """Raises UserError once too many files are bad."""
    with self._lock:
      if name not in self.bad:
        self.bad.add(name)
        self.kind.log.warning(
          "%s: cannot be read and is left out (%s); %d of %d so far.",
          self.root / name,
          str(error).replace(f" '{self.root / name}'", ""),
          len(self.bad),
          self.total,
        )
      if len(self.bad) > MAX_BAD * self.total:
        raise UserError(
          f"{self.root}: {len(self.bad)} of {self.total} {self.kind.noun}s cannot be read, more "
          f"than {MAX_BAD:.0%}; mend or remove them, e.g. {name}."
        )


class Kept:
  """What was read, by name, as long as there is room."""

  def __init__(self, room: int):
    self.room = room
    self._found: dict[str, dict[str, Any]] = {}
    self._lock = threading.Lock()

  def get(self, name: str) -> dict[str, Any] | None:
    return self._found.get(name)

  def add(self, name: str, example: dict[str, Any]) -> None:
    """The arrays can be written to no more: later epochs see them again. Videos, whose pictures are
    decoded when they are asked for, count for the list of them.
    """
    takes = lambda value: value.nbytes if hasattr(value, "nbytes") else 256 * len(value)
    size = sum(map(takes, example.values()))
    with self._lock:
      if name in self._found or size > self.room:
        return
      self.room -= size
      for value in example.values():
        if isinstance(value, np.ndarray):
          value.flags.writeable = False
      self._found[name] = example


@dataclasses.dataclass(frozen=True)
class Files:
  """One split: names relative to the root, decoded on request."""

  root: pathlib.Path
  names: tuple[str, ...]
  labels: tuple[int, ...] | None
  texts: tuple[str | tuple[str, ...], ...] | None
  classes: tuple[str, ...]
  tally: Tally
  kept: Kept

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> dict[str, Any] | None:
    name = self.names[index]
    if (example := self.kept.get(name)) is None:
      try:
        example = self.tally.kind.read(self.root / name)
      except Exception as e:  # Decoders raise nearly anything on damaged files.
        self.tally.add(name, e)
        return None
      self.kept.add(name, example)
    return example | {"name": name} | self._beside(index)

  def content(self, index: int) -> dict[str, Any] | None:
    """The file as it is: decoding takes longer, and libraries differ in a bit."""
    try:
      file = self.tally.kind.content(self.root / self.names[index])
    except OSError as e:
      self.tally.add(self.names[index], e)
      return None
    return {"file": file} | self._beside(index)

  def _beside(self, index: int) -> dict[str, Any]:
    example = {}
    if self.labels is not None:
      example["label"] = np.int32(self.labels[index])
    if self.texts is not None:
      example["text"] = self.texts[index]
    return example


@functools.lru_cache(maxsize=4)
def _scan(root: pathlib.Path, kind: Kind) -> dict[str, Files]:
  """Lists a folder once a process, so that a split is the same throughout a run and a bad file is
  logged once.
  """
  listed = pictures.list_files(root)
  found = kind.examples([n for n in listed if n.lower().endswith(kind.suffixes)])
  if not found:
    raise UserError(f"{root}: has no {kind.noun}s ({', '.join(kind.suffixes)}).")
  folders = [f + "/" if f else "" for f in _split_folders(root, found, kind)]
  prefixes = {"train": folders[0], "eval": folders[-1]}
  names = {s: tuple(n for n in found if n.startswith(p)) for s, p in prefixes.items()}
  if len(folders) == 1:
    held = hold_out(names["train"])
    names = {
      s: tuple(itertools.compress(names[s], keep)) for s, keep in (("train", ~held), ("eval", held))
    }
  classes = _classes([n[len(prefixes[s]) :] for s in names for n in names[s]])
  texts = _captions(root, listed, found, {"", *prefixes.values()}, kind.log)
  if texts and not texts.keys() & set(found):
    raise UserError(
      f"{root}: no caption names one of this folder's {kind.noun}s; file_name is relative to its "
      "metadata file."
    )
  if texts and (bare := len(set(found) - texts.keys())):
    what = f"{kind.noun}s have no caption; theirs is empty"
    kind.log.warning("%s: %d of %d %s.", root, bare, len(found), what)
  tally, kept = Tally(root, sum(map(len, names.values())), kind), Kept(KEPT)
  return {
    s: Files(
      root=root,
      names=names[s],
      classes=classes,
      tally=tally,
      kept=kept,
      labels=tuple(classes.index(n[len(prefixes[s]) :].split("/")[0]) for n in names[s])
      if classes
      else None,
      texts=tuple(texts.get(n, "") for n in names[s]) if texts else None,
    )
    for s in names
  }


def _split_folders(root: pathlib.Path, names: list[str], kind: Kind) -> list[str]:
  """Returns [train, eval] folders, [train] alone, or [""] where the folder is not split."""
  top = {n.split("/")[0].lower(): n.split("/")[0] for n in names if "/" in n}
  if "train" not in top:
    return [""]
  found = [top["train"]] + [top[n] for n in EVAL_NAMES if n in top][:1]
  if outside := sum(n.split("/")[0] not in found for n in names):
    kind.log.warning(
      "%s: %d %ss outside %s are not used.", root, outside, kind.noun, " and ".join(found)
    )
  return found


def _classes(names: list[str]) -> tuple[str, ...]:
  """First-level folders in order, or nothing where files lie outside them or there is only one."""
  folders = {n.split("/")[0] if "/" in n else None for n in names}
  return () if None in folders or len(folders) < 2 else tuple(sorted(folders))


def _captions(
  root: pathlib.Path,
  listed: list[str],
  names: Sequence[str],
  prefixes: set[str],
  log: logging.Logger,
) -> dict[str, str | tuple[str, ...]]:
  """Captions by name, one or several, from the metadata files at `prefixes` and the .txt files
  beside what bears the name, a file or a folder of frames.
  """
  texts = {}
  stems = {n[:-4]: n for n in listed if n.endswith(".txt")}
  for name in names:
    if beside := stems.get(name) or stems.get(name.rpartition(".")[0]):
      texts[name] = (root / beside).read_text(encoding="utf-8", errors="replace").strip()
  for prefix in prefixes:
    for file in ("metadata.csv", "metadata.jsonl"):
      if prefix + file in listed:
        found: dict[str, tuple[str, ...]] = {}
        for name, several in _metadata(root / (prefix + file), log):
          found[prefix + name] = found.get(prefix + name, ()) + several
        texts |= {name: t[0] if len(t) == 1 else t for name, t in found.items()}
  return texts


def _metadata(path: pathlib.Path, log: logging.Logger) -> list[tuple[str, tuple[str, ...]]]:
  """Rows (file_name, captions) of a metadata file; none of one whose first entry has no `text`.

  Raises UserError counting to the entry that lacks them.
  """
  rows = []
  try:
    with path.open(encoding="utf-8-sig", newline="") as f:
      for row in (
        csv.DictReader(f) if path.suffix == ".csv" else map(json.loads, filter(str.strip, f))
      ):
        if not rows and "text" not in row:
          log.warning("%s: has no column text, so no captions are read.", path)
          return []
        several = row["text"] if isinstance(row["text"], list) else [row["text"]]
        texts = tuple(text.strip() for text in several)
        rows.append((row["file_name"].removeprefix("./"), texts))
  except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as e:
    raise UserError(
      f"{path}: entry {len(rows) + 1} needs file_name and text ({type(e).__name__}: {e})."
    ) from None
  return rows
