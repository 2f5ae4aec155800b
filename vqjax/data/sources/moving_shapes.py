"""Drawn videos: one to three flat shapes that move straight ahead over a dark ground, a pure
function of (seed, index), numpy only.

Each example has `video` uint8 [T, S, S, 3], `label` (the shape of the first object), `text` ("a red
circle moves up left and a blue cross moves down") and `attributes` float32 [T, max_objects, 6], an
object at every frame: 1 + shape (0: no object), colour, radius, x, y in units of the side, and the
direction in which it moves, in radians from the right over below.

An object keeps its speed. At the border it bounces (its outline stays inside, and the direction is
mirrored) or wraps (what leaves comes in on the other side). Where objects meet, the earlier one
lies above. The colours of a video differ.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import numpy as np

from vqjax import checks
from vqjax.data import ops
from vqjax.data.sources import Drawn, shapes
from vqjax.errors import UserError

DIRECTIONS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLORS = ("red", "yellow", "green", "cyan", "blue", "pink")
GROUND = 24  # grey


class Mover(NamedTuple):
  """One object at the first frame; lengths in units of the side, y downwards, speed per frame."""

  shape: str
  color: str
  radius: float
  x: float
  y: float
  direction: int
  speed: float

  def __str__(self) -> str:
    return f"a {self.color} {self.shape} moves {DIRECTIONS[self.direction]}"

  @property
  def velocity(self) -> tuple[float, float]:
    angle = self.direction * math.pi / 4
    return self.speed * math.cos(angle), self.speed * math.sin(angle)

  def at(self, frame: int, edge: str) -> tuple[float, float, float]:
    """(x, y, the angle of its motion) at a frame."""
    places = zip((self.x, self.y), self.velocity)
    (x, dx), (y, dy) = (_moved(start, v, frame, edge, self.radius) for start, v in places)
    return x, y, math.atan2(dy, dx) % (2 * math.pi)


@dataclasses.dataclass(frozen=True)
class Source:
  """Fields: side of the frames (16 to 256), their number, examples per split, the world, most
  objects in one video, their shapes, their radius and speed per frame (least, most) in sides, what
  they do at the border.
  """

  size: int = 32
  frames: int = 8
  num_train: int = 50_000
  num_eval: int = 1_000
  seed: int = 0
  max_objects: int = 2
  shapes: tuple[str, ...] = SHAPES
  radius: tuple[float, ...] = (0.14, 0.18)
  speed: tuple[float, ...] = (0.05, 0.09)
  edge: Literal["bounce", "wrap"] = "bounce"

  def __post_init__(self):
    checks.within(self, "size", at_least=16, at_most=256)
    checks.within(self, "max_objects", at_least=1, at_most=3)
    checks.positive(self, "num_train", "num_eval", "frames")
    if not (given := tuple(self.shapes)) or not set(given) <= set(shapes.SHAPES):
      raise UserError(f"shapes: {given} must be one or more of {', '.join(shapes.SHAPES)}.")
    for name, most in (("radius", 0.3), ("speed", 0.5)):
      limits = tuple(getattr(self, name))
      if len(limits) != 2 or not 0 < limits[0] <= limits[1] <= most:
        raise UserError(f"{name}: {limits} is no (least, most) above 0 and up to {most}.")

  def examples(self, split: str) -> Drawn:
    coarse = lambda video: {k: v for k, v in video.items() if k != "video"}
    return Drawn(self, split, "video", self._video, coarse)

  def class_names(self) -> tuple[str, ...]:
    return tuple(self.shapes)

  def _video(self, number: int) -> dict[str, Any]:
    movers = place(self, number)
    attributes = np.zeros((self.frames, self.max_objects, 6), np.float32)
    for t in range(self.frames):
      for i, mover in enumerate(movers):
        kind = 1 + self.shapes.index(mover.shape), COLORS.index(mover.color)
        attributes[t, i] = *kind, mover.radius, *mover.at(t, self.edge)
    return {
      "video": draw(movers, self.frames, self.size, self.edge),
      "label": np.int32(self.shapes.index(movers[0].shape)),
      "text": " and ".join(map(str, movers)),
      "attributes": attributes,
    }


def place(source: Source, index: int) -> list[Mover]:
  """Chooses the objects of video `index`, apart at the first frame where there is room."""
  rng = ops.generator(source.seed, index, stream=1)
  num = int(rng.integers(1, source.max_objects + 1))
  colors = rng.permutation(len(COLORS))[:num]
  movers: list[Mover] = []
  for color in colors:
    radius = rng.uniform(*source.radius)
    spots = radius + (1 - 2 * radius) * rng.random((16, 2))
    gaps = [min((math.dist(s, (m.x, m.y)) - m.radius - radius for m in movers), default=1)
            for s in spots]  # fmt: skip
    x, y = spots[int(np.argmax(np.array(gaps) > 0) if max(gaps) > 0 else np.argmax(gaps))]
    shape = source.shapes[int(rng.integers(len(source.shapes)))]
    direction, speed = int(rng.integers(len(DIRECTIONS))), rng.uniform(*source.speed)
    movers.append(Mover(shape, COLORS[color], radius, float(x), float(y), direction, speed))
  return movers


def _moved(
  start: float, velocity: float, frame: int, edge: str, radius: float
) -> tuple[float, float]:
  """(place, velocity) on one axis after so many frames."""
  place = start + velocity * frame
  if edge == "wrap":
    return place % 1.0, velocity
  low, room = radius, 1 - 2 * radius
  way = (place - low) % (2 * room)
  return (low + way, velocity) if way <= room else (low + 2 * room - way, -velocity)


def draw(movers: list[Mover], frames: int, size: int, edge: str) -> np.ndarray:
  """uint8 [T, S, S, 3]; outlines about a pixel soft."""
  video = np.full((frames, size, size, 3), GROUND, np.float32)
  for t in range(frames):
    for mover in reversed(movers):
      x, y, _ = mover.at(t, edge)
      # What leaves a torus comes in on the other side: the nearest copy of every pixel's place.
      cover = mask(mover.shape, x, y, mover.radius, size, edge)[..., None]
      rgb = 255 * np.array(shapes.COLORS[mover.color], np.float32)
      video[t] += cover * (rgb - video[t])
  return np.round(video).astype(np.uint8)


def mask(shape: str, x: float, y: float, radius: float, size: int, edge: str) -> np.ndarray:
  """How much of each pixel an object covers, float32 [S, S] in [0, 1]."""
  centres = (np.arange(size) + 0.5) / size
  u, v = centres[None, :] - x, centres[:, None] - y
  if edge == "wrap":
    u, v = (d - np.round(d) for d in (u, v))
  distance = shapes.outline(shape, u / radius, v / radius)
  return np.clip(0.5 - radius * size * distance, 0, 1).astype(np.float32)
