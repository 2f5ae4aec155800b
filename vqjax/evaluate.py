"""Evaluate: python -m vqjax.evaluate --workdir=runs/shapes [--data=PATH] [--limit=N]
[--batch_size=N]

Goes over the whole held-out split of the run's data (or of --data), prints a table and writes
evaluation.json into the workdir (of an exported run F.safetensors into the folder F), with the
protocol that makes the figures comparable. For a prior also positions.png (nats per position: black
where it is sure, white where it is not) and nearest.png (samples above the training images nearest
to them, to see memorising).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vqjax import cli, files
from vqjax.errors import UserError


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=cli.path)
  parser.add_argument(
    "--data", metavar="PATH", help="local data instead of what the run was trained on"
  )
  parser.add_argument("--limit", type=cli.count, help="only the first N held-out examples")
  parser.add_argument(
    "--batch_size", type=cli.count, help="over all devices; the training batch size by default"
  )
  parser.add_argument(
    "--coded",
    type=cli.at_least(0),
    default=128,
    help="held-out examples that the codec writes; 0 for none",
  )
  args = parser.parse_args(argv)
  import jax

  from vqjax import api, lineage, measure, packed, writers
  from vqjax.api import rates as api_rates

  loaded = api.open_run(args.workdir)
  config, run = loaded.config, loaded.run
  dataset = loaded.dataset(args.data)
  tokenizers = run.task.frozen.identity(loaded.weights.frozen)
  lineage.check_codes(tokenizers, dataset, config)
  figures = measure.evaluate_split(run, dataset, loaded.weights, args.limit, args.batch_size)
  count = dataset.size()
  result = {
    "figures": figures,
    "examples": min(count, args.limit or count),
    "data": dataset.config,
    "preprocessing": config.ops.to_dict(),
    "protocol": {name: m.protocol for name, m in run.measurement.made.items()},
    "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
  }
  if jax.process_index() != 0:
    return
  # A table is stored once: of the run's own data, when nobody is in a hurry.
  counting = args.data is None and args.limit is None
  rates = _rates(loaded, dataset, min(count, args.limit or count, args.coded), counting)
  result["rates"] = {name: rate._asdict() for name, rate in rates.items()}
  file = packed.results(args.workdir) / "evaluation.json"
  files.write_json(file, result)
  plain = [[k, f"{v:.5g}"] for k, v in figures.items() if "/" not in k]
  print(writers.table(["measure", "value"], plain))
  for name, protocol in result["protocol"].items():
    print(f"{name}: {protocol}")
  if config.task == "prior":
    if not figures:
      print(
        f"the scheme {config.scheme.name} has no likelihood; look at its samples, or set "
        "config.evaluators"
      )
    _pictures(api.Prior(loaded), dataset, figures)
  if rates:
    per = "bits per value of " + "x".join(map(str, run.task.info.size))
    heads = ["mode", "header, bytes", "codes, bytes", per, "bound"]
    print(f"codec: one archive of {args.coded} held-out examples at the most, of each example")
    print(writers.table(heads, api_rates.rows(rates, run.task.info.size)))
  print(f"{result['examples']} held-out examples of {dataset.config['name']}; written to {file}")


def _rates(loaded: Any, dataset: Any, limit: int, counting: bool) -> dict[str, Any]:
  """What the codec's modes make of held-out examples; {} for a run that it does not serve."""
  import jax

  from vqjax import api
  from vqjax.api import rates

  kinds = {"autoencode": api.Tokenizer, "prior": api.Prior}
  task = loaded.config.task
  levels = loaded.run.task.info.levels if task in kinds else ()
  if limit < 1 or not levels or levels[0].kind != "codes" or jax.process_count() > 1:
    return {}
  model = kinds[task](loaded)
  try:
    _ = model.codec
  except UserError as e:  # too many codes, or one level among several
    print(f"codec: {e}")
    return {}
  if counting and task == "autoencode":
    rates.count(model, dataset)
    model = kinds[task](loaded)
  return rates.measure(model, rates.examples(model, dataset, limit))


def _pictures(
  model: Any, dataset: Any, figures: dict[str, float], num: int = 8, of: int = 2048
) -> None:
  """Draws where a prior is unsure, and which training examples its samples are nearest to."""
  from vqjax import packed, pictures

  modules, workdir = model.modules, packed.results(model.workdir)
  nats = np.array([v for k, v in figures.items() if k.startswith("nats_at/")])
  if nats.size:
    heat, low, high = heat_map(plane(nats, modules.latent.shape))
    _write(workdir / "positions.png", pictures.sheet([heat[None]], enlarge=256))
    print(
      f"positions.png: nats per position of the grid, from {low:.2f} (black) over red and yellow "
      f"to {high:.2f} and more (white)"
    )
  coarser = model.config.condition.get("coarser")
  if modules.level < len(modules.tokenizer.levels) - 1 or (modules.level and not coarser.prior):
    return  # samples need the finer prior, or the coarser one
  batch = dataset.sample(num)
  samples = model.sample(num, **{k: batch[k] for k in model.levels.fields if k in batch})
  signal = model.info.signal
  show = signal.pictures  # distances too: numbers of classes have none
  shown = show(samples)
  nearest, seen = _nearest(shown, map(show, _training(model, dataset, of)))
  rows = [shown, nearest]
  parts = pictures.broken([num, num], signal.columns, together=True)
  _write(workdir / "nearest.png", pictures.sheet([rows[i][p] for i, p in parts], enlarge=128))
  print(
    f"nearest.png: above, samples; below, the nearest of {seen} training examples to each: copies "
    "would mean memorising"
  )


def _write(file: files.Path, sheet: np.ndarray) -> None:
  from vqjax import pictures

  files.write_bytes(file, pictures.encode(sheet))


def plane(values: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
  """Values of every position as [H, W]: the mean over codebooks where the grid is a plane or a
  row of planes, which stand beside each other; codebooks below each other where it is a line.
  """
  values = values.reshape(*grid, -1)
  if len(grid) == 1:
    return values.T
  values = values.mean(-1)
  return values if len(grid) == 2 else np.concatenate(list(values), axis=1)


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


def _nearest(samples: np.ndarray, training: Iterator[np.ndarray]) -> tuple[np.ndarray, int]:
  """(for each sample the training example of least squared difference, how many there were)."""
  nearest, least, seen = np.zeros_like(samples), np.full(len(samples), np.inf), 0
  for batch in training:
    seen += len(batch)
    for i, sample in enumerate(samples):
      distance = np.square(batch.astype(np.float32) - sample).reshape(len(batch), -1).sum(-1)
      if (d := distance.min(initial=np.inf)) < least[i]:
        nearest[i], least[i] = batch[distance.argmin()], d
  return nearest, seen


def _training(model: Any, dataset: Any, num: int) -> Iterator[np.ndarray]:
  """Batches of the first `num`: as the tokenizer shows them where only codes are at hand."""
  field, stage = model.info.signal.field, model.modules.tokenizer
  for batch, mask in dataset.batches(64, split="train", limit=num):
    levels = () if field in batch else stage.levels_of(None, batch)
    shown = batch[field] if field in batch else model.decode(stage.merge(levels))
    yield shown[mask > 0]


if __name__ == "__main__":
  cli.run(main)
