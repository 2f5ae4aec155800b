"""A run's configuration: read from a Python file, overridden on the command line, completed,
checked, saved, compared.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from ml_collections import ConfigDict

from vqjax import build, checks, config_file, fields, files, places
from vqjax.errors import UserError, near_miss


@dataclasses.dataclass(frozen=True)
class Common:
  """The top level of every config, with its defaults, beside the `Fields` of the run's task."""

  task: str = "autoencode"  # a file of vqjax/tasks
  seed: int = 0
  noise: Literal["auto", "threefry2x32", "rbg"] = "auto"  # of training; rbg is cheaper on TPUs
  batch_size: int = 64  # over all devices and processes
  total_steps: int = 10_000
  data: dict = fields.member("data.sources", {"name": "shapes"})
  ops: dict = fields.member("data.ops", {})
  optim: dict = fields.record("optim.Optimizer")  # for every player
  accumulate: int = 1  # steps whose gradients are averaged into one update
  ema_decay: float = 0.0  # moving average of the parameters; 0 keeps none
  mesh: dict = fields.record("sharding.Axes")
  sharding: Sequence = ((".*", "fsdp"),)  # vqjax.sharding.shardings
  init_from: str | None = fields.place(None)  # workdir whose parameters this run starts from
  evaluators: Sequence = ()  # measures of vqjax/evaluators; empty means the task's own
  log_every: int = 50
  save_every: int = 1_000  # also evaluates and draws previews
  eval_examples: int = 1_024  # held-out examples measured at each save; evaluate takes all
  keep: int = 2  # newest checkpoints kept, besides the best
  best: str = ""  # held-out figure of the best checkpoint, "-" before it where less is better
  preview: int = 8  # examples per preview; 0 draws none

  debug: dict = dataclasses.field(default_factory=dict)  # overrides applied by --config=FILE:debug

  def __post_init__(self) -> None:
    checks.within(self, "seed", at_least=0, below=2**32)
    checks.within(self, "ema_decay", at_least=0, below=1)
    checks.positive(
      self, "batch_size", "total_steps", "log_every", "save_every", "eval_examples", "accumulate",
      "keep",
    )  # fmt: skip
    checks.within(self, "preview", at_least=0)


# What may differ between a checkpoint and the run that continues it.
_FREE = (
  "total_steps", "log_every", "save_every", "eval_examples", "keep", "best", "preview", "mesh",
  "sharding", "evaluators", "debug", "init_from",
)  # fmt: skip


@functools.cache
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
    UserError: no such file, one that raises or returns no dict, or an argument that the config
      does not take.
  """
  file, _, arg = path.partition(":")
  values, takes_argument = config_file.values(path, file, None if arg in ("", "debug") else arg)
  config = editable(values)
  if not _nested(config.get("debug", {})):
    raise UserError(f"--config={path}: debug is {config.debug!r}, not a dict of fields.")
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
  """A config that `override` may add fields to. Raises UserError for a field without a name."""
  config = _config_dict(values)
  config.unlock()
  return config


def _config_dict(values: Mapping[str, Any], path: str = "config") -> ConfigDict:
  _check_names(values, path)
  return ConfigDict(dict(values))


def _check_names(value: Any, path: str) -> None:
  """Raises UserError for a key that no field can have."""
  if not _nested(value):
    return
  for key, inner in value.items():
    if not isinstance(key, str) or "." in key or not key:
      raise UserError(f"{path}: {key!r} is no name of a field; write a word without dots.")
    _check_names(inner, f"{path}.{key}")


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
    config[name] = _config_dict(value, name) if _nested(value) else value


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
    node[leaf] = _config_dict(value, f"config.{'.'.join(path)}") if _nested(value) else value


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
  the defaults become. Raises UserError with the near miss for an unknown field. What only a part
  made with the data's shapes can tell (a module's fields) is left to the task.
  """
  values = _plain(config)
  _check_names(values, "config")
  task = values.get("task", Common.task)
  cls = _fields_of(task)
  if foreign := sorted(known_fields() & values.keys() - {f.name for f in dataclasses.fields(cls)}):
    raise UserError(
      f"config.{foreign[0]}: is nothing that a run of task {task!r} reads; remove it, or set "
      "config.task."
    )
  values = build.complete(cls, values, "config")
  build.checked(cls, values, "config")
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


def places_of(config: Mapping[str, Any]) -> list[places.Place]:
  """The places that a config names."""
  return list(places.listed(_fields_of(config.get("task", Common.task)), config))


def relocated(config: ConfigDict, move: Callable[[places.Place], str]) -> ConfigDict:
  """A copy of the config with `move(place)` for each place."""
  config = config.copy_and_resolve_references()
  for place in places_of(config):
    *parents, leaf = place.field.split(".")
    functools.reduce(lambda node, key: node[key], parents, config)[leaf] = move(place)
  return config


def save(config: ConfigDict, workdir: files.Path) -> None:
  """Writes the config into `workdir`, with the places that it names absolute, and says where the
  workdir is, which tells how far from it they lie.
  """
  config = relocated(config, lambda place: places.absolute(place.value))
  own = {"workdir": places.absolute(str(workdir))}
  files.write_json(workdir / "config.json", own | _plain(config))


def of_run(workdir: files.Path, option: str = "--workdir") -> ConfigDict:
  """The resolved config of a run, with the places that it names where they lie now: as far from
  `workdir` as when it was saved, else where they were.

  Raises UserError, which begins with `option`, where `workdir` holds no run.
  """
  workdir = files.path(workdir)
  if not (workdir / "config.json").exists():
    raise UserError(
      f"{option}={workdir}: holds no run (no config.json). Train one with python -m vqjax.main."
    )
  config, begun_in = _saved(workdir)
  return relocated(config, lambda place: places.found(place.value, begun_in, workdir))


def _saved(workdir: files.Path) -> tuple[ConfigDict, str | None]:
  """(completed config as it lies in `workdir`, where that was when it was saved)."""
  values = files.read_json(workdir / "config.json")
  begun_in = values.pop("workdir", None)
  return complete(values), begun_in


def located(config: ConfigDict, workdir: files.Path) -> ConfigDict:
  """The completed config for the run in `workdir` with absolute places.

  A relative one that does not lie in the current folder is the one that the run began with, where
  it has the same spelling. Raises UserError where a run is not there without which this one is
  never opened.
  """
  known = {}
  if (workdir / "config.json").exists():
    known = {place.field: place.value for place in places_of(of_run(workdir))}

  def move(place: places.Place) -> str:
    here, then = places.absolute(place.value), known.get(place.field)
    if then and not places.exists(here) and places.same_spelling(place.value, then):
      return then
    return here

  config = relocated(config, move)
  for place in places_of(config):
    if place.needed and not places.exists(place.value, run=True):
      raise _missing(place, workdir)
  return config


def check_there(config: ConfigDict, workdir: files.Path, within: str) -> None:
  """Raises UserError where a place of config.<within> is not there."""
  for place in places_of(config):
    if f"{place.field}.".startswith(f"{within}.") and not places.exists(place.value):
      raise _missing(place, workdir)


def _missing(place: places.Place, workdir: files.Path) -> UserError:
  tried = (place.value,)
  if (workdir / "config.json").exists():
    config, begun_in = _saved(workdir)
    then = {p.field: p.value for p in places_of(config)}.get(place.field)
    if then == place.value:
      tried = places.candidates(then, begun_in, workdir)
  return places.missing(place, tried, workdir)


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

  `within` holds the beginnings of the paths that matter. Places may differ: what lies there is
  compared, by vqjax.lineage.
  """
  free = (*_FREE, *(place.field for config in (saved, new) for place in places_of(config)))
  old, now = flatten(complete(saved)), flatten(complete(new))
  # Outer fields and names first: another model differs in all the rest.
  for path in sorted(
    old.keys() | now.keys(), key=lambda path: (path.count("."), not path.endswith(".name"), path)
  ):
    if (
      old.get(path) != now.get(path)
      and path.startswith(tuple(within))
      and not any(path == f or path.startswith(f + ".") for f in free)
      and not re.fullmatch(r"optim(_\w+)?\.lr", path)
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
