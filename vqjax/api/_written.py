"""Which runs wrote coded files on this machine: notes beside the compilation cache."""

from __future__ import annotations

import contextlib
import pathlib

from vqjax import files, places
from vqjax.codec import _container
from vqjax.codec._container import Header
from vqjax.errors import UserError


def _notes() -> pathlib.Path | None:
  return pathlib.Path(cache) / "codec_runs.json" if (cache := files.cache()) else None


def remember(data: bytes, workdir: str) -> None:
  """Notes on this machine which run wrote a file like this one. Where nothing can be noted,
  nothing is.
  """
  if not (file := _notes()):
    return
  header, _ = _container.read(data, "data")
  with contextlib.suppress(UserError, OSError):
    files.write_json(file, files.notes(file) | {_key(header): workdir})


def remembered(data: bytes, name: str) -> str:
  """The workdir that `remember` noted. Raises UserError where it did not, or no run is there."""
  header, _ = _container.read(data, name)
  found = files.notes(file).get(_key(header)) if (file := _notes()) else None
  if found is None or not places.exists(found, run=True):
    raise UserError(
      f"{name}: was written with tokenizer {header.tokenizer.hex()}, and this machine does not "
      "know where that is; give --workdir, the run that wrote it."
    )
  return found


def _key(header: Header) -> str:
  return f"{header.tokenizer.hex()}-{header.mode}-{header.stored.hex()}"
