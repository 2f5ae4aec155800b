"""Images and captions as vectors of one space: embed, and rank images by a caption."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vqjax import pictures, sharding
from vqjax.api._loaded import Loaded, open_run
from vqjax.errors import UserError

_AT_ONCE = 128  # more are embedded in several batches


class Ranker:
  """A trained pair of towers (vqjax/tasks/contrast.py), or converted CLIP weights.

  Attributes:
    info: what it embeds, see vqjax.tasks.Info.
  """

  def __init__(self, loaded: Loaded):
    self.workdir, self.config, self.weights = loaded.workdir, loaded.config, loaded.weights
    self.task, self.info, self._mesh = loaded.run.task, loaded.run.task.info, loaded.run.mesh

  @classmethod
  def open(cls, workdir: str | os.PathLike[str], option: str) -> Ranker:
    """Opens the run that a caller gave as `option`. Raises UserError for one of another kind."""
    loaded = open_run(workdir)
    if loaded.config.task != "contrast":
      raise UserError(
        f"{option}: {workdir} embeds no images and captions; give a run of the task contrast, or "
        "converted CLIP weights."
      )
    return cls(loaded)

  def embed(self, *, image: Any = None, text: Any = None) -> np.ndarray:
    """Unit vectors float32 `[B, D]` of images or of captions.

    Args:
      image: `[B, H, W, C]`, uint8 or float in [-1, 1]; of another size than in training, the
        largest centred part is resized, and colours are mixed or grey repeated.
      text: a string or several; too long ones are cut.

    Raises:
      UserError: both or neither, or what is no image or no caption.
    """
    if (image is None) == (text is None):
      raise UserError("embed: takes either image=… or text=…; give one of them.")
    if text is not None:
      return self._embedded("text", self.info.modules.captions(_strings(text)))
    return self._embedded("image", self._fitted(image))

  def rank(self, images: Any, text: str | Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(order, scores): `images[order]` has the image that fits the caption best first.

    Args:
      images: as `embed` takes them.
      text: a caption, or one for each image.

    Returns:
      order: int `[B]`; equal ones stay in their order.
      scores: float32 `[B]`, of the images as they were given: cosine of the angle between image and
        caption, from -1 to 1 (what CLIPScore, arXiv 2104.08718, scales by 2.5).
    """
    vectors, texts = self.embed(image=images), self.embed(text=text)
    if len(texts) not in (1, len(vectors)):
      raise UserError(
        f"text: {len(texts)} captions for {len(vectors)} images; give one, or as many."
      )
    scores = np.sum(vectors * texts, axis=-1)
    return np.argsort(-scores, kind="stable"), scores

  def _fitted(self, images: Any) -> np.ndarray:
    """uint8 or float [B, *shape of training]."""
    images, (height, width, channels) = np.asarray(images), self.info.shape
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
      raise UserError(f"images: shape {images.shape} is not [B, H, W, C] with 1 or 3 channels.")
    checked = np.asarray(self.info.signal.given(images, images.shape))
    if checked.shape[1:] == self.info.shape:
      return checked
    fitted = (pictures.fit(image, height, width) for image in pictures.to_uint8(checked))
    return np.stack([pictures.to_channels(image, channels) for image in fitted])

  def _embedded(self, field: str, values: np.ndarray) -> np.ndarray:
    rows = min(_AT_ONCE, len(values))
    found = []
    for start in range(0, len(values), rows):
      part = values[start : start + rows]
      filled = np.concatenate([part, np.repeat(values[:1], rows - len(part), axis=0)])
      batch = sharding.spread({field: filled}, self._mesh)
      found.append(np.asarray(self._compiled[field](self.weights, batch))[: len(part)])
    return np.concatenate(found)

  @functools.cached_property
  def _compiled(self) -> dict[str, Any]:
    """{field: fn(weights, batch) -> vectors}, compiled once per number of rows."""

    def bound(field: str) -> Any:
      predict = self.task.predict[f"embed_{field}"]
      fn = lambda weights, batch: predict(weights, batch)[field]
      return sharding.program(fn, self._mesh)

    return {field: bound(field) for field in ("image", "text")}


def _strings(text: Any) -> list[str]:
  texts = [text] if isinstance(text, str) else text
  if not isinstance(texts, (list, tuple, np.ndarray)) or not len(texts):
    raise UserError(f"text: {text!r} is no caption; give a string, or several.")
  if not all(isinstance(t, str) for t in texts):
    raise UserError(f"text: {texts!r} holds what is no string; give strings.")
  return [str(t) for t in texts]
