"""Reconstruct: python -m vqjax.reconstruct --workdir=RUN --input=FILE_OR_FOLDER --output=DIR

Encodes and decodes what the tokenizer learned, of any size: a side that is not a multiple of the
model's factor is padded by its own edge and cut again. Writes each reconstruction under its own
name, pictures as PNG, sounds in their own format where that can be written; where two files would
have one name, a.png and a.jpg, as a.png.png and a.jpg.png. A prior's workdir stands for its
tokenizer's.
"""

from __future__ import annotations

import collections
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vqjax import cli, files
from vqjax.errors import UserError


def names(
  files: Sequence[pathlib.Path], suffix: Callable[[pathlib.Path], str]
) -> list[pathlib.Path]:
  """Names ending in the suffix, one for each file: with its old suffix before where another file
  would else have the same.
  """
  short = [f.with_suffix(suffix(f)) for f in files]
  full = [f.with_name(f.name + suffix(f)) for f in files]
  taken = collections.Counter([*short, *full])
  return [s if taken[s] == 1 else f for s, f in zip(short, full)]


def inputs(place: pathlib.Path, suffixes: tuple[str, ...], noun: str) -> list[pathlib.Path]:
  """The file at `place`, or those below it with these suffixes, each a `noun`. Raises UserError
  for none.
  """
  from vqjax import pictures

  listed = pictures.list_files(place) if place.is_dir() else []
  found = [place / name for name in listed if name.lower().endswith(suffixes)]
  found = found if place.is_dir() or not place.exists() else [place]
  if not found:
    kinds = ", ".join(suffixes)
    raise UserError(f"--input={place}: no {noun} found there ({kinds}).")
  return found


def check_input(place: pathlib.Path) -> None:
  """Raises UserError for nothing, before anything is loaded."""
  if not place.exists():
    raise UserError(f"--input={place}: nothing is there; give a file or a folder.")


def opened(workdir: files.Path) -> Any:
  """The Tokenizer or Prior in a workdir. Raises UserError for a run that decodes nothing."""
  from vqjax import api

  model = api.load(workdir)
  if isinstance(model, api.Ranker):
    raise UserError(f"--workdir={workdir}: embeds images and captions, and decodes nothing.")
  return model


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=cli.path)
  parser.add_argument("--input", required=True, type=cli.local, help="a file, or a folder")
  parser.add_argument("--output", required=True, type=cli.local, help="a folder")
  args = parser.parse_args(argv)
  check_input(args.input)
  base = args.input if args.input.is_dir() else args.input.parent
  if args.output.resolve() == base.resolve():
    raise UserError(
      f"--output={args.output}: holds the input, which would be overwritten; choose another folder."
    )
  from vqjax import tiles

  model = opened(args.workdir)
  info = model.info
  signal, axes = info.signal, info.signal.axes
  if args.output.suffix.lower() in signal.suffixes and not args.output.is_dir():
    raise UserError(f"--output={args.output}: names a file; give a folder.")
  cli.output(args.output, folder=True)
  found, failed = inputs(args.input, signal.suffixes, signal.noun), []
  outputs = names([f.relative_to(base) for f in found], signal.suffix_for)
  for file, name in zip(found, outputs):
    try:
      value = signal.open(file, info.shape)
    except UserError as e:
      failed.append(e)
      print(f"left out: {e}", file=sys.stderr)
      continue
    recon = model.reconstruct(tiles.padded(value, info.factors, info.first)[None])[0]
    signal.save(args.output / name, recon[tuple(slice(n) for n in value.shape[:axes])])
  if len(failed) == len(found):
    raise failed[0]
  left_out = f", {len(failed)} left out" if failed else ""
  print(f"{len(found) - len(failed)} reconstruction(s) in {args.output}{left_out}")


if __name__ == "__main__":
  cli.run(main)
