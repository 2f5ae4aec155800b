"""A run's configuration: read from a Python file, overridden on the command line, completed,
checked, saved, compared.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vqjax import build, fields, files
from vqjax.errors import UserError, near_miss


@dataclasses.dataclass(frozen=True)
class Common:
  """The top level of every config, with its defaults, beside the `Fields` of the run's task."""

  task: str = "autoencode"  # a file of vqjax/tasks
  seed: int = 0
  batch_size: int = 64  # over all devices and processes
  total_steps: int = 10_000
  data: dict = fields.member("data.sources", {"name": "shapes"})
  ops: dict = fields.record("data.ops.Ops")
  optim: dict = fields.record("optim.Optimizer")  # for every player
  accumulate: int = 1  # steps whose gradients are averaged into one update
  ema_decay: float = 0.0  # moving average of the parameters; 0 keeps none
  mesh: dict = fields.record("sharding.Axes")
  sharding: Sequence = ((".*", "fsdp"),)  # vqjax.sharding.shardings
  init_from: str | None = None  # workdir whose parameters this run starts from
  evaluators: Sequence = ()  # measures of vqjax/evaluators; empty means the task's own
  log_every: int = 50
  save_every: int = 1_000  # also evaluates and draws previews
  eval_examples: int = (
    1_024  # held-out examples measured at each save; commands use the whole split
  )
  keep: int = 2  # newest checkpoints kept, besides the best
  best: str = (
    ""  # held-out figure that names the best checkpoint, "-" before it where less is better
  )
  preview: int = 8  # examples per preview

  debug: dict = dataclasses.field(default_factory=dict)  # overrides applied by --config=FILE:debug


# What may differ between a checkpoint and the run that continues it.
_FREE = (
  "total_steps", "log_every", "save_every", "eval_examples", "keep", "best", "preview", "mesh",
  "sharding", "evaluators", "debug", "init_from", "optim.lr", "optim_disc.lr",
)  # fmt: skip


def _fields_of(task: str) -> Any:
  """What a config of this task holds: the dataclass of the common fields and its own."""
  own = build.module("tasks", task).Fields
  return dataclasses.make_dataclass("Config", [], bases=(own, Common), frozen=True)


def known_fields() -> set[str]:
  """The top-level names that the config of some task has."""
  return {f.name for task in build.names("tasks") for f in dataclasses.fields(_fields_of(task))}


def load(path: str) -> ConfigDict:
  """Reads `FILE[:ARG]`: runs the file's `get_config(ARG)`. The argument `debug` applies the
  config's own `debug` overrides.

  Raises:
    UserError: no such file, or an argument that the config does not take.
  """
  file, _, arg = path.partition(":")
  if not pathlib.Path(file).is_file():
    raise UserError(
      f"--config={path}: there is no file {file}. The configs that come with vqjax are in configs/."
    )
  root = str(pathlib.Path(file).resolve().parents[1])
  if (
    root not in sys.path
  ):  # so that configs/a.py may import from configs, whatever the current folder
    sys.path.append(root)
  spec = importlib.util.spec_from_file_location("vqjax_config", file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise UserError(f"--config={path}: {file} defines no get_config().")
  takes_argument = module.get_config.__code__.co_argcount > 0
  values = (
    module.get_config(None if arg in ("", "debug") else arg)
    if takes_argument
    else module.get_config()
  )
  config = editable(values)
  known = ["debug"] if config.get("debug") else []
  if arg and arg not in known and (arg == "debug" or not takes_argument):
    raise UserError(
      f"--config={path}: {file} takes no argument "
      f"{arg!r}.{near_miss(arg, known) if known else ' It takes none.'}"
    )
  if arg == "debug":
    for name, value in config.debug.items():
      _merge(config, name, value)
  return config


def editable(values: Mapping[str, Any]) -> ConfigDict:
  """A config that `override` may add fields to."""
  config = ConfigDict(dict(values))
  config.unlock()
  return config


def _nested(value: Any) -> bool:
  return isinstance(value, (ConfigDict, Mapping))  # a ConfigDict is no Mapping


def _merge(config: ConfigDict, name: str, value: Any) -> None:
  """Sets config[name]; a mapping that names no other callable is merged into the one there."""
  present = config.get(name)
  if (
    _nested(value)
    and _nested(present)
    and value.get("name", present.get("name")) == present.get("name")
  ):
    for key, inner in value.items():
      _merge(present, key, inner)
  else:
    config[name] = ConfigDict(value) if _nested(value) else value


def override(config: ConfigDict, assignments: Sequence[str]) -> None:
  """Applies `a.b.c=value`: outer fields before inner ones, a `name` before the fields beside it,
  else in order.

  A new `name` drops the fields that belonged to the old one; an assignment drops earlier ones to
  what it replaces.
  """
  pairs = [_pair(assignment) for assignment in assignments]
  pairs = [
    (path, value)
    for i, (path, value) in enumerate(pairs)
    if not any(path[: len(p)] == p != path for p, _ in pairs[i + 1 :])
  ]
  for path, value in sorted(pairs, key=lambda pair: (len(pair[0]), pair[0][-1] != "name")):
    _assign(config, path, value)


def _pair(assignment: str) -> tuple[list[str], Any]:
  path, equals, text = assignment.partition("=")
  keys = path.split(".")
  if not equals or not all(keys):
    raise UserError(
      f"--config.{assignment}: write --config.FIELD=VALUE, for example --config.optim.lr=1e-4."
    )
  known = known_fields()
  if keys[0] not in known:
    raise UserError(f"--config.{path}: unknown field {keys[0]!r}.{near_miss(keys[0], known)}")
  return keys, _literal(text)


def _assign(config: ConfigDict, path: Sequence[str], value: Any) -> None:
  node, (*parents, leaf) = config, path
  for i, key in enumerate(parents):
    if node.get(key) is None:
      node[key] = ConfigDict()
    if not _nested(node[key]):
      raise UserError(
        f"--config.{'.'.join(path)}: config.{'.'.join(path[: i + 1])} is {node[key]!r}, which "
        "has no fields."
      )
    node = node[key]
  if leaf == "name" and node.get("name") not in (None, value):
    for stale in list(node):
      del node[stale]
  with node.ignore_type():
    node[leaf] = ConfigDict(value) if isinstance(value, dict) else value


def _literal(text: str) -> Any:
  """A Python literal where the text is one (also true, false, none and null), else the text."""
  words = {"true": True, "false": False, "none": None, "null": None}
  if text.lower() in words:
    return words[text.lower()]
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def complete(config: Mapping[str, Any]) -> ConfigDict:
  """Fills in the defaults of the top level and of every sub-dict, and checks names, fields, types.

  Left out are only the fields that the program sets: a completed config says what was run, whatever
  the defaults become. Raises UserError with the near miss for an unknown field.
  """
  values = _plain(config)
  task = values.get("task", Common.task)
  cls = _fields_of(task)
  if foreign := sorted(known_fields() & values.keys() - {f.name for f in dataclasses.fields(cls)}):
    raise UserError(
      f"config.{foreign[0]}: is nothing that a run of task {task!r} reads; remove it, or set "
      "config.task."
    )
  values = build.complete(cls, values, "config")
  for name in (
    "batch_size", "total_steps", "log_every", "save_every", "eval_examples", "accumulate", "keep",
    "preview",
  ):  # fmt: skip
    if values[name] < 1:
      raise UserError(f"config.{name}: {values[name]} is not positive.")
  if not 0 <= values["ema_decay"] < 1:
    raise UserError(
      f"config.ema_decay: {values['ema_decay']} is outside [0, 1); 0 keeps no average."
    )
  for i, measure in enumerate(values["evaluators"]):
    measure = {"name": measure} if isinstance(measure, str) else measure
    build.filled("evaluators", measure, f"config.evaluators[{i}]")
  return ConfigDict(values)


def _plain(value: Any) -> Any:
  """ConfigDicts to dicts, lists to tuples: what JSON makes of a config compares equal to the
  config.
  """
  if _nested(value):
    return {k: _plain(v) for k, v in value.items()}
  return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value


# Stands in a saved config for its own workdir, so that a run can be moved with what lies in it.
_HERE = "{workdir}/"


def save(config: ConfigDict, workdir: files.Path) -> None:
  within = f"{workdir}/"
  files.write_json(workdir / "config.json", _replaced(_plain(config), within, _HERE))


def _replaced(value: Any, old: str, new: str) -> Any:
  """The config with another beginning of the texts in it that begin with `old`."""
  if isinstance(value, dict):
    return {k: _replaced(v, old, new) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return type(value)(_replaced(v, old, new) for v in value)
  return new + value[len(old) :] if isinstance(value, str) and value.startswith(old) else value


def of_run(workdir: files.Path) -> ConfigDict:
  """The resolved config of a run. Raises UserError where `workdir` holds none."""
  file = files.path(workdir) / "config.json"
  if not file.exists():
    raise UserError(
      f"--workdir={workdir}: holds no run (no config.json). Train one with python -m vqjax.main."
    )
  return complete(_replaced(files.read_json(file), _HERE, f"{files.path(workdir)}/"))


def spec_of(
  batch: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and types of a batch's arrays. What is no array (captions) has those that the run's task
  makes of it, as the config says, or is left out.
  """
  arrays = {k: v for k, v in batch.items() if isinstance(v, np.ndarray)}
  spec = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in arrays.items()}
  made = getattr(build.module("tasks", config["task"]), "made", None) if config else None
  if not made or len(arrays) == len(batch):
    return spec
  found = {k: v for k, v in made(config).items() if k in batch.keys() - arrays.keys()}
  return spec | {
    k: jax.ShapeDtypeStruct((len(batch[k]), *shape), dtype) for k, (shape, dtype) in found.items()
  }


def save_spec(spec: Mapping[str, jax.ShapeDtypeStruct], workdir: files.Path) -> None:
  files.write_json(
    workdir / "batch.json", {k: (v.shape[1:], str(v.dtype)) for k, v in spec.items()}
  )


def read_spec(workdir: files.Path) -> dict[str, jax.ShapeDtypeStruct] | None:
  """The batches that the run in `workdir` was built for, with one row, or None where it has not
  started.
  """
  file = files.path(workdir) / "batch.json"
  if not file.exists():
    return None
  return {
    k: jax.ShapeDtypeStruct((1, *shape), dtype)
    for k, (shape, dtype) in files.read_json(file).items()
  }


def check_same(saved: ConfigDict, new: ConfigDict, within: Sequence[str] = ("",)) -> None:
  """Raises UserError naming the first field in which a continued run would differ from what its
  checkpoints were made with.

  `within` holds the beginnings of the paths that matter.
  """
  old, now = flatten(complete(saved)), flatten(complete(new))
  # Outer fields and names first: another model differs in all the rest.
  for path in sorted(
    old.keys() | now.keys(), key=lambda path: (path.count("."), not path.endswith(".name"), path)
  ):
    if (
      old.get(path) != now.get(path)
      and path.startswith(tuple(within))
      and not any(path == f or path.startswith(f + ".") for f in _FREE)
    ):
      raise UserError(
        f"config.{path}: this workdir was trained with {old.get(path)!r}, the config says "
        f"{now.get(path)!r}. "
        "Restore the value, or start in a new --workdir."
      )


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
  """{"a.b": value} of a nested config."""
  flat = {}
  for key, value in config.items():
    path = f"{prefix}{key}"
    if _nested(value) and value:
      flat |= flatten(value, path + ".")
    else:
      flat[path] = _plain(value)
  return flat


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Parts `--config.X=Y` (or `--config.X Y`) from the other arguments."""
  rest, assignments, argv = [], [], list(argv)
  while argv:
    word = argv.pop(0)
    if not (m := re.match(r"--?config\.(.+)", word)):
      rest.append(word)
    elif "=" in m[1] or not argv:
      assignments.append(m[1])
    else:
      assignments.append(f"{m[1]}={argv.pop(0)}")
  return rest, assignments
