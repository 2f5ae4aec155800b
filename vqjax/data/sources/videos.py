"""A folder of video: gif, webp, mp4, webm, mov, avi, mkv, at any depth; all but the first two need
`av`. Frames are decoded when the ops ask for them.

Splits, classes, captions and unreadable files: see _files.py.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from typing import Any, ClassVar

from PIL import Image

from vqjax import fields, pictures, videos
from vqjax.data.sources import _files

_VIDEOS = _files.Kind(
  "video", videos.SUFFIXES, lambda path: {"video": videos.read(path)}, logging.getLogger(__name__)
)


@dataclasses.dataclass(frozen=True)
class Source:
  """Field: the folder."""

  precedence: ClassVar[int] = 2
  kind: ClassVar[str] = f"a folder of video ({', '.join(videos.SUFFIXES)})"

  path: str = fields.place()

  @staticmethod
  def recognise(path: pathlib.Path) -> dict[str, Any] | None:
    """A folder of pictures some of which move is one of pictures: all have to."""
    found = pictures.has_files(path, videos.SUFFIXES)
    return {"name": "videos", "path": str(path)} if found and _all_move(path) else None

  def examples(self, split: str) -> _files.Files:
    return _files.split_of(self.path, split, _VIDEOS)

  def class_names(self) -> tuple[str, ...]:
    return self.examples("train").classes


def _all_move(folder: pathlib.Path) -> bool:
  """Whether films lie there and no pictures, or animations alone, by the first of them."""
  listed = [name.lower() for name in pictures.list_files(folder)]
  still = [n for n in listed if n.endswith(pictures.SUFFIXES) and not n.endswith(videos.ANIMATED)]
  moving = [n for n in pictures.list_files(folder) if n.lower().endswith(videos.ANIMATED)]
  if still or not moving:
    return not still
  try:
    with Image.open(folder / moving[0]) as image:
      return getattr(image, "n_frames", 1) > 1
  except OSError:
    return False
