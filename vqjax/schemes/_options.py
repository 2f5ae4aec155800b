"""Checks of sampling options: what is out of range or of another type is one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from vqjax.checks import is_real
from vqjax.errors import UserError


def traced(**off: float | None) -> Callable[[type], type]:
  """Makes a frozen dataclass a pytree: the numbers of these fields are leaves, so that one program
  serves them all. A None, and the value in `off`, with which a step is left out, are static.
  """

  def register(cls: type) -> type:
    def flatten(record: Any) -> tuple[list[Any], Any]:
      values = vars(record)
      leaf = lambda value, left_out: (
        value is not None and not (is_real(value) and value == left_out)
      )
      names = tuple(name for name in off if leaf(values[name], off[name]))
      fixed = tuple(item for item in values.items() if item[0] not in names)
      return [values[name] for name in names], (names, fixed)

    def unflatten(static: Any, leaves: Any) -> Any:
      names, fixed = static
      record = object.__new__(cls)  # unchecked: a traced number has no value
      vars(record).update(dict(fixed) | dict(zip(names, leaves)))
      return record

    jax.tree_util.register_pytree_node(cls, flatten, unflatten)
    return cls

  return register


def check_keep(keep: float) -> None:
  """Raises UserError for a share of codes outside [0, 1]."""
  if not is_real(keep) or not 0 <= keep <= 1:
    raise UserError(
      f"keep: {keep} is outside 0 to 1, the share of the codes that stay; a longer prompt has no "
      "place in the grid."
    )
