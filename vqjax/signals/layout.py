"""Label maps: the class of every pixel, integers `[B, H, W]`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, pictures
from vqjax.errors import UserError
from vqjax.nn import losses, palette
from vqjax.signals import Likelihood, always_its_own, check_sheet, save_sheet, sized, unheard


@dataclasses.dataclass(frozen=True)
class Signal:
  """Classes, which the model reads as one-hot 0 and 1 and decodes to logits (the autoencoder of
  VQGAN's conditions, arXiv 2012.09841, section 3.2).

  Fields:
    classes: of the maps, 2 to 256.
  """

  classes: int

  field: ClassVar[str] = "layout"
  axes: ClassVar[int] = 2
  likelihoods: ClassVar[Mapping[str, Likelihood]] = {
    "binary_cross_entropy": Likelihood(losses.binary_cross_entropy),
    "cross_entropy": Likelihood(losses.cross_entropy),
  }
  distances: ClassVar[Mapping[str, Callable]] = {}
  judges: ClassVar[tuple[str, ...]] = ()
  measures: ClassVar[tuple[str, ...]] = ("layouts",)
  noun: ClassVar[str] = "image"
  columns: ClassVar[int | None] = None
  suffixes: ClassVar[tuple[str, ...]] = (".png", ".bmp", ".gif")
  suffix: ClassVar[str] = ".png"

  clips = unheard
  suffix_for = always_its_own
  check_page, save_page = check_sheet, save_sheet

  def __post_init__(self) -> None:
    if not 1 < self.classes <= 256:
      raise UserError(
        f"classes: {self.classes}; give the number of the label maps' classes, 2 to 256."
      )

  def spec(self, ops: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    side = sized(ops)
    return (side, side), "uint8"

  def sizes(self, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"size": shape[0]}

  def amount(self, shape: tuple[int, ...]) -> tuple[str, float]:
    del shape
    return "image", 1.0

  def channels(self, shape: tuple[int, ...]) -> int:
    del shape
    return self.classes

  def read(self, values: jax.Array) -> jax.Array:
    return jax.nn.one_hot(values, self.classes)

  def write(self, mean: jax.Array) -> jax.Array:
    """The likeliest class of each pixel."""
    return jnp.argmax(mean, axis=-1).astype(jnp.uint8)

  def prepare(self, values: np.ndarray) -> np.ndarray:
    source = f"config.signal.classes={self.classes}"
    return checks.classes(values, self.classes, self.field, source)

  def given(self, values: Any, shape: tuple[int, ...]) -> jax.Array:
    del shape
    maps = checks.array("layout", values)
    if maps.ndim != 3 or maps.dtype.kind not in "iu" or not maps.size:
      raise UserError(
        f"layout: {maps.dtype} of shape {maps.shape}; this run was trained on label maps, give "
        "integers [B, H, W]."
      )
    return jnp.asarray(self.prepare(maps))

  def finished(self, values: jax.Array) -> np.ndarray:
    return np.asarray(values)

  def pictures(self, values: Any, hidden: np.ndarray | None = None) -> np.ndarray:
    return pictures.greyed(palette.colours(np.asarray(values)), hidden)

  def open(
    self, file: pathlib.Path, shape: tuple[int, ...], size: tuple[int, ...] | None = None
  ) -> np.ndarray:
    del shape
    layout = pictures.read_layout(file)
    return layout if size is None else pictures.fit(layout, *size)

  def save(self, file: pathlib.Path, values: np.ndarray) -> None:
    """Grey values are classes, so that the file reads back as the map."""
    pictures.save(file, values[..., None])
