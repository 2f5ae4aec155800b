"""Reconstruct: python -m vqjax.reconstruct --workdir=runs/shapes --input=FILE_OR_FOLDER --output=DIR

Encodes and decodes pictures of any size: a side that is not a multiple of the model's factor is padded by its own edge and cut
again. Writes each reconstruction under its own name as PNG. A prior's workdir stands for its tokenizer's.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from vqjax import cli
from vqjax.errors import UserError


def pad_to_factor(image: np.ndarray, factor: int) -> np.ndarray:
  """`[H, W, C]` with its last row and column repeated until both sides are multiples of `factor`."""
  height, width = image.shape[:2]
  return np.pad(image, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument("--input", required=True, type=pathlib.Path, help="a picture, or a folder of them")
  parser.add_argument("--output", required=True, type=pathlib.Path, help="folder for the reconstructions")
  args = parser.parse_args(argv)
  from vqjax import api, writers
  from vqjax.data import ops

  files = ops.image_files(args.input) if args.input.is_dir() else [args.input]
  if not files or not files[0].exists():
    raise UserError(f"--input={args.input}: no picture found there.")
  base = args.input if args.input.is_dir() else args.input.parent
  if args.output.resolve() == base.resolve():
    raise UserError(f"--output={args.output}: holds the input, which would be overwritten; choose another folder.")
  model = api.load(args.workdir)
  if model.config.task == "prior":
    model = api.load(model.config.tokenizer)
  channels, factor = model.channels, model.run.task.factor
  for file in files:
    image = ops.read_image(file, channels)
    height, width = image.shape[:2]
    recon = model.reconstruct(pad_to_factor(image, factor)[None])[0, :height, :width]
    writers.save_image((args.output / file.relative_to(base)).with_suffix(".png"), recon)
  print(f"{len(files)} reconstruction(s) in {args.output}")


if __name__ == "__main__":
  cli.run(main)
