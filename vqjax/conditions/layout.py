"""Label maps, reduced to a grid of tokens by the most frequent class of each cell."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, pictures
from vqjax.conditions import Context, Lead, Part, per_example, require
from vqjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Condition:
  """The batch's `layout`, integers `[B, H, W]`: per-pixel classes (arXiv 2012.09841).

  Fields:
    classes: how many there are.
    grid: height and width that maps are reduced to.
  """

  classes: int
  grid: tuple[int, int] = (8, 8)

  field: ClassVar[str] = "layout"
  public: ClassVar[bool] = True
  order: ClassVar[int] = 2
  help: ClassVar[str] = "a label map: a picture whose grey values or palette indices are classes"

  def __post_init__(self) -> None:
    checks.positive(self, "classes")
    if len(self.grid) != 2 or min(self.grid) < 1:
      raise UserError(f"grid: {self.grid} is no height and width; for example (8, 8).")

  def spec(self, ops: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    del ops
    return tuple(self.grid), "int32"

  def bind(self, context: Context) -> Lead:
    require(context, self.field, "config.condition.layout")

    def prepare(values: np.ndarray, scale: tuple[float, ...] = (1, 1)) -> np.ndarray:
      source = f"config.condition.layout.classes={self.classes}"
      checks.classes(values, self.classes, self.field, source)
      return reduced(values, tuple(round(n * s) for n, s in zip(self.grid, scale)), self.classes)

    def tokens(values: jax.Array, frozen: Any) -> tuple[jax.Array]:
      del frozen
      return (values.astype(jnp.int32),)

    given = lambda value, num: per_example(self.field, value, num, axes=2)
    return Lead((Part(tuple(self.grid), self.classes),), prepare, tokens, given)

  def parse(self, text: str, size: tuple[int, ...]) -> np.ndarray:
    return pictures.fit(pictures.read_layout(pathlib.Path(text)), *size)[None]


def reduced(layout_BHW: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
  """The most frequent class of each cell, int32 `[B, h, w]`; the smaller class wins a tie.

  Raises:
    UserError: H or W is not a multiple of the grid.
  """
  (batch, height, width), (h, w) = layout_BHW.shape, grid
  if height % h or width % w:
    raise UserError(
      f"layout: {height} x {width} is not a multiple of config.condition.layout.grid={grid}; "
      "choose a grid that divides it."
    )
  cells = layout_BHW.reshape(batch, h, height // h, w, width // w).transpose(0, 1, 3, 2, 4)
  cells = cells.reshape(batch, h, w, -1)
  counts = np.stack([(cells == c).sum(-1) for c in range(classes)], -1)
  return counts.argmax(-1).astype(np.int32)
