"""Ops: what happens to every example before it is batched. One file per kind of signal.

A file defines a frozen dataclass `Ops`, whose fields `config.ops` sets, with

    ops.fields: tuple[str, ...]   the example's fields that are treated alike, the leading one first
    ops.apply(example, rng=None) -> example   the fields treated, the rest as it is; random with
                                  `rng`, which evaluation has not. Where the example has codes or
                                  floats (`ids`, `latents`) it is kept: its fields went through the
                                  ops before. Raises UserError, which begins with the example's
                                  `name`, for what cannot be treated
    ops.shown(shape) -> str       a field's shape as people say it
    ops.remedy: str               what makes the shapes of all examples alike

Random ops draw from a generator that is a function of the seed and the example's number in training
(`generator`). A config without a name means images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vqjax.errors import UserError

MEMBER = "Ops"
UNNAMED = "image"


def generator(seed: int, counter: int, stream: int = 0) -> np.random.Generator:
  """Random numbers, a function of the arguments alone; `stream` keeps uses of one seed apart."""
  key = np.array([(seed + (stream << 56)) % 2**64, counter], np.uint64)
  return np.random.Generator(np.random.Philox(key=key))


def check_treated(ops: Any, example: Mapping[str, Any]) -> None:
  """Raises UserError for an example of another kind than the ops treat."""
  if not example.keys() & {*ops.fields, "ids", "latents"}:
    found = ", ".join(key for key in example if key != "name")
    raise UserError(
      f"config.ops.name: treats {' and '.join(ops.fields)}, but the data yield {found}; give data "
      "of that kind, or set config.ops.name and config.signal.name, or config.data.name where its "
      "files are of several kinds."
    )


def alike(ops: Any, example: dict[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
  """Raises UserError where a field that the ops treat cannot be batched with the template's."""
  for field in ops.fields:
    shape, wanted = (e[field].shape if field in e else None for e in (example, template))
    if shape != wanted:
      found, others = (ops.shown(s) if s else "missing" for s in (shape, wanted))
      raise UserError(
        f"{example.get('name', field)}: is {found}, others are {others}; {ops.remedy}."
      )
  return example
