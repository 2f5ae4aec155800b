"""Folders of numbered frames: each folder that holds pictures is a video, its frames in the order
of their numbers. Named in a config only, as classes of pictures lie in folders, too.

Splits, classes, captions (by the folder's name) and unreadable files: see _files.py.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
from typing import Any

import numpy as np

from vqjax import fields, pictures, videos
from vqjax.data.sources import _files
from vqjax.errors import UserError


def _number(path: pathlib.Path) -> tuple[int, str]:
  digits = re.findall(r"\d+", path.stem)
  return (int(digits[-1]) if digits else -1, path.name)


def _files_of(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
  found = (p for p in folder.iterdir() if p.suffix.lower() in pictures.SUFFIXES)
  return tuple(sorted(found, key=_number))


def _read(folder: pathlib.Path) -> dict[str, Any]:
  video = videos.Frames(_files_of(folder))
  video[np.array([0, len(video) - 1])]
  return {"video": video}


def _folders(names: list[str]) -> list[str]:
  if loose := [name for name in names if "/" not in name]:
    raise UserError(
      f"config.data.path: {loose[0]} lies in no folder of its own; put each video's frames into "
      "one."
    )
  return sorted({name.rpartition("/")[0] for name in names})


_FRAMES = _files.Kind(
  "video",
  pictures.SUFFIXES,
  _read,
  logging.getLogger(__name__),
  examples=_folders,
  content=lambda folder: np.fromfile(_files_of(folder)[0], np.uint8),
)


@dataclasses.dataclass(frozen=True)
class Source:
  """Field: the folder of folders."""

  path: str = fields.place()

  def examples(self, split: str) -> _files.Files:
    return _files.split_of(self.path, split, _FRAMES)

  def class_names(self) -> tuple[str, ...]:
    return self.examples("train").classes
