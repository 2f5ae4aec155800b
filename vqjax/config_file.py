"""Runs the Python file of a config: every mistake in it is one line with file and line number."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import inspect
import pathlib
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from vqjax.errors import UserError


def values(path: str, file: str, argument: str | None) -> tuple[Mapping[str, Any], bool]:
  """(what `get_config` of `file` returns, whether it takes an argument); `path` is what the user
  wrote.

  Raises UserError for a file that is missing, defines no `get_config`, or raises.
  """
  where = f"--config={path}"
  if not pathlib.Path(file).is_file():
    kind = "a folder" if pathlib.Path(file).is_dir() else None
    what = f"{file} is {kind}, not a Python file" if kind and file else f"there is no file {file!r}"
    raise UserError(f"{where}: {what}. The configs that come with vqjax are in configs/.")
  root = str(pathlib.Path(file).resolve().parents[1])
  if root not in sys.path:
    # So that configs/a.py may import from configs, whatever the current folder.
    sys.path.append(root)
  get_config = getattr(_guarded(where, file, lambda: _imported(file)), "get_config", None)
  if not callable(get_config):
    raise UserError(f"{where}: {file} defines no get_config().")
  takes_argument = bool(inspect.signature(get_config).parameters)
  given = (argument,) if takes_argument else ()
  found = _guarded(where, file, lambda: get_config(*given))
  if not isinstance(found, (Mapping, ConfigDict)):
    raise UserError(
      f"{where}: get_config() of {file} returns a {type(found).__name__}, not a dict of fields."
    )
  return found, takes_argument


def _imported(file: str) -> Any:
  # The loader is named: the suffix may be another than .py.
  loader = importlib.machinery.SourceFileLoader("vqjax_config", file)
  module = importlib.util.module_from_spec(importlib.util.spec_from_loader("vqjax_config", loader))
  loader.exec_module(module)
  return module


def _guarded(where: str, file: str, run: Callable[[], Any]) -> Any:
  """run(), with whatever the file raises as one line."""
  try:
    return run()
  except UserError:
    raise
  except Exception as e:
    said = e.msg if isinstance(e, SyntaxError) else str(e)
    said = (said.strip().splitlines() or [""])[0]
    line = f"{_place(e, file)}: {type(e).__name__}"
    raise UserError(f"{where}: {line}{': ' + said if said else ''}.") from None


def _place(error: Exception, file: str) -> str:
  """ "FILE, line N" where it went wrong: in the config's file rather than in what it called."""
  if isinstance(error, SyntaxError) and error.filename:
    return f"{error.filename}, line {error.lineno}"
  frames = traceback.extract_tb(error.__traceback__)
  own = [f for f in frames if f.filename == file]
  return f"{file}, line {own[-1].lineno}" if own else file
