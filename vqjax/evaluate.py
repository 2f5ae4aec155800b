"""Evaluate: python -m vqjax.evaluate --workdir=runs/shapes [--data=PATH] [--limit=N] [--batch_size=N]

Goes over the whole held-out split of the run's data (or of --data), prints a table and writes evaluation.json into the
workdir, with the protocol that makes the figures comparable. For a prior also positions.png (nats per position, white is the
most) and nearest.png (samples above the training images nearest to them, to see memorising).
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vqjax import cli


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument("--data", metavar="PATH", help="local data instead of what the run was trained on")
  parser.add_argument("--limit", type=int, help="only the first N held-out examples")
  parser.add_argument("--batch_size", type=int, help="over all devices; the training batch size by default")
  args = parser.parse_args(argv)
  import jax

  from vqjax import api, data, train, writers

  model = api.load(args.workdir)
  if args.data:
    model.config.data = data.resolve(args.data)
  figures = train.evaluate_split(model.run, model.state, args.limit, args.batch_size)
  count = data.num_examples(model.config.data, "eval")
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
    print(writers.table(["measure", "value"], [[k, f"{v:.5g}"] for k, v in figures.items() if "/" not in k]))
    for name, protocol in result["protocol"].items():
      print(f"{name}: {protocol}")
    if model.config.task == "prior":
      _pictures(model, figures, args.workdir)
    print(f"{result['examples']} held-out examples of {model.config.data.name}; written to {args.workdir / 'evaluation.json'}")


def _pictures(model: Any, figures: dict[str, float], workdir: pathlib.Path, num: int = 8, of: int = 2048) -> None:
  from vqjax import writers

  codes = model.sampler.prior.codes
  nats = np.array([v for k, v in figures.items() if k.startswith("nats_at/")])
  if nats.size:
    heat = nats.reshape(*codes.shape, -1).mean(-1)
    writers.save_image(workdir / "positions.png", writers.grid([(255 * heat / heat.max()).astype(np.uint8)[None, ..., None]], enlarge=256))
  condition = model.sampler.condition
  if condition.layouts or condition.level < model.sampler.prior.tokenizer.levels - 1:
    return  # samples need a map, or the finer prior
  samples = model.sample(num, label=np.arange(num) % condition.labels if condition.labels else None)
  real = _training_images(model, of)
  distance = [np.square(real.astype(np.float32) - s.astype(np.float32)).reshape(len(real), -1).mean(-1) for s in samples]
  writers.save_image(workdir / "nearest.png", writers.grid([samples, real[[d.argmin() for d in distance]]]))


def _training_images(model: Any, num: int) -> np.ndarray:
  """uint8 `[<= num, H, W, C]`: as the tokenizer shows them where only codes are at hand."""
  from vqjax import data

  images = []
  for batch, mask in data.eval_batches(model.config.data, model.config.ops, 64, split="train", limit=num):
    shown = batch["image"] if "image" in batch else model.decode(batch["ids"])
    images.append(shown[mask > 0])
  return np.concatenate(images)


if __name__ == "__main__":
  cli.run(main)
