"""Ops on one example, numpy and PIL only: decoding, resizing, crops, flips; random ones are pure in
(seed, counter).
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from vqjax.build import check_fields
from vqjax.errors import UserError

Box = tuple[int, int, int, int]  # top, left, height, width
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


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

  size: int | None = None
  crop: Literal["center", "random", "random_resized", "none"] = "center"
  flip: bool = False
  channels: int | None = None
  min_area: float = 0.08

  def __post_init__(self):
    if self.size is not None and self.size < 1:
      raise UserError(f"size: {self.size} is not a number of pixels; give 1 or more, or None.")
    if self.size is None and self.crop in ("random", "random_resized"):
      raise UserError(f"crop: {self.crop!r} needs a size.")
    if self.channels not in (None, 1, 3):
      raise UserError(
        f"channels: {self.channels} is not supported; give 1 (grey), 3 (RGB) or None."
      )
    if not 0 < self.min_area <= 1:
      raise UserError(
        f"min_area: {self.min_area} is not a share of the area; give more than 0 and at most 1."
      )


def from_config(config: Mapping[str, Any], path: str = "config.ops") -> Ops:
  """Checks the fields and their types. Raises UserError with the near miss for an unknown one."""
  config = dict(config)
  check_fields(Ops, config, path)
  try:
    return Ops(**config)
  except UserError as e:
    raise UserError(f"{path}.{e}") from None


def generator(seed: int, counter: int, stream: int = 0) -> np.random.Generator:
  """Random numbers as a function of the arguments alone; `stream` keeps the uses of one seed apart."""
  key = np.array([(seed + (stream << 56)) % 2**64, counter], np.uint64)
  return np.random.Generator(np.random.Philox(key=key))


def apply(
  ops: Ops, example: Mapping[str, Any], rng: np.random.Generator | None = None
) -> dict[str, Any]:
  """Crops, resizes, flips and converts `image` uint8 [H, W, C] and `layout` uint8 [H, W]; keeps the
  rest.

  Args:
    ops: what to do.
    example: `name` is what messages call it; without an image it is kept as it is.
    rng: None in evaluation, where nothing is random.

  Raises:
    UserError: the image is smaller than the window, or not of the size that `crop="none"` asks for.
  """
  if "image" not in example:
    return dict(example)
  image = example["image"]
  box, out_hw = window(ops, image.shape[0], image.shape[1], rng, example.get("name", "image"))
  flip = rng is not None and ops.flip and rng.random() < 0.5
  example = {**example, "image": to_channels(_cut(image, box, out_hw, flip), ops.channels)}
  if "layout" in example:
    example["layout"] = _cut(example["layout"], box, out_hw, flip, Image.Resampling.NEAREST)
  return example


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
  return _place(side, side, height, width, None), out_hw


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Bicubic, antialiased where it shrinks: uint8 [H, W, C] -> uint8 [height, width, C]."""
  return _cut(image, (0, 0, *image.shape[:2]), (height, width), False)


def to_channels(image: np.ndarray, channels: int | None) -> np.ndarray:
  """[H, W, C] -> [H, W, channels]: grey is repeated, RGB becomes its luma (ITU-R 601)."""
  if channels is None or image.shape[-1] == channels:
    return image
  if channels == 3:
    return np.repeat(image, 3, axis=-1)
  return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def decode(file: bytes | str | pathlib.Path) -> np.ndarray:
  """Reads an encoded image, from memory or a path, as RGB uint8 [H, W, 3], upright, transparency
  laid on white.

  Raises:
    Exception: whatever PIL meets in a broken file; there is no common base class.
  """
  with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
      return np.repeat(_deep_grey(np.asarray(image))[..., None], 3, axis=-1)
    if image.has_transparency_data:
      image = image.convert("RGBA")
      image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def list_files(folder: pathlib.Path) -> list[str]:
  """Names of all files below a folder, relative to it, sorted, without hidden ones."""
  return sorted(_walk(folder))


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """All images below a folder, told by their suffixes, sorted."""
  return [folder / name for name in list_files(folder) if name.lower().endswith(SUFFIXES)]


def has_images(folder: pathlib.Path) -> bool:
  """Whether there is any image below a folder; stops at the first."""
  return any(name.lower().endswith(SUFFIXES) for name in _walk(folder))


def read_image(file: pathlib.Path, channels: int = 3) -> np.ndarray:
  """Reads one image as uint8 [H, W, channels]. Raises UserError where it cannot be read."""
  try:
    return to_channels(decode(file), channels)
  except Exception as e:  # PIL's plugins raise nearly anything on damaged files.
    raise UserError(f"{file}: cannot be read as an image ({' '.join(str(e).split())}).") from None


def read_layout(file: pathlib.Path) -> np.ndarray:
  """Reads a label map as uint8 [H, W]: the indices of a palette image, the values of a grey one.

  Raises UserError otherwise.
  """
  try:
    with Image.open(file) as image:
      if image.mode in ("P", "L"):
        return np.array(image)
      mode = image.mode
  except Exception as e:
    raise UserError(f"{file}: cannot be read as an image ({' '.join(str(e).split())}).") from None
  raise UserError(
    f"{file}: has mode {mode}, no class per pixel; save classes as grey values (L) or as palette indices (P)."
  )


def _walk(root: pathlib.Path) -> Iterator[str]:
  for folder, folders, files in os.walk(root, followlinks=True):
    folders[:] = [f for f in folders if not f.startswith(".")]
    relative = os.path.relpath(folder, root).replace(os.sep, "/")
    yield from (f if relative == "." else f"{relative}/{f}" for f in files if not f.startswith("."))


def _deep_grey(pixels: np.ndarray) -> np.ndarray:
  """16-bit grey keeps its high byte; wider types hold 8-bit values unless they exceed them."""
  sixteen = pixels.dtype.itemsize == 2 or pixels.max() > 255
  return np.clip(pixels / 257 + 0.5 if sixteen else pixels, 0, 255).astype(np.uint8)


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


def _cut(
  array: np.ndarray,
  box: Box,
  out_hw: tuple[int, int],
  flip: bool,
  resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
  top, left, height, width = box
  if (height, width) == out_hw:
    array = array[top : top + height, left : left + width]
  else:
    grey = array.ndim == 3 and array.shape[-1] == 1
    image = Image.fromarray(array[..., 0] if grey else array)
    image = image.resize(out_hw[::-1], resample, box=(left, top, left + width, top + height))
    array = np.asarray(image)[..., None] if grey else np.asarray(image)
  return array[:, ::-1] if flip else array
