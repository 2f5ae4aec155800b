"""Evaluate: python -m vqjax.evaluate --workdir=runs/shapes [--data=PATH] [--limit=N]
[--batch_size=N]

Goes over the whole held-out split of the run's data (or of --data), prints a table and writes
evaluation.json into the workdir, with the protocol that makes the figures comparable. For a prior
also positions.png (nats per position: black where it is sure, white where it is not) and
nearest.png (samples above the training images nearest to them, to see memorising).
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vqjax import cli
from vqjax.errors import UserError


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument(
    "--data", metavar="PATH", help="local data instead of what the run was trained on"
  )
  parser.add_argument("--limit", type=int, help="only the first N held-out examples")
  parser.add_argument(
    "--batch_size", type=int, help="over all devices; the training batch size by default"
  )
  args = parser.parse_args(argv)
  for name in ("limit", "batch_size"):
    if (value := getattr(args, name)) is not None and value < 1:
      raise UserError(f"--{name}={value}: give 1 or more, or leave it out.")
  import jax

  from vqjax import api, data, lineage, train, writers

  model = api.load(args.workdir)
  if args.data is not None:
    model.config.data = data.resolve(args.data)
  lineage.check_codes(model.run, model.state[2])
  figures = train.evaluate_split(model.run, model.state, args.limit, args.batch_size)
  count = data.Dataset(model.config.data).size()
  result = {
    "figures": figures,
    "examples": min(count, args.limit or count),
    "data": model.config.data.to_dict(),
    "preprocessing": model.config.ops.to_dict(),
    "protocol": {name: m.protocol for name, m in model.run.measurement.made.items()},
    "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
  }
  if jax.process_index() == 0:
    (args.workdir / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    print(
      writers.table(
        ["measure", "value"], [[k, f"{v:.5g}"] for k, v in figures.items() if "/" not in k]
      )
    )
    for name, protocol in result["protocol"].items():
      print(f"{name}: {protocol}")
    if not figures:
      print(
        f"the scheme {model.config.scheme.name} has no likelihood; look at its samples, or set config.evaluators"
      )
    if model.config.task == "prior":
      _pictures(model, figures, args.workdir)
    print(
      f"{result['examples']} held-out examples of {model.config.data.name}; written to {args.workdir / 'evaluation.json'}"
    )


def _pictures(
  model: Any, figures: dict[str, float], workdir: pathlib.Path, num: int = 8, of: int = 2048
) -> None:
  from vqjax import pictures

  codes, condition = model.sampler.prior.codes, model.sampler.condition
  nats = np.array([v for k, v in figures.items() if k.startswith("nats_at/")])
  if nats.size:
    sheet, low, high = heat_map(nats.reshape(*codes.shape, -1).mean(-1))
    pictures.save(workdir / "positions.png", pictures.grid([sheet[None]], enlarge=256))
    print(
      f"positions.png: nats per position of the grid, from {low:.2f} (black) over red and yellow to {high:.2f} and more (white)"
    )
  finest = condition.level == model.sampler.prior.tokenizer.levels - 1
  if not finest or (condition.level and not condition.coarse):
    return  # samples need the finer prior, or the coarser one
  _, conditions = model.held_out(num)
  samples = model.sample(num, **conditions)
  nearest, seen = _nearest(model, samples, of)
  pictures.save(workdir / "nearest.png", pictures.grid([samples, nearest], enlarge=128))
  print(
    f"nearest.png: above, samples; below, the nearest of {seen} training images to each: copies would mean memorising"
  )


def heat_map(values_HW: np.ndarray) -> tuple[np.ndarray, float, float]:
  """(uint8 `[H, W, 3]` from black over red and yellow to white, the value of black, the value of
  white).

  The most surprising positions are all white: the first code, which nothing announces, would leave
    no contrast for the rest.
  """
  low, high = np.percentile(values_HW, [0, 97])
  share = np.clip((values_HW - low) / max(high - low, 1e-9), 0, 1)
  return (
    np.stack([np.round(255 * np.clip(3 * share - i, 0, 1)) for i in range(3)], -1).astype(np.uint8),
    low,
    high,
  )


def _nearest(model: Any, samples: np.ndarray, of: int) -> tuple[np.ndarray, int]:
  """(for each sample the nearest of the first `of` training images by squared difference of pixels,
  how many there were).
  """
  nearest, least, seen = np.zeros_like(samples), np.full(len(samples), np.inf), 0
  for images in _training_images(model, of):
    seen += len(images)
    for i, sample in enumerate(samples):
      distance = np.square(images.astype(np.float32) - sample).reshape(len(images), -1).sum(-1)
      if (d := distance.min(initial=np.inf)) < least[i]:
        nearest[i], least[i] = images[distance.argmin()], d
  return nearest, seen


def _training_images(model: Any, num: int) -> Iterator[np.ndarray]:
  """Batches uint8 `[B, H, W, C]` of the first `num`: as the tokenizer shows them where only codes
  are at hand.
  """
  from vqjax import data

  tokenizer = model.sampler.prior.tokenizer
  for batch, mask in data.Dataset(model.config.data, model.config.ops).batches(
    64, split="train", limit=num
  ):
    if "image" in batch:
      shown = batch["image"]
    else:
      levels = tokenizer.levels_of(None, batch)
      shown = model.decode(levels if tokenizer.levels > 1 else levels[0])
    yield shown[mask > 0]


if __name__ == "__main__":
  cli.run(main)
