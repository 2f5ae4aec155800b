"""Reconstruct: python -m vqjax.reconstruct --workdir=runs/shapes --input=FILE_OR_FOLDER
--output=DIR

Encodes and decodes pictures of any size: a side that is not a multiple of the model's factor is
  padded by its own edge and cut
again. Writes each reconstruction under its own name as PNG; where two files differ by their suffix
alone, a.png and a.jpg, as a.png.png and a.jpg.png. A prior's workdir stands for its tokenizer's.
"""

from __future__ import annotations

import collections
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from vqjax import cli
from vqjax.errors import UserError


def pad_to_factor(image: np.ndarray, factor: int) -> np.ndarray:
  """`[H, W, C]` with its last row and column repeated until both sides are multiples of `factor`."""
  height, width = image.shape[:2]
  return np.pad(image, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")


def names(files: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """Names ending in .png, one for each file: with its old suffix before where another file would
  else have the same.
  """
  short, full = (
    [f.with_suffix(".png") for f in files],
    [f.with_name(f.name + ".png") for f in files],
  )
  taken = collections.Counter([*short, *full])
  return [s if taken[s] == 1 else f for s, f in zip(short, full)]


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument(
    "--input", required=True, type=pathlib.Path, help="a picture, or a folder of them"
  )
  parser.add_argument(
    "--output", required=True, type=pathlib.Path, help="folder for the reconstructions"
  )
  args = parser.parse_args(argv)
  from vqjax import api, pictures

  files = pictures.image_files(args.input) if args.input.is_dir() else [args.input]
  if not files or not files[0].exists():
    raise UserError(f"--input={args.input}: no picture found there.")
  base = args.input if args.input.is_dir() else args.input.parent
  if args.output.resolve() == base.resolve():
    raise UserError(
      f"--output={args.output}: holds the input, which would be overwritten; choose another folder."
    )
  model = api.load(args.workdir)
  if model.config.task == "prior":
    model = api.load(model.config.tokenizer)
  channels, factor = model.channels, model.run.task.factor
  failed = []
  for file, name in zip(files, names([f.relative_to(base) for f in files])):
    try:
      image = pictures.read(file, channels)
    except UserError as e:
      failed.append(e)
      print(f"left out: {e}", file=sys.stderr)
      continue
    height, width = image.shape[:2]
    recon = model.reconstruct(pad_to_factor(image, factor)[None])[0, :height, :width]
    pictures.save(args.output / name, recon)
  if len(failed) == len(files):
    raise failed[0]
  print(
    f"{len(files) - len(failed)} reconstruction(s) in {args.output}"
    + (f", {len(failed)} left out" if failed else "")
  )


if __name__ == "__main__":
  cli.run(main)
