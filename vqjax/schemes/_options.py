"""Checks of sampling options: what is out of range or of another type is one line."""

from __future__ import annotations

import numbers
from typing import Any

from vqjax.errors import UserError


def is_whole(value: object) -> bool:
  """Whether it is an integer of Python or NumPy; True and False are none."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_real(value: object) -> bool:
  """Whether it is a number of Python or NumPy; True and False are none."""
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def no_plan(scheme: Any, known_BL: Any) -> dict[str, Any]:
  """`plan` of a scheme for which nothing follows from what is known."""
  del scheme, known_BL
  return {}


def check_whole(name: str, value: int, least: int, most: int | None = None, what: str = "") -> None:
  """Raises UserError unless the option is a whole number from `least` to `most`.

  `what` tells in the message what the upper limit is.
  """
  if not is_whole(value) or value < least or (most is not None and value > most):
    reach = f"from {least} up" if most is None else f"from {least} to {most}, {what}"
    raise UserError(f"{name}: {value!r} is no whole number {reach}.")
