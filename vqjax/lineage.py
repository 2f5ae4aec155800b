"""Which tokenizer belongs to a run: the frozen one it began with, and the one that made the codes
it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from vqjax import files
from vqjax.errors import UserError


def check_frozen(now: Mapping[str, str], workdir: files.Path, begin: bool = False) -> None:
  """Ties a run to the tokenizers that it began with: with `begin` their hashes `now`, by the
  config's fields, are written into the workdir where there are none.

  Raises:
    UserError: another one lies at that place by now.
  """
  if not now:
    return
  file = workdir / "frozen.json"
  then = files.read_json(file) if file.exists() else now
  for field, value in now.items():
    if then.get(field) != value:
      raise UserError(
        f"config.{field}: has changed since {workdir} began ({then.get(field)} then, {value} now); "
        "bring it back, or start in a new --workdir."
      )
  if begin and jax.process_index() == 0 and not file.exists():
    files.write_json(file, dict(now))


def check_codes(now: Mapping[str, str], made_by: str | None, config: Mapping) -> None:
  """Raises UserError where the run's data are codes that another tokenizer made."""
  if made_by is None or made_by == (own := now.get("tokenizer")):
    return
  path, tokenizer = config["data"]["path"], config["tokenizer"]
  raise UserError(
    f"config.data.path: the codes in {path} were made by tokenizer {made_by}, "
    f"config.tokenizer={tokenizer} is {own}; write them again with python -m vqjax.tokenize."
  )


def check_data(dataset: Any, workdir: files.Path) -> None:
  """Ties a run to the data that it began with, wherever they lie by now.

  Raises:
    UserError: others: another number of examples, other sizes, or other content of a few of them.
  """
  now, file = dataset.fingerprint(), workdir / "data.json"
  then = files.read_json(file) if file.exists() else now
  for name in sorted(now.keys() | then.keys()):
    if then.get(name) != now.get(name):
      raise UserError(
        f"config.data: has changed since {workdir} began: {name} was {then.get(name)}, is "
        f"{now.get(name)}; bring the data back, or start in a new --workdir."
      )
  if jax.process_index() == 0 and not file.exists():
    files.write_json(file, now)
