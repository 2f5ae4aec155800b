"""Priors of one tokenizer: python -m vqjax.bench --suite=priors --tokenizer=WORKDIR --codes=DIR
--latents=DIR --data=PATH [--seconds=180] [--draw guidance=2 steps=20,temperature=0.9 …]

Trains an autoregressive, a masked, two diffusion (one by replacement alone) and a
PixelCNN prior on a labelled data set's codes, and a flow, a Gaussian diffusion and mean flows on
the floats before their quantizer, or on those of a tokenizer without codes, for the same time each
(steps chosen from their measured speed). A small classifier, trained on the real images, judges 50
samples of every class: the share assigned to the class that was asked for, as a whole and class by
class, and the Fréchet distance of their features from those of the real held-out images. They are
drawn as they come and with each set of options of `--draw`, and stand beside as many of the real
ones and what the tokenizer makes of these. Prints nats per position over 1,000 held-out examples
(for masked and diffusion a bound, for floats a density), and the time per image to draw them.
"""

from __future__ import annotations

import ast
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vqjax import cli, config as configuration
from vqjax.errors import UserError
from vqjax.suites import _classifier

CODES = ("autoregressive", "masked", "diffusion", "replace", "pixelcnn")
FLOATS = ("flow", "ddpm", "meanflow")
PRIORS = CODES + FLOATS
EACH = 50  # samples of every class


def count_classes(dataset: Any) -> int:
  """One more than the largest label of either split. Raises UserError where there are none."""
  found = [dataset.labels(split) for split in ("train", "eval")]
  if any(labels is None for labels in found):
    raise UserError("--data: has no classes; give labelled images.")
  return 1 + max(int(labels.max()) for labels in found)


def prior_config(name: str, tokenizer: str, codes: str, classes: int) -> Any:
  """The repository's config of this prior, on these cached latents."""
  root = pathlib.Path(__file__).parents[2] / "configs"
  config = configuration.load(str(root / f"prior_fashion_mnist_{name}.py"))
  config.tokenizer, config.ops = tokenizer, {}
  config.data = dict(name="codes", path=codes)
  config.condition = dict(label=dict(classes=classes))
  return configuration.complete(config)


def fit(name: str, config: Any, workdir: pathlib.Path, seconds: float) -> None:
  """Trains for about `seconds`, compilation aside."""
  from vqjax import bench, data, train

  chosen = workdir / "steps.json"
  if not chosen.exists():
    batch = data.Dataset(config.data, config.ops).sample(config.batch_size, "train")
    each = min(bench.time_calls({name: bench.stepper(config, batch)}, 5, 4)[name])
    workdir.mkdir(parents=True, exist_ok=True)
    chosen.write_text(json.dumps({"seconds": seconds, "steps": max(100, int(seconds / each))}))
  before = json.loads(chosen.read_text())
  if before["seconds"] != seconds:
    raise UserError(
      f"--seconds={seconds:g}: {workdir} was trained for {before['seconds']:g}; give that, or "
      "another --workdir."
    )
  config.total_steps = before["steps"]
  config.save_every = config.total_steps
  train.train(config, workdir)


def options_of(text: str) -> dict[str, Any]:
  """{option: value} of "temperature=0.8,steps=20"."""
  try:
    return {key: ast.literal_eval(value) for key, value in (p.split("=") for p in text.split(","))}
  except (ValueError, SyntaxError):
    raise UserError(f"--draw: {text!r} is not like temperature=0.8,steps=20.") from None


class Judged(NamedTuple):
  """How pictures of every class fare.

  accuracy: share that the classifier assigns to their class.
  each: the same of every class among them.
  frechet: distance of their features from the real held-out images'.
  ms: milliseconds an image that drawing them took, compilation included.
  """

  accuracy: float
  each: dict[int, float]
  frechet: float
  ms: float = 0.0


def judged(images: Any, labels: np.ndarray, by: _classifier.Judge, ms: float = 0.0) -> Judged:
  """Pictures of these classes, as the classifier sees them."""
  found, features = map(np.asarray, by.predict(images))
  right = found == labels
  each = {int(label): float(right[labels == label].mean()) for label in np.unique(labels)}
  return Judged(float(right.mean()), each, _classifier.frechet(features, by.real), ms)


def drawn(model: Any, by: _classifier.Judge, classes: int, **options: Any) -> Judged:
  """Draws samples of every class and judges them."""
  labels = np.repeat(np.arange(classes), EACH)
  start = time.perf_counter()
  images = model.sample(len(labels), label=labels, batch_size=len(labels) // 4, **options)
  ms = 1e3 * (time.perf_counter() - start) / len(labels)
  return judged(images, labels, by, ms)


def held_out(dataset: Any, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """The first EACH held-out images of every class, or what there are, and their labels, in the
  order of the classes.
  """
  batches = [
    {key: batch[key][mask > 0] for key in ("image", "label")}
    for batch, mask in dataset.batches(256)
  ]
  images, labels = (np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
  chosen = np.concatenate([np.flatnonzero(labels == label)[:EACH] for label in range(classes)])
  return images[chosen], labels[chosen]


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--tokenizer", required=True)
  parser.add_argument("--codes", help="what python -m vqjax.tokenize wrote with that tokenizer")
  parser.add_argument("--latents", help="what it wrote with --latents=continuous")
  parser.add_argument("--data", required=True, help="the images that the codes are of")
  parser.add_argument("--workdir", type=cli.local, default=pathlib.Path("runs/priors"))
  parser.add_argument("--seconds", type=float, default=180)
  parser.add_argument("--only", nargs="*", choices=PRIORS)
  parser.add_argument(
    "--draw", nargs="*", default=["guidance=2"], metavar="OPTIONS", help="those of sampling"
  )
  args = parser.parse_args(argv)
  from vqjax import api, data, measure, writers

  ways = {text: options_of(text) for text in args.draw}
  folders = dict.fromkeys(CODES, args.codes) | dict.fromkeys(FLOATS, args.latents)
  chosen = args.only or [name for name in PRIORS if folders[name]]
  if not chosen or not all(folders[name] for name in chosen):
    raise UserError("--codes, --latents: the chosen priors read them; give what they need.")
  dataset = data.Dataset(data.resolve(args.data))
  classes = len(dataset.class_names) or count_classes(dataset)
  by = _classifier.train(dataset, classes)
  images, labels = held_out(dataset, classes)
  tokenizer = api.load(args.tokenizer)
  decoded = np.concatenate(
    [tokenizer.reconstruct(part) for part in np.split(images, range(64, len(images), 64))]
  )
  pictures = {
    "real, held out": judged(images, labels, by),
    "the same, decoded": judged(decoded, labels, by),
  }
  rows = []
  for name in chosen:
    config = prior_config(name, args.tokenizer, folders[name], classes)
    fit(name, config, args.workdir / name, args.seconds)
    loaded = api.open_run(args.workdir / name)
    model = api.Prior(loaded)
    found = {name: drawn(model, by, classes)}
    ms = drawn(model, by, classes, seed=1).ms  # without compilation
    found |= {f"{name}, {text}": drawn(model, by, classes, **ways[text]) for text in ways}
    # A diffusion takes its number of steps passes for each example.
    measured = measure.evaluate_split(loaded.run, loaded.dataset(), loaded.weights, limit=1000)
    nats = measured.get("nats_per_code", measured.get("nats_per_vector"))
    rows.append([name, str(config.total_steps), "" if nats is None else f"{nats:.3f}", f"{ms:.1f}"])
    saved = {"steps": config.total_steps, "nats": nats, "ms_per_image": ms}
    saved["pictures"] = {key: it._asdict() for key, it in found.items()}
    (args.workdir / name / "comparison.json").write_text(json.dumps(saved))
    pictures |= found
  print(f"the classifier is right on {by.accuracy:.1%} of the real held-out images")
  print(writers.table(["prior", "steps", "nats", "ms/image"], rows))
  names = dataset.class_names or [str(label) for label in range(classes)]
  columns = ["pictures", "class accuracy", "Fréchet", *names]
  print(writers.table(columns, [_row(name, found, classes) for name, found in pictures.items()]))


def _row(name: str, found: Judged, classes: int) -> list[str]:
  each = (f"{found.each[label]:.0%}" if label in found.each else "" for label in range(classes))
  return [name, f"{found.accuracy:.1%}", f"{found.frechet:.2f}", *each]
