"""Ops on pictures and label maps, numpy and PIL only: resizing, crops, flips."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from vqjax import checks, pictures
from vqjax.errors import UserError
from vqjax.pictures import Box

# How the fields are resampled.
_RESAMPLING = {"image": Image.Resampling.BICUBIC, "layout": Image.Resampling.NEAREST}
MOST_ENLARGED = 4

log = logging.getLogger(__name__)
_WARNED, _LOCK = set(), threading.Lock()


@dataclasses.dataclass(frozen=True)
class Ops:
  """What happens to every image before it is batched. A layout gets the same treatment, with
  nearest neighbours.

  Attributes:
    size: side of the square output; None leaves images as they are, then all must have one size.
    crop: "center" resizes the shorter side to `size` and cuts the centre, in training and
      evaluation. "random" cuts a window of `size` at the image's own resolution (the centre one in
      evaluation). "random_resized" cuts a window of random area and aspect and resizes it (arXiv
      1409.4842; "center" in evaluation). "none" checks the size only.
    flip: mirrors half of the training images left to right.
    channels: 1 or 3 converts between grey and RGB; None keeps what the source yields.
    min_area: the smallest share of the image's area that "random_resized" cuts.
  """

  fields: ClassVar[tuple[str, ...]] = tuple(_RESAMPLING)
  remedy: ClassVar[str] = "set config.ops.size (and channels) to make them alike"

  size: int | None = None
  crop: Literal["center", "random", "random_resized", "none"] = "center"
  flip: bool = False
  channels: int | None = None
  min_area: float = 0.08

  def __post_init__(self):
    checks.positive(self, "size")
    if self.size is None and self.crop in ("random", "random_resized"):
      raise UserError(f"crop: {self.crop!r} needs a size.")
    if self.channels not in (None, 1, 3):
      raise UserError(
        f"channels: {self.channels} is not supported; give 1 (grey), 3 (RGB) or None."
      )
    checks.within(self, "min_area", above=0, at_most=1)

  def apply(
    self, example: Mapping[str, Any], rng: np.random.Generator | None = None
  ) -> dict[str, Any]:
    """Crops, resizes and flips those of `fields` that the example has, all alike, and converts the
    image's channels; keeps the rest.

    Raises:
      UserError: the image is smaller than the window, or not of the size that `crop="none"` asks
        for.
    """
    found = [field for field in self.fields if field in example]
    if not found or example.keys() & {"ids", "latents"}:
      return dict(example)
    height, width = example[found[0]].shape[:2]
    box, size = window(self, height, width, rng, example.get("name", found[0]))
    flip = rng is not None and self.flip and rng.random() < 0.5
    done = {field: pictures.cut(example[field], box, size, _RESAMPLING[field]) for field in found}
    if flip:
      done = {field: array[:, ::-1] for field, array in done.items()}
    if "image" in done:
      done["image"] = pictures.to_channels(done["image"], self.channels)
    return {**example, **done}

  def shown(self, shape: tuple[int, ...]) -> str:
    """Width first, as people say it."""
    return "x".join(map(str, (shape[1], shape[0], *shape[2:])))


def window(
  ops: Ops, height: int, width: int, rng: np.random.Generator | None, name: str
) -> tuple[Box, tuple[int, int]]:
  """Returns the part of the image to keep and the size to give it."""
  whole = (0, 0, height, width)
  if ops.size is None:
    return whole, (height, width)
  out_hw = (ops.size, ops.size)
  if ops.crop == "none":
    if (height, width) != out_hw:
      raise UserError(
        f"{name}: is {width}x{height}, not size={ops.size}, and crop='none'. Use crop='center'."
      )
    return whole, out_hw
  if ops.crop == "random":
    if min(height, width) < ops.size:
      raise UserError(
        f"{name}: is {width}x{height}, smaller than crop='random' with size={ops.size}. "
        f"Lower size to {min(height, width)}, or use crop='center', which resizes."
      )
    return _place(ops.size, ops.size, height, width, rng), out_hw
  if ops.crop == "random_resized" and rng is not None:
    return _random_window(height, width, ops.min_area, rng), out_hw
  side = min(height, width)
  if ops.size > MOST_ENLARGED * side and ops.crop == "center":
    _warn_once(ops, f"{name}: is {width}x{height}")
  return _place(side, side, height, width, None), out_hw


def _warn_once(ops: Ops, what: str) -> None:
  with _LOCK:
    first = ops not in _WARNED
    _WARNED.add(ops)
  if first:
    log.warning(
      "%s, enlarged more than %d times to size=%d; the same is not said of others.",
      what,
      MOST_ENLARGED,
      ops.size,
    )


def _place(
  height: int, width: int, full_height: int, full_width: int, rng: np.random.Generator | None
) -> Box:
  spare_y, spare_x = full_height - height, full_width - width
  if rng is None:
    return spare_y // 2, spare_x // 2, height, width
  return int(rng.integers(spare_y + 1)), int(rng.integers(spare_x + 1)), height, width


def _random_window(height: int, width: int, min_area: float, rng: np.random.Generator) -> Box:
  for _ in range(10):
    area = rng.uniform(min_area, 1) * height * width
    aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      return _place(h, w, height, width, rng)
  side = min(height, width)
  return _place(side, side, height, width, None)
