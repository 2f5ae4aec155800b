"""Codes computed before: what `python -m vqjax.tokenize` writes, read by memory map with random
access, numpy only.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import json
import pathlib
from typing import Any, ClassVar

import numpy as np

from vqjax.errors import UserError

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Source:
  """Field: the folder that holds the manifest."""

  tensorflow: ClassVar[str] = "never"
  precedence: ClassVar[int] = 1
  kind: ClassVar[str] = "a folder of codes"

  path: str

  @staticmethod
  def recognise(path: pathlib.Path) -> dict[str, Any] | None:
    return {"name": "codes", "path": str(path)} if (path / MANIFEST).is_file() else None

  def examples(self, split: str) -> Shards:
    return Shards(pathlib.Path(self.path), read_manifest(self.path)["splits"][split])

  def made_by(self) -> str:
    """The hash of the tokenizer."""
    return read_manifest(self.path)["tokenizer"]

  def identity(self) -> dict[str, str]:
    return {"tokenizer": self.made_by()}

  def class_names(self) -> tuple[str, ...]:
    return tuple(read_manifest(self.path)["class_names"])


def read_manifest(path: str) -> dict[str, Any]:
  """What a folder of codes says of itself. Raises UserError where it is none."""
  file = pathlib.Path(path) / MANIFEST
  if not file.is_file():
    raise UserError(
      f"config.data.path: {path} holds no {MANIFEST}; write the codes with python -m vqjax.tokenize."
    )
  return json.loads(file.read_text())


class Shards:
  """One split: files of equally many examples, but for the last; every field of a shard is one .npy."""

  def __init__(self, folder: pathlib.Path, shards: list[dict[str, Any]]):
    self._folder, self._shards = folder, shards
    self._ends = list(np.cumsum([shard["examples"] for shard in shards]))

  def __len__(self) -> int:
    return int(self._ends[-1]) if self._ends else 0

  def __getitem__(self, index: int) -> dict[str, Any]:
    number = bisect.bisect_right(self._ends, index)
    row = index - (self._ends[number - 1] if number else 0)
    arrays = self._open(number)
    return {
      k: np.asarray(v[row], np.int32 if k.startswith("ids") else v.dtype) for k, v in arrays.items()
    } | {"name": f"codes {index}"}

  @functools.cache  # noqa: B019  as many entries as shards, as long as the split lives
  def _open(self, number: int) -> dict[str, np.ndarray]:
    return {
      field: np.load(self._folder / file, mmap_mode="r")
      for field, file in self._shards[number]["files"].items()
    }
