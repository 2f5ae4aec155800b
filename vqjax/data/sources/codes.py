"""Codes, or latents before a quantizer, computed before: what `python -m vqjax.tokenize` writes,
read by memory map with random access, numpy only. Captions beside them are lists in JSON.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from vqjax import fields
from vqjax.errors import UserError, reason

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Source:
  """Field: the folder that holds the manifest."""

  precedence: ClassVar[int] = 1
  kind: ClassVar[str] = "a folder of codes"

  path: str = fields.place()

  @staticmethod
  def recognise(path: pathlib.Path) -> dict[str, Any] | None:
    file = path / MANIFEST  # other tools call files so, too
    ours = file.is_file() and b'"tokenizer"' in file.read_bytes()
    return {"name": "codes", "path": str(path)} if ours else None

  def examples(self, split: str) -> Shards:
    folder, splits = pathlib.Path(self.path).expanduser(), read_manifest(self.path)["splits"]
    with _whole(folder, f"the {split} split"):
      return Shards(folder, splits[split])

  def made_by(self) -> str:
    """The hash of the tokenizer."""
    return read_manifest(self.path)["tokenizer"]

  def identity(self) -> dict[str, str]:
    return {"tokenizer": self.made_by()}

  def class_names(self) -> tuple[str, ...]:
    return tuple(read_manifest(self.path)["class_names"])


_REMEDY = "write the codes with python -m vqjax.tokenize"


@contextlib.contextmanager
def _whole(folder: pathlib.Path, what: str) -> Iterator[None]:
  """Makes one UserError of what files that were cut off or are not there raise."""
  try:
    yield
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise UserError(
      f"config.data.path: {what} of {folder} cannot be read ({reason(e)}); {_REMEDY} anew."
    ) from None


def read_manifest(path: str) -> dict[str, Any]:
  """What a folder of codes says of itself. Raises UserError where it is none."""
  file = pathlib.Path(path).expanduser() / MANIFEST
  if not file.is_file():
    raise UserError(f"config.data.path: {path} holds no {MANIFEST}; {_REMEDY}.")
  try:
    manifest = json.loads(file.read_text())
    missing = {"tokenizer", "class_names", "splits"} - manifest.keys()
  except (ValueError, AttributeError):
    raise UserError(f"config.data.path: {file} is damaged; {_REMEDY} anew.") from None
  if missing:
    raise UserError(f"config.data.path: {file} says nothing of {min(missing)}; {_REMEDY} anew.")
  return manifest


class Shards:
  """One split: shards of equally many examples, but for the last; a file for each field of one."""

  def __init__(self, folder: pathlib.Path, shards: list[dict[str, Any]]):
    self._folder, self._shards = folder, shards
    self._ends = list(np.cumsum([shard["examples"] for shard in shards]))
    # All of them here, not in the threads that read: numpy parses a header as Python, and the
    # parser of CPython 3.11 fails now and then where two threads use it.
    self._arrays = [
      {k: np.load(file, mmap_mode="r") for k, file in self._files(number, ".npy").items()}
      for number in range(len(shards))
    ]

  def __len__(self) -> int:
    return int(self._ends[-1]) if self._ends else 0

  def __getitem__(self, index: int) -> dict[str, Any]:
    number = bisect.bisect_right(self._ends, index)
    row = index - (self._ends[number - 1] if number else 0)
    fields = {
      k: np.asarray(v[row], np.int32 if k.startswith("ids") else v.dtype)
      for k, v in self._arrays[number].items()
    }
    texts = {k: v[row] for k, v in self._texts(number).items()}
    return fields | texts | {"name": f"codes {index}"}

  @property
  def texts(self) -> list[str | list[str]] | None:
    """All captions, of one example one or several."""
    shards = [self._texts(number) for number in range(len(self._shards))]
    return [text for shard in shards for text in shard.get("text", ())] or None

  @functools.cache  # noqa: B019  as many entries as shards, as long as the split lives
  def _texts(self, number: int) -> dict[str, list[str | list[str]]]:
    found = self._files(number, ".json")
    with _whole(self._folder, "captions"):
      return {field: json.loads(file.read_text("utf-8")) for field, file in found.items()}

  def _files(self, number: int, suffix: str) -> dict[str, pathlib.Path]:
    files = self._shards[number]["files"].items()
    return {field: self._folder / name for field, name in files if name.endswith(suffix)}
