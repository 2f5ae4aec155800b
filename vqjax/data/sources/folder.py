"""A folder of images: png, jpg, jpeg, webp, bmp, gif (first frame), tif, tiff, at any depth.

Splits, classes, captions and unreadable files: see _files.py.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from typing import Any, ClassVar

from vqjax import fields, pictures
from vqjax.data.sources import _files

_read = lambda path: {"image": pictures.decode(path)}
_IMAGES = _files.Kind("image", pictures.SUFFIXES, _read, logging.getLogger(__name__))


@dataclasses.dataclass(frozen=True)
class Source:
  """Field: the folder."""

  precedence: ClassVar[int] = 3
  kind: ClassVar[str] = f"a folder of images ({', '.join(pictures.SUFFIXES)})"

  path: str = fields.place()

  @staticmethod
  def recognise(path: pathlib.Path) -> dict[str, Any] | None:
    found = pictures.has_files(path)
    return {"name": "folder", "path": str(path)} if found else None

  def examples(self, split: str) -> _files.Files:
    return _files.split_of(self.path, split, _IMAGES)

  def class_names(self) -> tuple[str, ...]:
    return self.examples("train").classes
