"""Video: uint8 `[B, T, H, W, C]`, grey or colour."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from vqjax import pictures, videos
from vqjax.errors import UserError
from vqjax.signals import Row, save_sheet, sized
from vqjax.signals._pixels import Pixels


@dataclasses.dataclass(frozen=True)
class Signal(Pixels):
  """Pixels of frames, which the model reads in [-1, 1]. Callers may give floats in [-1, 1]
  instead. People see strips of the frames, or an animation.
  """

  field: ClassVar[str] = "video"
  axes: ClassVar[int] = 3
  judges: ClassVar[tuple[str, ...]] = ("discriminator",)
  measures: ClassVar[tuple[str, ...]] = ("frames",)
  noun: ClassVar[str] = "video"
  columns: ClassVar[int | None] = 1
  suffixes: ClassVar[tuple[str, ...]] = videos.SUFFIXES
  suffix: ClassVar[str] = ".gif"

  def spec(self, ops: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    side = sized(ops)
    if not ops.get("frames"):
      raise UserError("config.ops.frames: is not set; give it, since no data are read here.")
    return (ops["frames"], side, side, ops["channels"] or 3), "uint8"

  def sizes(self, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"frames": shape[0], "size": shape[1]}

  def amount(self, shape: tuple[int, ...]) -> tuple[str, float]:
    return "frame", float(shape[0])

  def pictures(self, values: Any, hidden: np.ndarray | None = None) -> np.ndarray:
    """Frames beside each other, uint8 `[B, H, T (W + 1) - 1, C]`."""
    return videos.strips(pictures.greyed(self.finished(values), hidden))

  def open(
    self, file: pathlib.Path, shape: tuple[int, ...], size: tuple[int, ...] | None = None
  ) -> np.ndarray:
    """With `size`, the first frames; where there are fewer, the last one is repeated."""
    opened = videos.read(file)
    frames = videos.fitted(opened, None if size is None else size[0])
    if size is not None:
      frames = np.stack([pictures.fit(frame, *size[1:]) for frame in frames])
    return np.stack([pictures.to_channels(frame, shape[-1]) for frame in frames])

  def suffix_for(self, file: pathlib.Path) -> str:
    return ".mp4" if file.suffix.lower() in videos.FILMED else self.suffix

  def check_page(self, file: pathlib.Path) -> None:
    if file.suffix.lower() not in pictures.SUFFIXES:
      videos.check(file)

  def save_page(
    self, file: pathlib.Path, rows: Sequence[Row], together: bool = False
  ) -> list[pathlib.Path]:
    """One animation of all side by side; or strips, one below the other."""
    if file.suffix.lower() not in videos.WRITTEN:
      return save_sheet(self, file, rows, together)
    shown = [pictures.greyed(self.finished(row.values), row.hidden) for row in rows]
    videos.save(file, videos.page(shown, [row.captions for row in rows]))
    return [file]

  def save(self, file: pathlib.Path, values: np.ndarray) -> None:
    videos.save(file, values)
