"""Drawn scenes: one to three coloured shapes on a patterned ground, a pure function of (seed,
index), numpy only.

Each example has `image` uint8 [S, S, 3], `label` (the shape of the main object, the largest),
`text` ("a large red circle above a small blue square"), `layout` uint8 [S, S] (0 the ground, 1 +
shape on the objects) and `attributes` float32 [max_objects, 6], main object first: 1 + shape (0: no
object), colour, radius, x, y in units of the side, angle in radians.
"""

from __future__ import annotations

import colorsys
import dataclasses
import functools
import math
from typing import Any

import numpy as np

from vqjax import checks
from vqjax.data import ops
from vqjax.data.sources import Drawn
from vqjax.errors import UserError

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "moon")
COLORS = {
  "red": (0.90, 0.13, 0.15),
  "orange": (1.00, 0.50, 0.05),
  "yellow": (1.00, 0.85, 0.10),
  "green": (0.10, 0.65, 0.25),
  "cyan": (0.10, 0.80, 0.90),
  "blue": (0.12, 0.30, 0.95),
  "purple": (0.52, 0.20, 0.80),
  "pink": (1.00, 0.45, 0.72),
}
SIZES = {
  "small": (0.13, 0.15),
  "medium": (0.18, 0.20),
  "large": (0.25, 0.28),
}  # ranges of the radius
_RGB = np.array(list(COLORS.values()), np.float32)[:, :, None, None]
GROUNDS = ("plain", "stripes", "checks", "dots", "clouds")


@dataclasses.dataclass(frozen=True)
class Source:
  """Fields: side of the pictures (16 to 256), examples per split, the world, most objects in one,
  their sizes, patterns of the ground, and of how many colours of a shape the held-out split alone
  consists: with unseen=1 training has no red circle, no orange square, …, and what is held out
  nothing else, though of every shape and of every colour it has seen seven.

  A single object is never small where `sizes` has another, and of three at most one is large.
  """

  size: int = 64
  num_train: int = 50_000
  num_eval: int = 1_000
  seed: int = 0
  max_objects: int = 3
  sizes: tuple[str, ...] = tuple(SIZES)
  grounds: tuple[str, ...] = GROUNDS
  unseen: int = 0

  def __post_init__(self):
    checks.within(self, "size", at_least=16, at_most=256)
    checks.within(self, "max_objects", at_least=1, at_most=3)
    checks.within(self, "unseen", at_least=0, below=len(COLORS))
    checks.positive(self, "num_train", "num_eval")
    for name, known in (("sizes", SIZES), ("grounds", GROUNDS)):
      if not (given := tuple(getattr(self, name))) or not set(given) <= set(known):
        raise UserError(f"{name}: {given} must be one or more of {', '.join(known)}.")

  def examples(self, split: str) -> Drawn:
    colors = tuple(range(len(COLORS)))
    turns = colors[self.unseen :] if split == "train" else colors[: self.unseen] or colors
    world = self.max_objects, self.sizes, self.grounds, turns
    scene = lambda number: draw(self.size, self.seed, number, *world)
    coarse = lambda scene: {k: v for k, v in scene.items() if k not in ("image", "layout")}
    return Drawn(self, split, "scene", scene, coarse)

  def class_names(self) -> tuple[str, ...]:
    return SHAPES


@dataclasses.dataclass(frozen=True)
class Thing:
  """One object; lengths in units of the picture's side, y grows downwards."""

  shape: int
  color: int
  size: str
  radius: float
  x: float
  y: float
  angle: float

  def __str__(self) -> str:
    return f"a {self.size} {tuple(COLORS)[self.color]} {SHAPES[self.shape]}"


def draw(
  size: int,
  seed: int,
  index: int,
  max_objects: int = 3,
  sizes: tuple[str, ...] = tuple(SIZES),
  grounds: tuple[str, ...] = GROUNDS,
  turns: tuple[int, ...] = tuple(range(len(COLORS))),
) -> dict[str, Any]:
  """Draws scene `index` of world `seed`; the same scene at any size."""
  rng = ops.generator(seed, index, stream=1)
  things = place(rng, max_objects, sizes, turns)
  image, layout = paint_ground(rng, size, grounds), np.zeros((size, size), np.uint8)
  for thing in reversed(things):  # the main object last, so that nothing covers it
    paint(image, layout, thing)
  attributes = np.zeros((max_objects, 6), np.float32)
  for i, t in enumerate(things):
    attributes[i] = 1 + t.shape, t.color, t.radius, t.x, t.y, t.angle
  image = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)
  return {
    "image": np.ascontiguousarray(image),
    "label": np.int32(things[0].shape),
    "text": caption(things),
    "layout": layout,
    "attributes": attributes,
  }


def caption(things: list[Thing]) -> str:
  """The main object, then where it is seen from each of the others."""
  main, *others = things
  parts = [f"{_relation(main, other)} {other}" for other in others]
  return " ".join([str(main), " and ".join(parts)]).strip()


def _relation(a: Thing, b: Thing) -> str:
  dx, dy = a.x - b.x, a.y - b.y
  if abs(dx) > abs(dy):
    return "to the left of" if dx < 0 else "to the right of"
  return "above" if dy < 0 else "below"


def place(
  rng: np.random.Generator, max_objects: int, sizes: tuple[str, ...], turns: tuple[int, ...]
) -> list[Thing]:
  """Chooses the objects, largest first, and positions that keep them apart where there is room.

  An object's colour is its shape's number and one of `turns` further.
  """
  num = int(rng.integers(1, max_objects + 1))
  words = [word for word in SIZES if word in sizes]
  first = 1 if num == 1 and len(words) > 1 else 0
  chosen = [words[i] for i in rng.integers(first, len(words), num)]
  if num == 3:  # three large ones do not fit
    chosen[1:] = [word if word != "large" else "medium" for word in chosen[1:]]
  things: list[Thing] = []
  for radius, word in sorted(((rng.uniform(*SIZES[word]), word) for word in chosen), reverse=True):
    gap = lambda spot: min(
      (math.dist(spot, (t.x, t.y)) - t.radius - radius for t in things), default=1
    )
    spots = (radius + 0.01 + (0.98 - 2 * radius) * rng.random((24, 2))).tolist()
    x, y = next((spot for spot in spots if gap(spot) > 0), None) or max(spots, key=gap)
    shape, color = int(rng.integers(len(SHAPES))), int(rng.integers(len(COLORS)))
    if (color - shape) % len(COLORS) not in turns:
      color = (shape + turns[rng.integers(len(turns))]) % len(COLORS)
    things.append(Thing(shape, color, word, radius, x, y, rng.uniform(-0.4, 0.4)))
  return things


def paint_ground(rng: np.random.Generator, size: int, grounds: tuple[str, ...]) -> np.ndarray:
  """A muted gradient with a faint pattern, float32 [3, size, size] in [0, 1]."""
  x, y = _centres(size)
  value = rng.uniform(0.72, 0.95) if rng.random() < 0.6 else rng.uniform(0.12, 0.3)
  hue = rng.random()
  ends = [
    colorsys.hsv_to_rgb((hue + d) % 1, rng.uniform(0.1, 0.35), value + e)
    for d, e in zip((0, rng.uniform(-0.2, 0.2)), rng.uniform(-0.08, 0.05, 2))
  ]
  first, last = np.array(ends, np.float32)[:, :, None, None]
  direction = rng.uniform(0, 2 * math.pi)
  cos, sin = math.cos(direction), math.sin(direction)
  u, v = cos * (x - 0.5) + sin * (y - 0.5), cos * (y - 0.5) - sin * (x - 0.5)
  image = first + (u + 0.5) * (last - first)
  pattern = _pattern(grounds[rng.integers(len(grounds))], rng, size, u, v)
  if pattern is not None:
    image += rng.uniform(0.06, 0.12) * (pattern - 0.5)
  return image


def _pattern(
  kind: str, rng: np.random.Generator, size: int, u: np.ndarray, v: np.ndarray
) -> np.ndarray | None:
  """Values in [0, 1] over the picture, edges about a pixel soft."""
  waves = rng.uniform(3, 7)
  edge = max(1.0, size / (2 * math.pi * waves))
  if kind == "stripes":
    return _ramp(0.5 + edge * np.sin(2 * math.pi * waves * u))
  if kind == "checks":
    return _ramp(0.5 + edge * np.sin(math.pi * waves * u) * np.sin(math.pi * waves * v))
  if kind == "dots":
    return _ramp(
      0.5 + edge * (np.cos(2 * math.pi * waves * u) + np.cos(2 * math.pi * waves * v) - 1)
    )
  if kind == "clouds":
    weights = _upsampling(size, 6)
    return weights @ rng.uniform(-1, 2, (6, 6)).astype(np.float32) @ weights.T
  return None


def paint(image: np.ndarray, layout: np.ndarray, thing: Thing) -> None:
  """Draws one object with its shadow into image [3, S, S] and layout [S, S], in place."""
  size = layout.shape[0]
  reach = 1.3 * thing.radius
  rows = slice(
    max(0, int((thing.y - reach) * size)), min(size, math.ceil((thing.y + reach) * size) + 1)
  )
  cols = slice(
    max(0, int((thing.x - reach) * size)), min(size, math.ceil((thing.x + reach) * size) + 1)
  )
  x, y = _centres(size)
  x, y = (
    (x[:, cols] - thing.x) / thing.radius,
    (y[rows] - thing.y) / thing.radius,
  )  # [1, w] and [h, 1]
  cos, sin = math.cos(thing.angle), math.sin(thing.angle)
  u, v = cos * x + sin * y, cos * y - sin * x
  pixels, distance_fn = thing.radius * size, _DISTANCE[SHAPES[thing.shape]]
  distance = distance_fn(u, v)
  cover = _ramp(0.5 - pixels * distance)
  shadow = _ramp(0.5 - 3 * distance_fn(u - (0.1 * cos + 0.16 * sin), v - (0.16 * cos - 0.1 * sin)))
  rim = _ramp(pixels * distance + (0.5 + 0.1 * pixels))
  light = (1 - 0.25 * rim) * (1 - 0.12 * (x + y))
  patch = image[:, rows, cols]
  patch *= 1 - 0.35 * shadow
  patch += cover * (_RGB[thing.color] * light - patch)
  layout[rows, cols][cover >= 0.5] = 1 + thing.shape


def _ramp(values: np.ndarray) -> np.ndarray:
  return np.minimum(np.maximum(values, 0), 1)


@functools.lru_cache(maxsize=8)
def _centres(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Pixel centres in units of the side: x [1, S] and y [S, 1]."""
  centres = (np.arange(size, dtype=np.float32) + 0.5) / size
  return centres[None, :], centres[:, None]


@functools.lru_cache(maxsize=8)
def _upsampling(size: int, coarse: int) -> np.ndarray:
  """Smooth interpolation weights, float32 [size, coarse]."""
  at = np.linspace(0, coarse - 1, size)
  left = np.minimum(at.astype(int), coarse - 2)
  t = at - left
  t = t * t * (3 - 2 * t)
  weights = np.zeros((size, coarse), np.float32)
  weights[np.arange(size), left], weights[np.arange(size), left + 1] = 1 - t, t
  return weights


# Signed distances to the outline (negative inside) in units of the radius, at points u to the right
# and v downwards.


def _circle(u, v):
  return np.hypot(u, v) - 0.92


def _square(u, v):
  return np.maximum(np.abs(u), np.abs(v)) - 0.8


def _triangle(u, v):
  v = v - 0.22
  return np.maximum(v, 0.866 * np.abs(u) - 0.5 * v) - 0.56


def _star(u, v):
  sector = 2 * math.pi / 5
  angle = np.abs((np.arctan2(u, -v) + sector / 2) % sector - sector / 2)
  rho = np.hypot(u, v)
  # In one half sector the outline is the line from the tip (1, 0) to the inner corner.
  dx, dy = 0.46 * math.cos(sector / 2) - 1, 0.46 * math.sin(sector / 2)
  return (dy * (rho * np.cos(angle) - 1) - dx * rho * np.sin(angle)) / math.hypot(dx, dy)


def _ring(u, v):
  return np.abs(np.hypot(u, v) - 0.7) - 0.23


def _cross(u, v):
  u, v = np.abs(u), np.abs(v)
  return np.minimum(np.maximum(u - 0.3, v - 0.95), np.maximum(u - 0.95, v - 0.3))


def _heart(u, v):
  u, v, s = np.abs(u), v - 0.08, 0.8
  return np.minimum(
    (u + np.abs(v) - s) * math.sqrt(0.5), np.hypot(u - s / 2, v + s / 2) - s * math.sqrt(0.5)
  )


def _moon(u, v):
  u = u + 0.1
  return np.maximum(np.hypot(u - 0.1, v) - 0.95, 0.72 - np.hypot(u - 0.6, v + 0.1))


def outline(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Signed distance to the outline of a shape of that name, see above."""
  return _DISTANCE[name](u, v)


_DISTANCE = dict(zip(SHAPES, (_circle, _square, _triangle, _star, _ring, _cross, _heart, _moon)))
