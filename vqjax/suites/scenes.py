"""How well drawn scenes follow their captions: python -m vqjax.bench --suite=scenes
--prior=WORKDIR [--rank=WORKDIR] [--num=200] [--each=8] [--guidance=1.0]

Draws pictures for held-out captions of the source `shapes` and reads colours, shapes and positions
off their pixels, without a network (vqjax/suites/_reader.py). Prints the share of objects that are
there in the right colour and shape, of pictures with as many objects as the caption says, and of
captions with a relation whose picture has it (0 where an object is missing), of

  drawn                 the captions' own pictures: what the reading itself gets right
  tokenizer             the same, as the tokenizer shows them: what the prior's pictures can reach
  samples               the mean over --each samples a caption
  ranked                with --rank, the one of them that a contrastive run ranks first
  best by the reader    the one that fits best, by the reading: what a perfect ranking would reach

The scenes are those of the prior's tokenizer; where that was trained with `unseen`, no pair of
shape and colour that they have was ever trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vqjax import cli
from vqjax.errors import UserError
from vqjax.suites import _reader

HEADER = ["pictures", "objects", "count", "relation"]


def scenes(model: Any, num: int) -> tuple[np.ndarray, list[str]]:
  """(pictures uint8 [num, S, S, 3], their captions), held out, of the tokenizer's own data."""
  loaded = model.tokenizer.loaded
  data = loaded.config.data
  if data.name != "shapes" or data.max_objects > 2:
    raise UserError(
      f"--prior={model.workdir}: its tokenizer was not trained on drawn scenes of one or two "
      "objects (data.name=shapes, data.max_objects=2), which alone can be read."
    )
  batch = loaded.dataset().sample(num)
  return batch["image"], [str(text) for text in batch["text"]]


def compared(
  model: Any, ranker: Any, real: np.ndarray, captions: Sequence[str], each: int, **options: Any
) -> tuple[list[list[str]], np.ndarray]:
  """(rows of the table, samples uint8 [N, each, S, S, 3]), see the top of this file.

  Args:
    model: a vqjax.api.Prior.
    ranker: a vqjax.api.Ranker, or None.
    real: uint8 [N, S, S, 3], the captions' own pictures.
    **options: of `model.sample`.
  """
  read = lambda images, texts: _reader.judged(list(images), texts)
  shown = model.decode(model.encode(real))
  rows = [_row("drawn", read(real, captions)), _row("tokenizer", read(shown, captions))]
  every = [text for text in captions for _ in range(each)]
  samples = model.sample(len(every), text=every, **options)
  found = {k: v.reshape(-1, each) for k, v in read(samples, every).items()}
  rows.append(_row("samples", found))
  if ranker:
    scores = ranker.rank(samples, every)[1].reshape(-1, each)
    rows.append(_row("ranked", _chosen(found, scores.argmax(1))))
  fits = sum(np.nan_to_num(v, nan=1.0) for v in found.values())
  rows.append(_row("best by the reader", _chosen(found, fits.argmax(1))))
  return rows, samples.reshape(-1, each, *samples.shape[1:])


def _row(name: str, found: dict[str, np.ndarray]) -> list[str]:
  return [name, *(f"{np.nanmean(found[k]):.1%}" for k in HEADER[1:])]


def _chosen(found: dict[str, np.ndarray], index_N: np.ndarray) -> dict[str, np.ndarray]:
  """Of figures [N, each] those at one index for each caption."""
  return {k: v[np.arange(len(index_N)), index_N] for k, v in found.items()}


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--prior", required=True, type=cli.path)
  parser.add_argument("--rank", type=cli.path, help="a run that embeds images and captions")
  parser.add_argument("--num", type=cli.count, default=200, help="captions")
  parser.add_argument("--each", type=cli.count, default=8, help="samples a caption")
  parser.add_argument("--guidance", type=float, default=1.0)
  parser.add_argument("--temperature", type=float, default=1.0)
  parser.add_argument("--top_k", type=int)
  parser.add_argument("--output", type=cli.local, help="a page of captions and their samples")
  args = parser.parse_args(argv)
  from vqjax import api, pictures, writers

  model = api.load_prior(args.prior, "--prior")
  ranker = api.Ranker.open(args.rank, "--rank") if args.rank else None
  real, captions = scenes(model, args.num)
  options = {"guidance": args.guidance, "temperature": args.temperature, "top_k": args.top_k}
  rows, samples = compared(model, ranker, real, captions, args.each, **options)
  print(f"{len(captions)} held-out captions, {args.each} samples each, guidance {args.guidance:g}")
  print(writers.table(HEADER, rows))
  if args.output:
    pages = np.split(samples[:8], len(samples[:8]))
    sheet = pictures.sheet([page[0] for page in pages], captions=[[c] for c in captions[:8]])
    pictures.save(args.output, sheet)
