"""What modules check of their own fields when they are made: one UserError line per mistake."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from vqjax.errors import UserError


def within(
  module: Any,
  *fields: str,
  at_least: float | None = None,
  above: float | None = None,
  at_most: float | None = None,
  below: float | None = None,
) -> None:
  """Raises UserError where one of these fields is not finite or outside the bounds.

  None passes; a tuple has at least one number, and each of them counts.
  """
  bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
  said = " and ".join(f"{words} {bound:,}" for words, bound in bounds.items() if bound is not None)

  def fits(number: Any) -> bool:
    return (
      isinstance(number, numbers.Real)
      and abs(number) < math.inf  # math.isfinite takes no large int
      and (at_least is None or number >= at_least)
      and (above is None or number > above)
      and (at_most is None or number <= at_most)
      and (below is None or number < below)
    )

  for field in fields:
    value = getattr(module, field)
    several = value if isinstance(value, tuple) else (value,)
    if value is not None and not (several and all(map(fits, several))):
      raise UserError(f"{field}: {value} is out of range; give a number {said}.")


def positive(module: Any, *fields: str) -> None:
  """Raises UserError where one of these fields is below 1, as `within`."""
  within(module, *fields, at_least=1)


def is_whole(value: object) -> bool:
  """Whether it is an integer of Python or NumPy; True and False are none."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_real(value: object) -> bool:
  """Whether it is a number of Python or NumPy; True and False are none."""
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def whole(name: str, value: Any, least: int, most: int | None = None, what: str = "") -> int:
  """Returns the int; raises UserError unless `value` is a whole number from `least` to `most`.

  `what` tells in the message what the upper limit is.
  """
  if not is_whole(value) or value < least or (most is not None and value > most):
    reach = f"from {least} up" if most is None else f"from {least} to {most}, {what}"
    raise UserError(f"{name}: {value!r} is no whole number {reach}.")
  return int(value)


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


def classes(values: np.ndarray, count: int, field: str, source: str) -> np.ndarray:
  """Returns integers; raises UserError naming the first outside 0 to count - 1, and `source`,
  which says where their number comes from.
  """
  values = np.asarray(values)
  if values.size and not 0 <= values.min() <= values.max() < count:
    bad = values[(values < 0) | (values >= count)].flat[0]
    raise UserError(f"{field}: {bad} is outside 0 to {count - 1}, the classes of {source}.")
  return values
