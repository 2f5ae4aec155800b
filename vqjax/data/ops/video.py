"""Ops on video, numpy and PIL only: which frames, how large, which part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from vqjax import checks, videos
from vqjax.data.ops import image
from vqjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Ops:
  """What happens to every video before it is batched: all its frames alike.

  Attributes:
    frames: T, that are kept; of a shorter video the last one is repeated. None keeps all, then all
      videos must be of one length.
    stride: every how manieth frame is taken.
    start: "first" keeps the beginning, "random" any stretch in training, the first in evaluation.
    size, crop, flip, channels, min_area: as for images, see image.py.
  """

  fields: ClassVar[tuple[str, ...]] = ("video",)
  remedy: ClassVar[str] = "set config.ops.frames and size (and channels) to make them alike"

  frames: int | None = None
  stride: int = 1
  start: Literal["first", "random"] = "random"
  size: int | None = None
  crop: Literal["center", "random", "random_resized", "none"] = "center"
  flip: bool = False
  channels: int | None = None
  min_area: float = 0.08

  def __post_init__(self):
    checks.positive(self, "frames", "stride")
    self._of_frames()  # checks what they have in common

  def _of_frames(self) -> image.Ops:
    return image.Ops(self.size, self.crop, self.flip, self.channels, self.min_area)

  def apply(
    self, example: Mapping[str, Any], rng: np.random.Generator | None = None
  ) -> dict[str, Any]:
    """Treats `video`, uint8 [T, H, W, C] or what is indexed like it (see vqjax.videos.File).

    Raises UserError as the ops of images do.
    """
    if "video" not in example or example.keys() & {"ids", "latents"}:
      return dict(example)
    video, name = example["video"], example.get("name", "video")
    spare = max(0, len(video) - 1 - ((self.frames or 1) - 1) * self.stride)
    start = 0
    if rng is not None and self.start == "random" and self.frames is not None:
      start = int(rng.integers(spare + 1))
    video = videos.fitted(video, self.frames, self.stride, start)
    if video.ndim != 4:
      raise UserError(f"{name}: has shape {video.shape}, no [T, H, W, C]; give it all four.")
    box, size = image.window(self._of_frames(), *video.shape[1:3], rng, name)
    flip = rng is not None and self.flip and rng.random() < 0.5
    video = videos.cut(video, box, size, self.channels)
    return {**example, "video": np.ascontiguousarray(video[:, :, ::-1]) if flip else video}

  def shown(self, shape: tuple[int, ...]) -> str:
    """Width first, as people say it."""
    return f"{shape[0]} frames of " + "x".join(map(str, (shape[2], shape[1], *shape[3:])))
