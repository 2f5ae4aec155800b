"""From a config's sub-dict to the callable it names, checked and completed by the schema that the
callable's own fields are: build("quantizers", cfg) returns quantizers.<name>.Model(**rest).
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

from vqjax import fields as marks
from vqjax.errors import UserError, near_miss

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


def member(family: str, name: str) -> Any:
  """The class that a family's file defines: `Model`, or what the family's MEMBER says."""
  kind = getattr(importlib.import_module(f"vqjax.{family}"), "MEMBER", "Model")
  return getattr(module(family, name), kind)


def build(family: str, config: Mapping[str, Any], path: str = "config", /, **given: Any) -> Any:
  """Builds what `config["name"]` names in `vqjax.<family>`, with the other entries as its fields.

  Args:
    family: a folder of vqjax, e.g. "quantizers".
    config: the sub-dict; sub-dicts of other members are built first.
    path: how the user spells this sub-dict, for messages.
    **given: values for those fields of the member that the program sets; others are left out.

  Raises:
    UserError: unknown name, unknown field, missing field or a value of the wrong type.
  """
  name, values, where = _named(family, config, path)
  return make(member(family, name), values, path, where, **given)


def make(
  cls: Any, values: Mapping[str, Any], path: str = "config", where: str = "", /, **given: Any
) -> Any:
  """An instance of the dataclass `cls`; arguments and errors as for `build`."""
  where, known = where or path, {f.name: f for f in _fields(cls)}
  given = {k: v for k, v in given.items() if k in known and marks.by_program(known[k])}
  for key in given.keys() & values.keys():
    raise UserError(f"{path}.{key}: is set by the program here; remove it from the config.")
  built = {}
  for key, value in values.items():
    value = value.to_dict() if hasattr(value, "to_dict") else value  # a ConfigDict is no Mapping
    family = known[key].metadata.get("family") if key in known else None
    nested = family and isinstance(value, Mapping)
    built[key] = build(family, value, f"{path}.{key}") if nested else value
  check_fields(cls, built, where)
  built |= given
  if missing := sorted(k for k, f in known.items() if _required(f) and k not in built):
    raise UserError(f"{where}: needs {', '.join(missing)}.")
  return checked(cls, {k: v if k in given else _plain(v) for k, v in built.items()}, where)


def checked(cls: Any, values: Mapping[str, Any], where: str) -> Any:
  """cls(**values); what its own checks raise, with `where` before it."""
  try:
    return cls(**values)
  except UserError as e:
    raise UserError(f"{where}: {e}") from None


def filled(family: str, config: Mapping[str, Any], path: str = "config") -> dict[str, Any]:
  """`config` with the defaults of what it names, sub-dicts too, but for what the program sets.

  Raises:
    UserError: unknown name, unknown field or a value of the wrong type.
  """
  name, values, where = _named(family, config, path)
  return {"name": name} | complete(member(family, name), values, path, where)


def essential(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
  """`config`, filled, without the fields that have their defaults, in members of members too: what
  stays as it is when a family's classes get more fields.
  """
  name, values, _ = _named(family, config, "config")
  cls = member(family, name)
  known, usual = {f.name: f for f in _fields(cls)}, defaults(cls)
  kept = {"name": name}
  for key, value in values.items():
    inner = known[key].metadata.get("family")
    if inner and value:
      kept[key] = essential(inner, value)
    elif key not in usual or _plain(usual[key]) != _plain(value):
      kept[key] = _plain(value)
  return kept


def complete(
  cls: Any, values: Mapping[str, Any], path: str = "config", where: str = ""
) -> dict[str, Any]:
  """`values` with the defaults of the dataclass `cls`; otherwise as `filled`.

  None becomes the name "none" where a field has that choice and does not take None: command lines
  and configs spell both alike.
  """
  known = {f.name: f for f in _fields(cls)}
  hints = typing.get_type_hints(cls)
  values = {k: "none" if v is None and _has_none(hints.get(k)) else v for k, v in values.items()}
  check_fields(cls, values, where or path, nested=True)
  for key in values:
    if marks.by_program(known[key]):
      raise UserError(f"{path}.{key}: is set by the program; remove it from the config.")
  kept = {k: v for k, v in defaults(cls).items() if not marks.by_program(known[k])} | dict(values)
  return {k: _completed(known[k].metadata, v, f"{path}.{k}") for k, v in kept.items()}


def record(metadata: Mapping[str, str]) -> Any:
  """The dataclass that a field's sub-dict is a record of, "module.Class" in vqjax."""
  file, _, cls = metadata["record"].rpartition(".")
  return getattr(importlib.import_module(f"vqjax.{file}"), cls)


def _completed(metadata: Mapping[str, str], value: Any, path: str) -> Any:
  """A field's value with the defaults of the sub-dict that it is, if it is one."""
  if value is None or not metadata.keys() & {"family", "members", "record"}:
    return value
  value = _mapping(value, path)
  if "family" in metadata:
    return _checked_member(metadata["family"], filled(metadata["family"], value, path), path)
  cls = record(metadata)
  if "members" not in metadata:
    completed = complete(cls, value, path)
    checked(cls, completed, path)
    return completed
  family = metadata["members"]
  chosen = {k: _mapping(v, f"{path}.{k}") for k, v in value.items() if k in names(family) and v}
  rest = {k: v for k, v in value.items() if k not in names(family)}
  known = {*names(family), *(f.name for f in _fields(cls))}
  for key in rest.keys() - known:
    raise UserError(f"{path}.{key}: unknown field.{near_miss(str(key), known)}")
  inner = {k: complete(member(family, k), v, f"{path}.{k}") for k, v in chosen.items()}
  return complete(cls, rest, path) | inner


def _checked_member(family: str, config: dict[str, Any], path: str) -> dict[str, Any]:
  """`config`, filled; what the member's own checks raise is raised now where its fields alone make
  it.
  """
  name, values, where = _named(family, config, path)
  cls = member(family, name)
  if all(not f.metadata and (f.name in values or not _required(f)) for f in _fields(cls)):
    checked(cls, {k: _plain(v) for k, v in values.items()}, where)
  return config


def defaults(target: Any) -> dict[str, Any]:
  """The defaults of a dataclass's fields."""
  found = {}
  for f in _fields(target):
    if f.default is not dataclasses.MISSING:
      found[f.name] = f.default
    elif f.default_factory is not dataclasses.MISSING:
      found[f.name] = f.default_factory()
  return found


def _named(family: str, config: Mapping[str, Any], path: str) -> tuple[str, dict[str, Any], str]:
  """The name in a sub-dict, or else the family's UNNAMED; the other entries; how messages call the
  sub-dict: by its name too, unless that goes without saying.
  """
  values = dict(_mapping(config, path, " with a 'name'"))
  unnamed = getattr(importlib.import_module(f"vqjax.{family}"), "UNNAMED", None)
  if unnamed:
    values = {"name": unnamed} | values
  if "name" not in values:
    raise UserError(f"{path}: has no 'name'. Choose from {', '.join(names(family))}.")
  name = values.pop("name")
  return name, values, path if name == unnamed else f"{path}({name})"


def _mapping(config: Any, path: str, what: str = "") -> Mapping[str, Any]:
  config = config.to_dict() if hasattr(config, "to_dict") else config  # a ConfigDict is no Mapping
  if not isinstance(config, Mapping):
    raise UserError(f"{path}: {config!r} is a {type(config).__name__}, not a sub-dict{what}.")
  return config


def _required(field: dataclasses.Field) -> bool:
  return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _fields(target: Any) -> list[dataclasses.Field]:
  """What may be set of a dataclass; linen's own fields of a module are not among it."""
  fields = [f for f in dataclasses.fields(target) if f.init]
  linen = any(f.name == "parent" for f in fields)
  return [f for f in fields if f.name not in ("parent", "name")] if linen else fields


def check_fields(target: Any, values: Mapping[str, Any], path: str, nested: bool = False) -> None:
  """Raises UserError where `values` has a key that the dataclass `target` lacks, or a value of
  another type; with `nested`, sub-dicts that have a schema of their own are not looked at.
  """
  hints = typing.get_type_hints(target)
  known = {f.name: f for f in _fields(target)}
  for key, value in values.items():
    if key not in known:
      raise UserError(f"{path}.{key}: unknown field.{near_miss(str(key), known)}")
    metadata = known[key].metadata
    if nested and metadata.keys() & {"family", "record"} and hasattr(value, "items"):
      continue
    if not _fits(value, hints.get(key, Any)):
      reason = _misfit(value, hints[key], f"{path}.{key}", defaults(target).get(key), metadata)
      raise UserError(f"{path}.{key}: {reason}")
    if key == "dtype" and value not in _DTYPES:
      raise UserError(f"{path}.{key}: {value!r} is none of {', '.join(_DTYPES)}.")


def _misfit(value: Any, hint: Any, path: str, default: Any, metadata: Mapping[str, str]) -> str:
  """What is wrong with a value, and what to write instead where that can be told."""
  if typing.get_origin(hint) is typing.Literal:
    return f"{value!r} is none of {', '.join(map(str, typing.get_args(hint)))}."
  path = re.sub(r"\(.*?\)", "", path)
  kind, remedy = hint.__name__ if isinstance(hint, type) else str(hint), ""
  named = "family" in metadata or _chooses_by_name(metadata)
  if named or _fits({}, hint):
    kind, remedy = "a sub-dict", f"; write {path}.{'name' if named else 'FIELD'}={value}"
    remedy = remedy if named else f"; write {path}.FIELD=VALUE"
  elif (typing.get_origin(hint) or hint) is Sequence:
    kind, remedy = "a list", f"; for example {default or (value,)}"
  return f"{value!r} is a {type(value).__name__}, not {kind}{remedy}."


def _has_none(hint: Any) -> bool:
  """Whether "none" is one of the names of a field that does not take None."""
  return typing.get_origin(hint) is typing.Literal and "none" in typing.get_args(hint)


def _chooses_by_name(metadata: Mapping[str, str]) -> bool:
  """Whether a sub-dict is of a class that has a field `name` (an optimizer's)."""
  return "record" in metadata and "name" in {f.name for f in _fields(record(metadata))}


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
  if (origin or hint) in (tuple, list, Sequence):
    if not isinstance(value, (tuple, list)):
      return False
    inner = [a for a in args if a is not Ellipsis]
    return len(inner) != 1 or all(_fits(v, inner[0]) for v in value)
  return not isinstance(hint, type) or hint is Any or isinstance(value, hint)
