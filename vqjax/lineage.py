"""Which tokenizer belongs to a run: the frozen one it began with, the one that made the codes it
reads; and which runs belong to a tokenizer.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax

from vqjax import files, places
from vqjax.errors import UserError

log = logging.getLogger("vqjax")
_NOTES = "dependents.json"  # in a tokenizer's workdir


def check_frozen(
  now: Mapping[str, str], config: Any, workdir: files.Path, begin: bool = False
) -> None:
  """Ties a run to the tokenizers that it began with: with `begin` their hashes `now`, by the
  config's fields, are written into the workdir where there are none.

  Raises:
    UserError: another one lies at that place by now.
  """
  if not now:
    return
  file = workdir / "frozen.json"
  kept = file.exists() and (not begin or bool(files.saved_steps(workdir)))
  then = files.read_json(file) if kept else now
  for field, value in now.items():
    if then.get(field) != value:
      raise UserError(
        f"config.{field}: has changed since {workdir} began ({then.get(field)} then, {value} in "
        f"{_value(config, field)} now); bring it back, or start in a new --workdir."
      )
  if begin and jax.process_index() == 0 and not kept:
    files.write_json(file, dict(now))


def leave_notes(now: Mapping[str, str], config: Any, workdir: files.Path) -> None:
  """Notes in the workdirs of the tokenizers `now` (by the config's fields) that the run in
  `workdir` depends on them. One that cannot be written stays without.
  """
  for field in now:
    if not isinstance(place := _value(config, field), str):
      continue  # statistics, which are no run
    tokenizer = files.path(place)
    with contextlib.suppress(UserError, OSError):
      here = {*dependents(tokenizer), places.absolute(str(workdir))}
      begun_in = places.absolute(str(tokenizer))
      files.write_json(tokenizer / _NOTES, {"workdir": begun_in, "dependents": sorted(here)})


def dependents(workdir: files.Path) -> list[str]:
  """The workdirs of the priors that began with the tokenizer in `workdir` and are still there."""
  if not (file := workdir / _NOTES).exists():
    return []
  notes = files.read_json(file)
  found = (places.found(run, notes["workdir"], workdir) for run in notes["dependents"])
  return [run for run in found if places.exists(run, run=True)]


def warn_dependents(workdir: files.Path) -> None:
  """Warns that to train the run in `workdir` changes what others depend on."""
  if runs := dependents(workdir):
    log.warning(
      "%s: training changes its codes, and %s cannot be used with others; to keep both, start "
      "a new --workdir with --config.init_from=%s",
      *(workdir, ", ".join(runs), workdir),
    )


def _value(config: Any, field: str) -> Any:
  return functools.reduce(lambda node, key: node[key], field.split("."), config)


def check_codes(now: Mapping[str, str], dataset: Any, config: Mapping) -> None:
  """Raises UserError where a run's data are codes that another tokenizer made."""
  made_by = dataset.made_by
  own = now.get("tokenizer")  # a tokenizer has none, and says itself that it cannot read codes
  if own is None or made_by in (None, own):
    return
  path, tokenizer = dataset.config["path"], config["tokenizer"]
  raise UserError(
    f"config.data.path: the latents in {path} were made by tokenizer {made_by}, "
    f"config.tokenizer={tokenizer} is {own}; write them again with python -m vqjax.tokenize."
  )


def check_data(dataset: Any, workdir: files.Path) -> None:
  """Ties a run to the data that it began with, wherever they lie by now.

  Raises:
    UserError: others: another number of examples, other sizes, or other content of a few of them.
  """
  now, file = dataset.fingerprint(), workdir / "data.json"
  kept = file.exists() and any(files.saved_steps(workdir))
  then = files.read_json(file) if kept else now
  for name in sorted(now.keys() | then.keys()):
    if then.get(name) != now.get(name):
      raise UserError(
        f"config.data: has changed since {workdir} began: {name} was {then.get(name)}, is "
        f"{now.get(name)}; bring the data back, or start in a new --workdir "
        f"with --config.init_from={workdir}."
      )
  if jax.process_index() == 0 and not kept:
    files.write_json(file, now)
