"""Label maps as the codes of a tokenizer of their own (VQGAN, arXiv 2012.09841, section 3.2)."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from vqjax import checks, fields, pictures
from vqjax.conditions import Context, Lead, Part, per_example, require
from vqjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Condition:
  """The codes of the batch's `layout`, integers `[B, H, W]`.

  Fields:
    tokenizer: workdir of a run that learned the signal `layout`.
  """

  tokenizer: str = fields.workdir()

  field: ClassVar[str] = "layout"
  public: ClassVar[bool] = True
  order: ClassVar[int] = 3
  help: ClassVar[str] = "a label map: a picture whose grey values or palette indices are classes"

  def spec(self, ops: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    return (ops["size"], ops["size"]), "uint8"

  def bind(self, context: Context) -> Lead:
    option = "config.condition.layout_codes"
    require(context, self.field, option)
    tokenizer = context.open(self.tokenizer, self.field, f"{option}.tokenizer")
    signal, size = tokenizer.info.signal, tokenizer.info.size
    # Compiled by itself, as sampling calls it outside of any compiled function.
    encode = jax.jit(lambda weights, values: tokenizer.levels_of(weights, {self.field: values}))

    def prepare(values: np.ndarray, scale: tuple[float, ...] = (1, 1)) -> np.ndarray:
      height, width = (round(n * s) for n, s in zip(size, scale))
      if values.shape[1:] != (height, width):
        (h, w) = values.shape[1:]
        raise UserError(
          f"layout: {h} x {w} pixels, {option}.tokenizer needs {height} x {width} here; resize it, "
          "with nearest neighbours."
        )
      return checks.classes(values, signal.classes, self.field, f"{option}.tokenizer")

    def tokens(values: jax.Array, frozen: Any) -> tuple[jax.Array, ...]:
      ids = encode(frozen, values)
      return tuple(codes.tokens(i) for codes, i in zip(tokenizer.levels, ids))

    given = lambda value, num: per_example(self.field, value, num, axes=2)
    parts = tuple(Part(codes.grid, codes.vocabulary) for codes in tokenizer.levels)
    return Lead(parts, prepare, tokens, given, tokenizer, signal.pictures)

  def parse(self, text: str, size: tuple[int, ...]) -> np.ndarray:
    return pictures.fit(pictures.read_layout(pathlib.Path(text)), *size)[None]
