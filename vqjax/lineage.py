"""Which tokenizer belongs to a run: the frozen one it began with, and the one that made the codes
it reads.
"""

from __future__ import annotations

from typing import Any

import jax

from vqjax import data, files
from vqjax.errors import UserError


def check_frozen(run: Any, frozen: Any, workdir: files.Path, begin: bool = False) -> None:
  """Ties a run to the tokenizer that it began with: with `begin` its hash is written into the
  workdir, where there is none.

  Raises:
    UserError: another one lies at that place by now.
  """
  if run.task.identity is None:
    return
  now, file = run.task.identity(frozen), workdir / "frozen.json"
  then = files.read_json(file) if file.exists() else now
  for field, value in now.items():
    if then.get(field) != value:
      raise UserError(
        f"config.{field}: its weights have changed since {workdir} began ({then.get(field)} then, {value} now); "
        "bring them back, or start in a new --workdir."
      )
  if begin and jax.process_index() == 0 and not file.exists():
    files.write_json(file, now)


def check_codes(run: Any, frozen: Any) -> None:
  """Raises UserError where the run's data are codes that another tokenizer made."""
  if run.task.identity is None or (made_by := data.made_by(run.config["data"])) is None:
    return
  if made_by != (own := run.task.identity(frozen)["tokenizer"]):
    path, tokenizer = run.config["data"]["path"], run.config["tokenizer"]
    raise UserError(
      f"config.data.path: the codes in {path} were made by tokenizer {made_by}, config.tokenizer={tokenizer} is {own}; "
      "write them again with python -m vqjax.tokenize."
    )
