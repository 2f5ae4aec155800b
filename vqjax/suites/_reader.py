"""Reads drawn scenes (vqjax/data/sources/shapes.py) off their pixels, without a network: objects
are what is more colourful than any ground, and their shapes what the drawing program would draw.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from vqjax.data.sources import shapes

_ANGLES = np.linspace(-0.4, 0.4, 9)
_SCALES = (0.92, 1.0, 1.08)
_GOOD = 0.8  # an overlap below it is looked at more closely: parts may be covered
_CAPTION = re.compile(rf"a (?:{'|'.join(shapes.SIZES)}) (\w+) (\w+)")
_RELATION = re.compile("left|right|above|below")


@dataclasses.dataclass(frozen=True)
class Seen:
  """One object, with its centre in units of the picture's side; `fit` from 0 to 1, the overlap of
  what was seen with what the program draws.
  """

  shape: str
  color: str
  x: float
  y: float
  fit: float


@dataclasses.dataclass(frozen=True)
class Wanted:
  """What a caption asks for: (colour, shape) of its objects, how the first lies to the second."""

  objects: tuple[tuple[str, str], ...]
  relation: str | None


def wanted(caption: str) -> Wanted:
  """Of a caption as the drawn scenes have it, with one object or two."""
  found = _RELATION.search(caption)
  return Wanted(tuple(_CAPTION.findall(caption)), found and found.group())


def read(image_HWC: np.ndarray) -> list[Seen]:
  """The objects of a picture, uint8 [S, S, 3]; colourful spots that are too small are none."""
  rgb = image_HWC.astype(np.float32) / 255
  bright, chroma = rgb.max(-1), rgb.max(-1) - rgb.min(-1)
  colorful = (chroma > 0.45 * bright) & (chroma > 0.2)
  palette = np.array(list(shapes.COLORS.values()), np.float32)
  palette /= palette.max(-1, keepdims=True)
  # Light and shadow scale a colour, so only the ratios of its channels say which it is.
  ratios = rgb / np.maximum(bright, 1e-3)[..., None]
  color = np.square(ratios[:, :, None] - palette).sum(-1).argmin(-1)
  spots, num = ndimage.label(colorful, np.ones((3, 3)))
  least, seen = 0.008 * colorful.size, []
  for spot in range(1, num + 1):
    inside = spots == spot
    counts = np.bincount(color[inside], minlength=len(palette))
    # Edges mix with the ground and look like neighbouring colours; a large part is another object.
    kinds = [k for k in np.argsort(-counts) if counts[k] >= max(least, 0.25 * inside.sum())]
    for kind in kinds:
      own = inside if len(kinds) == 1 else inside & (color == kind)
      counted = (spots == 0) | own
      full = np.percentile(chroma[own & (color == kind)], 75)
      cover = np.clip(chroma / full, 0, 1) * (ndimage.binary_dilation(own) & counted)
      found = _explained(np.where(cover > 0.3, cover, 0), counted)
      seen += [Seen(name, tuple(shapes.COLORS)[kind], *rest) for name, *rest in found]
  return seen


def judged(images: Sequence[np.ndarray], captions: Sequence[str]) -> dict[str, np.ndarray]:
  """How pictures fit their captions: {"objects": share of a caption's objects that are there in
  colour and shape, "count": 1 where there are as many as it says, "relation": 1 where the first
  lies to the second as it says, 0 where it does not or one of them is missing, NaN where the
  caption has no relation}, each float [B].
  """
  rows = [_judged(read(image), wanted(text)) for image, text in zip(images, captions, strict=True)]
  columns = np.array(rows, float).reshape(-1, 3).T
  return dict(zip(("objects", "count", "relation"), columns))


def _judged(seen: list[Seen], asked: Wanted) -> tuple[float, float, float]:
  left, found = sorted(seen, key=lambda s: -s.fit), []
  for kind in asked.objects:
    match = next((s for s in left if (s.color, s.shape) == kind), None)
    left = [s for s in left if s is not match]
    found.append(match)
  right = [s for s in found if s]
  relation = float("nan")
  if asked.relation:
    orders = [right, right[::-1]] if len(set(asked.objects)) == 1 else [right]
    relation = float(len(right) == 2 and any(_holds(asked.relation, *pair) for pair in orders))
  return len(right) / len(found), float(len(seen) == len(found)), relation


def _holds(relation: str, a: Seen, b: Seen) -> bool:
  """Whether a lies so to b; on the diagonals either of two is right, and a few degrees beyond."""
  ahead = {"left": b.x - a.x, "right": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}
  return ahead[relation] >= 0.8 * max(ahead.values())


def _explained(cover_HW: np.ndarray, counted_HW: np.ndarray) -> list[tuple]:
  """One drawing, or two that touch where they explain what is seen better than one does."""
  one = _fitted(cover_HW, counted_HW)
  if one[3] >= _GOOD:
    return [one]
  points = np.argwhere(cover_HW > 0.5)
  far = points[np.square(points - points.mean(0)).sum(1).argmax()]
  centres = np.stack([far, 2 * points.mean(0) - far])
  for _ in range(10):
    near = np.square(points[:, None] - centres).sum(-1).argmin(-1)
    centres = np.stack([points[near == k].mean(0) if (near == k).any() else far for k in (0, 1)])
  parts = []
  grid = np.moveaxis(np.indices(cover_HW.shape), 0, -1)
  side = np.square(grid[:, :, None] - centres).sum(-1).argmin(-1)
  for k in (0, 1):
    own = np.where(side == k, cover_HW, 0)
    if own.sum() < 0.008 * own.size:
      return [one]
    parts.append(_fitted(own, counted_HW & ((side == k) | (cover_HW == 0))))
  return parts if min(part[3] for part in parts) > one[3] else [one]


def _fitted(cover_HW: np.ndarray, counted_HW: np.ndarray) -> tuple[str, float, float, float]:
  """(shape, centre's x and y, overlap) of the drawing that covers best what is covered, by the
  pixels that are counted.
  """
  area, at = cover_HW.sum(), (np.arange(cover_HW.shape[0]) + 0.5) / cover_HW.shape[0]
  x, y = (cover_HW.sum(0) @ at) / area, (cover_HW.sum(1) @ at) / area
  found = {}
  for name in shapes.SHAPES:
    mass, (u, v) = _moments(name)
    angle, scale = (a.ravel() for a in np.meshgrid(_ANGLES, _SCALES))
    radius = scale * np.sqrt(area / mass) / len(at)
    cos, sin = np.cos(angle), np.sin(angle)
    # The drawing's own middle is turned with it, and comes to lie upon the one seen.
    drawings = np.stack([x - radius * (cos * u - sin * v), y - radius * (sin * u + cos * v)])
    found[name] = _best(name, np.vstack([drawings, radius, angle]).T, cover_HW, counted_HW)
  if max(fit for _, fit in found.values()) < _GOOD:
    rng = np.random.default_rng(0)
    for width in (0.06, 0.03, 0.015, 0.008):
      for name, (drawing, _) in found.items():
        spread = rng.normal(size=(48, 4)) * np.array([width, width, width, 4 * width])
        around = np.vstack([drawing[None], drawing + spread])
        # A radius outside what is ever drawn explains anything.
        around[:, 2:] = np.clip(around[:, 2:], (0.1, -0.4), (0.3, 0.4))
        found[name] = _best(name, around, cover_HW, counted_HW)
  name = max(found, key=lambda name: found[name][1])
  (x, y, _, _), fit = found[name]
  return name, float(x), float(y), float(fit)


def _best(
  name: str, drawings_N4: np.ndarray, cover_HW: np.ndarray, counted_HW: np.ndarray
) -> tuple[np.ndarray, float]:
  """(x, y, radius, angle) of the drawing of a shape with the largest overlap, and that overlap."""
  size = len(cover_HW)
  at = (np.arange(size) + 0.5) / size
  x, y, radius, angle = drawings_N4.T[:, :, None, None]
  u, v = (at[None, None] - x) / radius, (at[None, :, None] - y) / radius
  cos, sin = np.cos(angle), np.sin(angle)
  distance = shapes.outline(name, cos * u + sin * v, cos * v - sin * u)
  drawn = np.clip(0.5 - radius * size * distance, 0, 1) * counted_HW
  covered = cover_HW * counted_HW
  fit = np.minimum(drawn, covered).sum((1, 2)) / np.maximum(drawn, covered).sum((1, 2))
  return drawings_N4[fit.argmax()], float(fit.max())


@functools.cache
def _moments(name: str) -> tuple[float, np.ndarray]:
  """Area in squares of the radius, and the middle [2] in units of it, of a shape."""
  at = np.linspace(-1.5, 1.5, 601)
  inside = shapes.outline(name, at[None], at[:, None]) < 0
  middle = np.array([inside.sum(0) @ at, inside.sum(1) @ at]) / inside.sum()
  return inside.sum() * (at[1] - at[0]) ** 2, middle
