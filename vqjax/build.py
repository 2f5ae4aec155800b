"""From a config's sub-dict to the callable it names: build("quantizers", cfg) returns quantizers.<name>.Model(**rest)."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
import types
import typing
from collections.abc import Mapping
from typing import Any

from vqjax.errors import UserError, near_miss

# What a family's files define, where it is not `Model`.
_CLASS = {"generation": "Scheme", "evaluators": "Measure"}
# A sub-dict under one of these fields is built first, from the family given.
_NESTED = {"quantizer": "quantizers"}


def names(family: str) -> list[str]:
  """The choices of a family: its files, without private ones."""
  package = importlib.import_module(f"vqjax.{family}")
  return [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]


def module(family: str, name: str) -> types.ModuleType:
  """Imports vqjax.<family>.<name>. Raises UserError with the near miss for an unknown name."""
  if name not in names(family):
    raise UserError(f"{family}: unknown name {name!r}.{near_miss(str(name), names(family))}")
  return importlib.import_module(f"vqjax.{family}.{name}")


def build(family: str, config: Mapping[str, Any], path: str = "config", **fixed: Any) -> Any:
  """Builds what `config["name"]` names in `vqjax.<family>`, with the other entries as its fields.

  Args:
    family: a folder of vqjax, e.g. "quantizers".
    config: the sub-dict; nested sub-dicts of known families are built first.
    path: how the user spells this sub-dict, for messages.
    **fixed: fields that the caller sets; they win over nothing: a clash is an error.

  Raises:
    UserError: unknown name, unknown field, missing field or a value of the wrong type.
  """
  config = config.to_dict() if hasattr(config, "to_dict") else dict(config)  # a ConfigDict's sub-dicts are no Mappings
  if "name" not in config:
    raise UserError(f"{path}: has no 'name'. Choose from {', '.join(names(family))}.")
  name = config.pop("name")
  cls = getattr(module(family, name), _CLASS.get(family, "Model"))
  fields = {
      key: build(_NESTED[key], value, f"{path}.{key}") if key in _NESTED and isinstance(value, Mapping) else value
      for key, value in config.items()
  }
  check_fields(cls, fields, f"{path}({name})")
  for key in fixed.keys() & fields.keys():
    raise UserError(f"{path}.{key}: is set by the program here; remove it from the config.")
  fields |= fixed
  required = {
      f.name for f in dataclasses.fields(cls)
      if f.init and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
  }
  if missing := sorted(required - fields.keys() - {"parent"}):
    raise UserError(f"{path}({name}): needs {', '.join(missing)}.")
  try:
    return cls(**{k: _plain(v) for k, v in fields.items()})
  except UserError as e:
    raise UserError(f"{path}({name}): {e}") from None


def check_fields(target: Any, values: Mapping[str, Any], path: str) -> None:
  """Raises UserError where `values` has a key that the dataclass `target` lacks, or a value of another type."""
  hints = typing.get_type_hints(target)
  known = {f.name for f in dataclasses.fields(target) if f.init} - {"parent", "name"}
  for key, value in values.items():
    if key not in known:
      raise UserError(f"{path}.{key}: unknown field.{near_miss(key, known)}")
    if not _fits(value, hints.get(key, Any)):
      kind = getattr(hints[key], "__name__", str(hints[key]))
      raise UserError(f"{path}.{key}: {value!r} is a {type(value).__name__}, not {kind}.")


def _plain(value: Any) -> Any:
  """Lists become tuples, so that modules stay hashable."""
  return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value


def _fits(value: Any, hint: Any) -> bool:
  """Whether `value` may stand where `hint` is declared. Hints beyond plain types, unions and sequences pass."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return any(_fits(value, a) for a in args)
  if origin is typing.Literal:
    return value in args
  if hint in (None, type(None)):
    return value is None
  if hint is bool:
    return isinstance(value, bool)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if hint is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if hint is str:
    return isinstance(value, str)
  if origin in (tuple, list) or hint in (tuple, list):
    if not isinstance(value, (tuple, list)):
      return False
    inner = [a for a in args if a is not Ellipsis]
    return len(inner) != 1 or all(_fits(v, inner[0]) for v in value)
  return True
