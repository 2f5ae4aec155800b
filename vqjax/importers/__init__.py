"""Importers: published weights as runs of ours, and back. One file per published format.

The first line of a file's docstring says what the format is. The file defines

    FILES: int                how many checkpoint files it takes, in any order
    WHERE: str                one line on where to get them
    OPTIONS: dict[str, Any]   what the tensors do not tell: defaults, or types where none is

and either, for a model, the runs, those first that others name in their configs,

    read(states, options, into) -> Sequence[Imported]

with, where weights go back, the tensors of the one file that `read` takes,

    write(config, params, stats) -> state

and, where the format is a folder, beside or instead of that file,

    write_folder(config, params, stats, folder) -> None

where files of settings are published beside the tensors,

    described(settings) -> options       those that `settings`, {name: value}, tell; what a user
                                         gives goes before them

or, for weights that runs take from a file of their own,

    write_file(states, options, path) -> None

- `states` are the files' tensors, {name: array} each, as `_torch_file.load` gives them.
- `options` is complete, see `complete`.
- `into` is the workdir that the runs will be in; a config names other runs' workdirs by it.
- `config`, `params` and `stats` of `write` are as in `Imported`; the config may be complete.
- A size is inferred from the tensors' shapes. A tensor that is missing, extra or misshapen raises a
  `UserError` that names it, and so does a run that `write` cannot express.

`python -m vqjax.convert` lists the files of this folder and offers what they define.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vqjax.errors import UserError, near_miss


@dataclasses.dataclass(frozen=True)
class Imported:
  """A run as it stands before its first step.

  Attributes:
    config: what differs from the defaults, as a config file would say it.
    spec: {field: (shape without the batch axis, dtype)} of its batches.
    params: {"model": tree}, with "disc" where the config has one; every leaf in numpy.
    stats: {"model": {collection: tree}}, likewise.
    folder: where in the workdir the run is; "" for the workdir itself.
  """

  config: dict[str, Any]
  spec: dict[str, tuple[tuple[int, ...], Any]]
  params: dict[str, Any]
  stats: dict[str, Any]
  folder: str = ""


def complete(options: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
  """Values for all options of a format; strings are read as the type that the option has.

  Args:
    options: what the user gave.
    known: the format's OPTIONS.

  Raises:
    UserError: an unknown name, a value that does not read as its type, or one that has to be given.
  """
  result = dict(known)
  for name, value in options.items():
    if name not in known:
      remedy = near_miss(name, known) if known else " This format has none."
      raise UserError(f"--option {name}: unknown.{remedy}")
    result[name] = _read(name, value, known[name])
  for name, value in result.items():
    if isinstance(value, type):
      raise UserError(f"--option {name}: the tensors do not tell it; give --option {name}=VALUE.")
  return result


def _read(name: str, value: Any, default: Any) -> Any:
  kind = default if isinstance(default, type) else type(default)
  try:
    if kind is bool and not isinstance(value, bool):
      return {"true": True, "false": False}[str(value).lower()]
    return kind(value)
  except (KeyError, ValueError, TypeError):
    example = "" if default is kind else f"; give for example {default}"
    raise UserError(f"--option {name}: {value!r} is no {kind.__name__}{example}.") from None
