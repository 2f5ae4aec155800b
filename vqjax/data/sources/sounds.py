"""A folder of sound: wav, flac, ogg, opus, mp3, aiff, at any depth and rate; needs soundfile.

Splits, classes, captions and unreadable files: see _files.py.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from typing import Any, ClassVar

import numpy as np

from vqjax import fields, pictures, sounds
from vqjax.data.sources import _files


def _read(path: pathlib.Path) -> dict[str, Any]:
  samples, rate = sounds.decode(path)
  return {"audio": samples, "rate": np.int32(rate)}


_SOUNDS = _files.Kind("sound", sounds.SUFFIXES, _read, logging.getLogger(__name__))


@dataclasses.dataclass(frozen=True)
class Source:
  """Field: the folder."""

  precedence: ClassVar[int] = 4
  kind: ClassVar[str] = f"a folder of sound ({', '.join(sounds.SUFFIXES)})"

  path: str = fields.place()

  @staticmethod
  def recognise(path: pathlib.Path) -> dict[str, Any] | None:
    found = pictures.has_files(path, sounds.SUFFIXES)
    return {"name": "sounds", "path": str(path)} if found else None

  def examples(self, split: str) -> _files.Files:
    return _files.split_of(self.path, split, _SOUNDS)

  def class_names(self) -> tuple[str, ...]:
    return self.examples("train").classes
