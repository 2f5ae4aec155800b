"""The coarser codes of a hierarchy, before those of the level learned (arXiv 1906.00446)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from vqjax import fields
from vqjax.conditions import Context, Lead, Part
from vqjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Condition:
  """All codes of the levels above config.level; sampling draws them by another prior.

  Fields:
    prior: workdir of the prior of the next coarser level, from which sampling starts.
  """

  prior: str | None = fields.part(None)

  field: ClassVar[str] = "coarser"
  public: ClassVar[bool] = False
  order: ClassVar[int] = 4

  def bind(self, context: Context) -> Lead:
    levels = context.levels[: context.level]
    if not levels:
      raise UserError(
        "config.condition.coarser: there is no level above config.level=0; leave it out, or set "
        "config.level."
      )
    parts = tuple(Part(codes.grid, codes.vocabulary) for codes in levels)

    def tokens(values: tuple, frozen: Any) -> tuple:
      del frozen
      return tuple(codes.tokens(ids) for codes, ids in zip(levels, values))

    # Codes of the tokenizer itself: nothing to check, and no caller gives them.
    unchanged = lambda values, _: values
    return Lead(parts, unchanged, tokens, unchanged)
