"""What a dataclass says of a field beyond its type: who sets it, and what its sub-dict describes.

Configs are checked and completed by these marks (see vqjax.build), so that a thing's schema stands
beside the thing: nobody else lists its fields.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

MISSING = dataclasses.MISSING


def program(default: Any = MISSING) -> Any:
  """A field that the program sets: no config may, and a resolved config does not show it."""
  return _field(default, by="program")


def member(family: str, default: Any = MISSING) -> Any:
  """A sub-dict {"name": …, **fields} of one member of a family, e.g. "quantizers"."""
  return _field(default, family=family)


def members(family: str, also: str) -> Any:
  """A sub-dict {name: fields} of any number of a family's members, beside the fields of `also`."""
  return _field({}, members=family, record=also)


def record(cls: str, default: Any = MISSING) -> Any:
  """A sub-dict of the fields of the dataclass `cls`, named as "optim.Optimizer" within vqjax."""
  return _field({} if default is MISSING else default, record=cls)


def workdir(default: Any = MISSING) -> Any:
  """The workdir of another run that must exist whenever this run is opened; see vqjax.places."""
  return _field(default, place="needed")


def part(default: Any = MISSING) -> Any:
  """A file, or another run's workdir, that only some predictions need: an export takes it along."""
  return _field(default, place="part")


def place(default: Any = MISSING) -> Any:
  """A file or folder (or workdir) that only some commands need."""
  return _field(default, place="at times")


def by_program(field: dataclasses.Field) -> bool:
  return field.metadata.get("by") == "program"


def _field(default: Any, **metadata: str) -> Any:
  if isinstance(default, dict):
    return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
  return dataclasses.field(default=default, metadata=metadata)
