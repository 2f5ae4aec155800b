"""Whether a sliding window leaves seams: python -m vqjax.bench --suite=seams --prior=WORKDIR
[--num=8] [--temperature=1.0] [--output=FILE]

Draws pictures of twice the height and width that a prior was trained on, once by its window (arXiv
2012.09841, section 3.2) and once as four pictures side by side that know nothing of one another.
Label maps are held-out ones, mirrored to both sides, so that nothing in them ends at the middle.
Prints by how much pixels differ across

  middle     the two lines through the middle, over what they differ by across other borders between
             codes: 1 where nothing can be seen, more for a seam
  worst      the border between codes with the largest difference, likewise
  reals      that of held-out pictures of the training size: what borders vary by without a window

--output is a page: maps, pictures by the window, four side by side. The held-out examples are those
of the tokenizer's data.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vqjax import cli, files


def borders(images: np.ndarray, factors: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
  """Mean absolute difference of the pixels on both sides of every border between codes, from top to
  bottom `[h - 1]` and from left to right `[w - 1]`.

  Args:
    images: [B, H, W, C].
    factors: pixels of a code, (vertical, horizontal).
  """
  x = images.astype(np.float64)
  down, right = (np.abs(np.diff(x, axis=axis)) for axis in (1, 2))
  return (
    down.mean((0, 2, 3))[factors[0] - 1 :: factors[0]],
    right.mean((0, 1, 3))[factors[1] - 1 :: factors[1]],
  )


def middle(each: Sequence[np.ndarray]) -> float:
  """The middle ones of an odd number of borders, over the mean of the others of their direction;
  the mean of both directions.
  """
  ratios = [b[len(b) // 2] / np.delete(b, len(b) // 2).mean() for b in each]
  return float(np.mean(ratios))


def worst(each: Sequence[np.ndarray]) -> float:
  """The largest of all borders, over the mean of its direction."""
  return float(max(b.max() / b.mean() for b in each))


def mirrored(maps: np.ndarray) -> np.ndarray:
  """Maps [B, H, W] as [B, 2 H, 2 W]: beyond their right and lower edges they go back."""
  wide = np.concatenate([maps, maps[:, :, ::-1]], 2)
  return np.concatenate([wide, wide[:, ::-1]], 1)


def quarters(whole: np.ndarray) -> list[np.ndarray]:
  """[B, 2 H, 2 W, …] as four [B, H, W, …], in raster order."""
  height, width = (n // 2 for n in whole.shape[1:3])
  return [
    whole[:, top : top + height, left : left + width] for top in (0, height) for left in (0, width)
  ]


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
  """The inverse of `quarters`."""
  return np.concatenate([np.concatenate(parts[:2], 2), np.concatenate(parts[2:], 2)], 1)


def drawn(
  model: Any, given: dict[str, Any], num: int, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
  """(pictures by the window, pictures of four side by side), uint8 [num, 2 H, 2 W, C].

  Args:
    model: a vqjax.api.Prior.
    given: conditions of the training size; "layout" is mirrored.
    **options: of `model.sample`.
  """
  height, width = model.info.size
  wide = {k: mirrored(v) if k == "layout" else v for k, v in given.items()}
  window = model.sample(num, height=2 * height, width=2 * width, **wide, **options)
  apart = []
  for seed in range(4):
    part = {k: quarters(v)[seed] if k == "layout" else v for k, v in wide.items()}
    apart.append(model.sample(num, seed=seed, **part, **options))
  return window, joined(apart)


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--prior", required=True, type=files.path)
  parser.add_argument("--num", type=int, default=8, help="pictures")
  parser.add_argument("--temperature", type=float, default=1.0)
  parser.add_argument("--output", type=pathlib.Path)
  args = parser.parse_args(argv)
  from vqjax import api, pictures, writers
  from vqjax.nn import palette

  model = api.load_prior(args.prior, "--prior")
  batch = api.open_run(model.config.tokenizer).dataset().sample(args.num)
  given = {k: batch[k] for k in ("layout", "label") if k in model.levels.fields}
  window, apart = drawn(model, given, args.num, temperature=args.temperature)
  factors = model.info.factors
  rows = []
  for name, images in (("window", window), ("four side by side", apart)):
    each = borders(images, factors)
    rows.append([name, f"{middle(each):.2f}", f"{worst(each):.2f}"])
  rows.append(["reals", "", f"{worst(borders(batch['image'], factors)):.2f}"])
  print(writers.table([f"{args.num} pictures", "middle", "worst"], rows))
  if args.output:
    maps = [palette.colours(mirrored(given["layout"]))] if "layout" in given else []
    pictures.save(args.output, pictures.sheet([*maps, window, apart]))
