"""Pictures in files and in memory, numpy and PIL only: found, read, resized, laid side by side,
written.
"""

from __future__ import annotations

import functools
import io
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from vqjax.errors import UserError, reason

Box = tuple[int, int, int, int]  # top, left, height, width
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_SAMPLE_FORMAT, _UNSIGNED = 339, (1,)  # a TIFF tag


def list_files(folder: pathlib.Path) -> list[str]:
  """Names of all files below a folder, relative to it, sorted, without hidden ones."""
  return sorted(_walk(folder))


def has_files(folder: pathlib.Path, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
  """Whether any file below a folder has a name that ends so; stops at the first. False of what is
  no folder.
  """
  return any(name.lower().endswith(suffixes) for name in _walk(folder))


def _walk(root: pathlib.Path) -> Iterator[str]:
  for folder, folders, files in os.walk(root, followlinks=True):
    folders[:] = [f for f in folders if not f.startswith(".")]
    relative = os.path.relpath(folder, root).replace(os.sep, "/")
    yield from (f if relative == "." else f"{relative}/{f}" for f in files if not f.startswith("."))


def decode(file: bytes | str | pathlib.Path) -> np.ndarray:
  """Reads an encoded picture, from memory or a path, as RGB uint8 [H, W, 3], upright, transparency
  laid on white. Grey of more than eight bits is scaled, see `_scaled`.

  Raises:
    UserError: pixels that are not finite, or floats of an unknown range.
    Exception: whatever PIL meets in a broken file; there is no common base class.
  """
  with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
    unsigned = getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
      pixels = np.asarray(image)
      if image.mode == "I" and unsigned:
        pixels = pixels.view(np.uint32)  # PIL reads 32 unsigned bits as signed ones
      return np.repeat(_scaled(pixels)[..., None], 3, axis=-1)
    return on_white(image)


def on_white(image: Image.Image) -> np.ndarray:
  """RGB uint8 [H, W, 3], transparency laid on white."""
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  return np.array(image.convert("RGB"))


def _scaled(pixels: np.ndarray) -> np.ndarray:
  """Grey of 16 or 32 bits, or floats, to uint8.

  White is the type's for 16 bits. Wider types hold [0, 255], [0, 65535] or all 32 bits, floats also
  [0, 1], told by their largest value; floats may exceed it by half, as resampling overshoots.
  """
  floats = pixels.dtype.kind == "f"
  if floats and not np.isfinite(pixels).all():
    raise UserError("has pixels that are not finite (NaN or infinite); replace them")
  whites = (65_535,) if pixels.dtype.itemsize == 2 else (255, 65_535, 2**32 - 1)
  over, whites = (1.5, (1, *whites[:2])) if floats else (1, whites)
  low, high = float(pixels.min()), float(pixels.max())
  white = next((w for w in whites if high <= over * w), None)
  if white is None or low < -0.5 * white:
    raise UserError(
      f"has pixels from {low:g} to {high:g}; save floats in [0, 1] or [0, 255], integers from 0 on"
    )
  return np.clip(pixels * (255 / white) + 0.5, 0, 255).astype(np.uint8)


def read(file: str | pathlib.Path, channels: int = 3) -> np.ndarray:
  """Reads one picture as uint8 [H, W, channels]. Raises UserError where it cannot be read."""
  try:
    return to_channels(decode(file), channels)
  except Exception as e:  # PIL's plugins raise nearly anything on damaged files.
    raise _unreadable(file, e) from None


def read_layout(file: str | pathlib.Path) -> np.ndarray:
  """Reads a label map as uint8 [H, W]: the indices of a palette image, the values of a grey one.

  Raises UserError otherwise.
  """
  try:
    with Image.open(file) as image:
      if image.mode in ("P", "L"):
        return np.array(image)
      mode = image.mode
  except Exception as e:
    raise _unreadable(file, e) from None
  raise UserError(
    f"{file}: has mode {mode}, no class per pixel; save classes as grey values (L) or as palette "
    "indices (P)."
  )


def _unreadable(file: str | pathlib.Path, error: Exception) -> UserError:
  return UserError(f"{file}: cannot be read as an image ({reason(error)}).")


def to_channels(image: np.ndarray, channels: int | None) -> np.ndarray:
  """[H, W, C] -> [H, W, channels]: grey is repeated, RGB becomes its luma (ITU-R 601)."""
  if channels is None or image.shape[-1] == channels:
    return image
  if channels == 3:
    return np.repeat(image, 3, axis=-1)
  return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """The largest centred part of that aspect, resized: uint8 [H, W, C], or a label map [H, W] with
  nearest neighbours.
  """
  full_height, full_width = image.shape[:2]
  scale = min(full_height / height, full_width / width)
  h, w = max(1, round(height * scale)), max(1, round(width * scale))
  nearest = image.ndim == 2
  box = ((full_height - h) // 2, (full_width - w) // 2, h, w)
  resample = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
  return cut(image, box, (height, width), resample)


def cut(
  image: np.ndarray,
  box: Box,
  size: tuple[int, int],
  resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
  """The box of a uint8 [H, W] or [H, W, C], resized to `size` = (height, width)."""
  top, left, height, width = box
  if (height, width) == size:
    return image[top : top + height, left : left + width]
  grey = image.ndim == 3 and image.shape[-1] == 1
  picture = Image.fromarray(image[..., 0] if grey else image)
  picture = picture.resize(size[::-1], resample, box=(left, top, left + width, top + height))
  return np.asarray(picture)[..., None] if grey else np.asarray(picture)


def to_uint8(images: np.ndarray) -> np.ndarray:
  """Images in [-1, 1] to uint8, rounding; uint8 passes."""
  if images.dtype == np.uint8:
    return images
  return np.round((np.clip(np.asarray(images, np.float32), -1, 1) + 1) * 127.5).astype(np.uint8)


def greyed(images: np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
  """uint8 [B, H, W, C] with grey where `hidden` [B, H, W] says so; None hides nothing."""
  return images if hidden is None else np.where(hidden[..., None], np.uint8(128), images)


def broken(
  lengths: Sequence[int], columns: int | None, together: bool = False
) -> list[tuple[int, slice]]:
  """Which parts (row, slice of it) of rows of these lengths stand in the rows of a page that has
  so many columns; None has any number.

  Rows that belong `together`, column by column, are broken together.
  """
  starts = lambda num: range(0, num, columns or max(1, num))
  part = lambda start: slice(start, start + (columns or max(1, *lengths, 1)))
  if together:
    return [(i, part(s)) for s in starts(max(lengths)) for i, n in enumerate(lengths) if s < n]
  return [(i, part(s)) for i, n in enumerate(lengths) for s in starts(n)]


def sheet(
  rows: Sequence[np.ndarray],
  gap: int = 2,
  enlarge: int = 64,
  captions: Sequence[Sequence[str]] = (),
) -> np.ndarray:
  """Rows of `[N, H, W, C]` images (uint8 or [-1, 1]) to one uint8 RGB picture; images under
  `enlarge` pixels are magnified, and those of a smaller row to the size of the largest.

  `captions` holds a text for each image of each row, which stands below it.
  """
  rows = [to_uint8(np.asarray(r)) for r in rows]
  largest = max(enlarge, *(side for r in rows for side in r.shape[1:3]))
  rows = [_magnified(r, largest // max(r.shape[1:3])) for r in rows]
  height, width = max(r.shape[1] for r in rows), max(r.shape[2] for r in rows)
  foot = max((_text_height(t, width) for texts in captions for t in texts if t), default=0)
  columns = max(len(r) for r in rows)
  high = height + foot + gap
  page = np.full((high * len(rows) - gap, (width + gap) * columns - gap, 3), 255, np.uint8)
  for i, row in enumerate(rows):
    for j, image in enumerate(row):
      top, left = i * high, j * (width + gap)
      # One channel broadcasts to three.
      page[top : top + image.shape[0], left : left + image.shape[1]] = image
      if foot and i < len(captions) and j < len(captions[i]):
        below = page[top + height : top + height + foot, left : left + width]
        below[:] = text(captions[i][j], foot, width)
  return page


def _magnified(images: np.ndarray, scale: int) -> np.ndarray:
  return np.repeat(np.repeat(images, scale, 1), scale, 2)


def text(words: str, height: int, width: int) -> np.ndarray:
  """The words in black on white, uint8 [height, width, 3], broken into lines; what has no room is
  left out, and what PIL's own font lacks is a question mark.
  """
  page = Image.new("RGB", (width, height), "white")
  lines = "\n".join(_lines(words, width))
  ImageDraw.Draw(page).text((1, 1), lines, "black", font=_font(), spacing=2)
  return np.asarray(page)


def _text_height(words: str, width: int, most: int = 5) -> int:
  """Pixels that `text` needs for these words, for `most` lines at the most."""
  lines = _lines(words, width)[:most]
  box = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox(
    (1, 1), "\n".join(lines), _font(), spacing=2
  )
  return math.ceil(box[3]) + 3


def _lines(words: str, width: int) -> list[str]:
  """The words in lines of at most `width` pixels, if they themselves have no more."""
  lines = [""]
  # More is never seen.
  for word in words[:1_000].encode("latin-1", "replace").decode("latin-1").split():
    longer = f"{lines[-1]} {word}".strip()
    if lines[-1] and _font().getlength(longer) > width - 2:
      lines.append(word)
    else:
      lines[-1] = longer
  return lines


@functools.cache
def _font() -> Any:
  return ImageFont.load_default()


def check(path: pathlib.Path) -> None:
  """Raises UserError where the suffix names no picture format that can be written."""
  if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
    raise UserError(
      f"{path}: {path.suffix or 'no suffix'} is no picture format; end the name in .png."
    )


def save(path: pathlib.Path, image: np.ndarray) -> None:
  """Writes a uint8 `[H, W, 1 or 3]` picture; the suffix names the format. Raises like `check`."""
  check(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)


def encode(image: np.ndarray) -> bytes:
  """A uint8 `[H, W, 1 or 3]` picture as a PNG file."""
  png = io.BytesIO()
  Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(png, format="PNG")
  return png.getvalue()


def save_gif(path: pathlib.Path, sheets: Sequence[np.ndarray], seconds: float = 4.0) -> None:
  """Writes uint8 RGB pictures as an endless animation that takes about `seconds` and rests on the
  last picture.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  frames = [Image.fromarray(sheet) for sheet in sheets]
  each = max(20, int(1000 * seconds / len(frames)))
  frames[0].save(
    path,
    format="GIF",
    save_all=True,
    append_images=frames[1:],
    loop=0,
    duration=[each] * (len(frames) - 1) + [each + 1500],
  )
