"""From a config's sub-dict to the callable it names: build("quantizers", cfg) returns
quantizers.<name>.Model(**rest).
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from vqjax.errors import UserError, near_miss

# What a family's files define, where it is not `Model`.
_CLASS = {"schemes": "Scheme", "evaluators": "Measure", "data.sources": "Source"}
# A sub-dict under one of these fields is built first, from the family given.
_NESTED = {"quantizer": "quantizers"}
# Fields with defaults that the program sets: a resolved config does not hold them.
_SET = {
  "autoencoders": {"channels", "out_channels"},
  "schemes": {"books"},
  "priors": {"causal", "max_prefix", "prefix_grid", "modulation"},
}
# Sub-dicts whose `name` chooses something.
_NAMED = ("data", "disc", "model", "optim", "optim_disc", "quantizer", "scheme")
_DTYPES = ("bfloat16", "float16", "float32")


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
  name, cls, config = _named(family, config, path)
  fields = {
    key: build(_NESTED[key], value, f"{path}.{key}")
    if key in _NESTED and isinstance(value, Mapping)
    else value
    for key, value in config.items()
  }
  check_fields(cls, fields, f"{path}({name})")
  for key in fixed.keys() & fields.keys():
    raise UserError(f"{path}.{key}: is set by the program here; remove it from the config.")
  fields |= fixed
  required = {
    f.name
    for f in dataclasses.fields(cls)
    if f.init and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
  }
  if missing := sorted(required - fields.keys() - {"parent"}):
    raise UserError(f"{path}({name}): needs {', '.join(missing)}.")
  try:
    return cls(**{k: _plain(v) for k, v in fields.items()})
  except UserError as e:
    raise UserError(f"{path}({name}): {e}") from None


def filled(family: str, config: Mapping[str, Any], path: str = "config") -> dict[str, Any]:
  """`config` with the defaults of what it names, nested sub-dicts too, but for the fields that the
  program sets.

  Raises:
    UserError: unknown name, unknown field or a value of the wrong type.
  """
  name, cls, fields = _named(family, config, path)
  nested = {
    k: filled(_NESTED[k], v, f"{path}.{k}")
    for k, v in fields.items()
    if k in _NESTED and isinstance(v, Mapping)
  }
  check_fields(cls, {k: v for k, v in fields.items() if k not in nested}, f"{path}({name})")
  kept = {k: v for k, v in defaults(cls).items() if k not in _SET.get(family, ())}
  return {"name": name} | kept | fields | nested


def defaults(target: Any) -> dict[str, Any]:
  """The defaults of a dataclass's fields."""
  found = {}
  for f in _fields(target):
    if f.default is not dataclasses.MISSING:
      found[f.name] = f.default
    elif f.default_factory is not dataclasses.MISSING:
      found[f.name] = f.default_factory()
  return found


def _named(family: str, config: Mapping[str, Any], path: str) -> tuple[str, Any, dict[str, Any]]:
  """The name in a sub-dict, the class that it names, and the other entries."""
  config = (
    config.to_dict() if hasattr(config, "to_dict") else config
  )  # a ConfigDict's sub-dicts are no Mappings
  if not isinstance(config, Mapping):
    raise UserError(
      f"{path}: {config!r} is a {type(config).__name__}, not a sub-dict with a 'name'."
    )
  fields = dict(config)
  if "name" not in fields:
    raise UserError(f"{path}: has no 'name'. Choose from {', '.join(names(family))}.")
  name = fields.pop("name")
  return name, getattr(module(family, name), _CLASS.get(family, "Model")), fields


def _fields(target: Any) -> list[dataclasses.Field]:
  """What a config may set of a dataclass; linen's own fields of a module are not among it."""
  fields = [f for f in dataclasses.fields(target) if f.init]
  return (
    [f for f in fields if f.name not in ("parent", "name")]
    if any(f.name == "parent" for f in fields)
    else fields
  )


def check_fields(target: Any, values: Mapping[str, Any], path: str) -> None:
  """Raises UserError where `values` has a key that the dataclass `target` lacks, or a value of
  another type.
  """
  hints = typing.get_type_hints(target)
  known = {f.name for f in _fields(target)}
  for key, value in values.items():
    if key not in known:
      raise UserError(f"{path}.{key}: unknown field.{near_miss(str(key), known)}")
    if not _fits(value, hints.get(key, Any)):
      raise UserError(
        f"{path}.{key}: {_misfit(value, hints[key], f'{path}.{key}', defaults(target).get(key))}"
      )
    if key == "dtype" and value not in _DTYPES:
      raise UserError(f"{path}.{key}: {value!r} is none of {', '.join(_DTYPES)}.")


def _misfit(value: Any, hint: Any, path: str, default: Any) -> str:
  """What is wrong with a value, and what to write instead where that can be told."""
  if typing.get_origin(hint) is typing.Literal:
    return f"{value!r} is none of {', '.join(map(str, typing.get_args(hint)))}."
  path = re.sub(r"\(.*?\)", "", path)
  kind, remedy = hint.__name__ if isinstance(hint, type) else str(hint), ""
  if (field := path.rpartition(".")[2]) in _NAMED or _fits({}, hint):
    kind, remedy = (
      "a sub-dict",
      f"; write {path}.name={value}" if field in _NAMED else f"; write {path}.FIELD=VALUE",
    )
  elif hint is Sequence:
    kind, remedy = "a list", f"; for example {default or (value,)}"
  return f"{value!r} is a {type(value).__name__}, not {kind}{remedy}."


def _plain(value: Any) -> Any:
  """Lists become tuples, so that modules stay hashable."""
  return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value


def _fits(value: Any, hint: Any) -> bool:
  """Whether `value` may stand where `hint` is declared.

  Hints beyond plain types, unions and sequences pass.
  """
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
  if hint is Sequence:
    return isinstance(value, (tuple, list))
  return not isinstance(hint, type) or hint is Any or isinstance(value, hint)
