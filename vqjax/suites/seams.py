"""Whether a sliding window leaves seams: python -m vqjax.bench --suite=seams --prior=WORKDIR
[--num=8] [--temperature=1.0] [--output=FILE]

Draws pictures of twice the height and width that a prior was trained on, once by its window (arXiv
2012.09841, section 3.2) and once as four pictures side by side that know nothing of one another.
Label maps are held-out ones, mirrored to both sides, so that nothing in them ends at the middle.
Prints by how much pixels differ across

  middle     the two lines through the middle, over what they differ by across other borders between
             codes: 1 where nothing can be seen, more for a seam
  worst      the border between codes with the largest difference, over the mean of all of them
  reals      that of held-out pictures of the training size: what borders vary by without a window

--output is a page: maps, pictures by the window, four side by side. The held-out examples are those
of the tokenizer's data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import einops
import numpy as np

from vqjax import cli
from vqjax.errors import UserError


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
  height, width = maps.shape[1:]
  return np.pad(maps, ((0, 0), (0, height), (0, width)), mode="symmetric")


def drawn(
  model: Any, given: dict[str, Any], num: int, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
  """(pictures by the window, pictures of four side by side), uint8 [num, 2 H, 2 W, C].

  Args:
    model: a vqjax.api.Prior.
    given: conditions of the training size; a "layout" is mirrored.
    **options: of `model.sample`.
  """
  height, width = model.info.size
  wide, parts = given, [given] * 4
  if "layout" in given:
    wide = given | {"layout": mirrored(given["layout"])}
    quarters = einops.rearrange(wide["layout"], "b (i h) (j w) -> (i j) b h w", i=2, j=2)
    parts = [given | {"layout": quarter} for quarter in quarters]
  window = model.sample(num, height=2 * height, width=2 * width, **wide, **options)
  apart = [model.sample(num, seed=seed, **part, **options) for seed, part in enumerate(parts)]
  return window, einops.rearrange(apart, "(i j) b h w c -> b (i h) (j w) c", i=2)


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--prior", required=True, type=cli.path)
  parser.add_argument("--num", type=cli.count, default=8, help="pictures")
  parser.add_argument("--temperature", type=float, default=1.0)
  parser.add_argument("--output", type=cli.local)
  args = parser.parse_args(argv)
  from vqjax import api, pictures, writers
  from vqjax.nn import palette

  model = api.load_prior(args.prior, "--prior")
  if model.info.signal.field != "image":
    raise UserError(
      f"--prior={args.prior}: draws no pictures ({model.info.signal.field}); give one that does."
    )
  batch = model.tokenizer.loaded.dataset().sample(args.num)
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
