"""Images: grey or colour, uint8 `[B, H, W, C]`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from vqjax import pictures
from vqjax.signals import always_its_own, check_sheet, save_sheet, sized
from vqjax.signals._pixels import Pixels


@dataclasses.dataclass(frozen=True)
class Signal(Pixels):
  """Pixels, which the model reads in [-1, 1]. Callers may give floats in [-1, 1] instead."""

  field: ClassVar[str] = "image"
  axes: ClassVar[int] = 2
  judges: ClassVar[tuple[str, ...]] = ("discriminator", "perceptual")
  measures: ClassVar[tuple[str, ...]] = ("distortion", "ssim")
  noun: ClassVar[str] = "image"
  columns: ClassVar[int | None] = None
  suffixes: ClassVar[tuple[str, ...]] = pictures.SUFFIXES
  suffix: ClassVar[str] = ".png"

  suffix_for = always_its_own
  check_page, save_page = check_sheet, save_sheet

  def spec(self, ops: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    side = sized(ops)
    return (side, side, ops["channels"] or 3), "uint8"

  def sizes(self, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"size": shape[0]}

  def amount(self, shape: tuple[int, ...]) -> tuple[str, float]:
    del shape
    return "image", 1.0

  def pictures(self, values: Any, hidden: np.ndarray | None = None) -> np.ndarray:
    return pictures.greyed(self.finished(values), hidden)

  def open(
    self, file: pathlib.Path, shape: tuple[int, ...], size: tuple[int, ...] | None = None
  ) -> np.ndarray:
    image = pictures.read(file)
    # Resized before colours are mixed to grey, as training's examples are.
    image = image if size is None else pictures.fit(image, *size)
    return pictures.to_channels(image, shape[-1])

  def save(self, file: pathlib.Path, values: np.ndarray) -> None:
    pictures.save(file, values)
