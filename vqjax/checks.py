"""What modules check of their own fields when they are made: one UserError line per mistake."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from vqjax.errors import UserError


def at_least(module: Any, least: int, *fields: str) -> None:
  """Raises UserError where one of these fields is below `least`.

  None passes; a tuple has at least one number, and each of them counts.
  """
  for field in fields:
    value = getattr(module, field)
    several = value if isinstance(value, tuple) else (value,)
    for number in several:
      if number is not None and not isinstance(number, numbers.Real):
        raise UserError(f"{field}: {number!r} is no number; give at least {least}.")
    if value is not None and (not several or min(several) < least):
      raise UserError(f"{field}: {value} is too small; give at least {least}.")


def positive(module: Any, *fields: str) -> None:
  """Raises UserError where one of these fields is below 1; otherwise as `at_least`."""
  at_least(module, 1, *fields)


def share(module: Any, *fields: str) -> None:
  """Raises UserError where one of these fields is not in [0, 1]."""
  for field in fields:
    if not 0 <= (value := getattr(module, field)) <= 1:
      raise UserError(f"{field}: {value} is out of range; give a number from 0 to 1.")


def within(
  module: Any,
  *fields: str,
  at_least: float | None = None,
  above: float | None = None,
  at_most: float | None = None,
  below: float | None = None,
) -> None:
  """Raises UserError where one of these fields is not finite or outside the bounds."""
  bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
  said = " and ".join(f"{words} {bound:,}" for words, bound in bounds.items() if bound is not None)
  for field in fields:
    value = getattr(module, field)
    fits = (
      abs(value) < math.inf  # math.isfinite takes no large int
      and (at_least is None or value >= at_least)
      and (above is None or value > above)
      and (at_most is None or value <= at_most)
      and (below is None or value < below)
    )
    if not fits:
      raise UserError(f"{field}: {value} is out of range; give a number {said}.")


def heads(module: Any) -> None:
  """Raises UserError unless `width` channels split evenly over `heads`."""
  positive(module, "width", "heads")
  if module.width % module.heads:
    raise UserError(f"heads: {module.heads} does not divide width {module.width}.")


def dropout(module: Any) -> None:
  """Raises UserError where the field `dropout` is no share that leaves anything."""
  within(module, "dropout", at_least=0, below=1)


def array(name: str, value: Any) -> np.ndarray:
  """`value` as NumPy's array. Raises UserError for what is none: ragged lists, words, huge ints."""
  try:
    found = np.asarray(value)
  except (ValueError, TypeError, OverflowError):
    raise UserError(f"{name}: is no array of numbers; give all rows the same length.") from None
  if found.dtype.kind in "OSU":
    raise UserError(
      f"{name}: {found.dtype} of shape {found.shape}; give numbers, of 64 bits at the most."
    )
  return found


def axes(module: Any, name: str, *known: int) -> None:
  """Raises UserError where the field `axes` is none of `known`; `name` is what configs call it."""
  if module.axes not in known:
    made_for = " or ".join(map(str, known))
    raise UserError(
      f"{name} is made for {made_for} grid axes, not for {module.axes}; choose another."
    )


def rank(size: Sequence[int], axes: int) -> None:
  """Raises UserError where a grid of this size, a side per axis, has not this many axes."""
  if len(size) != axes:
    raise UserError(f"size {times(size)} has {len(size)} grid axes, the model is made for {axes}.")


def times(sides: Sequence[int]) -> str:
  """How messages spell a size: (16, 32) is "16x32"."""
  return "x".join(map(str, sides))


def check_classes(values: np.ndarray, classes: int, field: str, source: str) -> np.ndarray:
  """Returns integers; raises UserError naming the first outside 0 to classes - 1, and `source`,
  which says where their number comes from.
  """
  values = np.asarray(values)
  if values.size and not 0 <= values.min() <= values.max() < classes:
    bad = values[(values < 0) | (values >= classes)].flat[0]
    raise UserError(f"{field}: {bad} is outside 0 to {classes - 1}, the classes of {source}.")
  return values
