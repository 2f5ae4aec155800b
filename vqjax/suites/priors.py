"""Priors of one tokenizer: python -m vqjax.bench --suite=priors --tokenizer=WORKDIR --codes=DIR
--latents=DIR --data=PATH [--seconds=180] [--draw temperature=0.8 steps=20,temperature=0.9 …]

Trains an autoregressive, a masked, two diffusion (one by replacement alone) and a
PixelCNN prior on a labelled data set's codes, and a flow, a Gaussian diffusion and mean flows on
the floats before their quantizer, or on those of a tokenizer without codes, for the same time each
(steps chosen from their measured speed). A small classifier, trained on the real images, judges 50
samples of every class: the share assigned to the class that was asked for, and the Fréchet distance
of their features from those of the real held-out images; without guidance and with. Prints nats per
position over 1,000 held-out examples (for masked and diffusion a bound, for floats a density), and
sampling time per image without guidance. With `--draw`, also how samples fare that are drawn with
these options, without guidance.
"""

from __future__ import annotations

import ast
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vqjax import cli, config as configuration
from vqjax.errors import UserError
from vqjax.suites import _classifier

CODES = ("autoregressive", "masked", "diffusion", "replace", "pixelcnn")
FLOATS = ("flow", "ddpm", "meanflow")
PRIORS = CODES + FLOATS
EACH = 50  # samples of every class


def count_classes(dataset: Any) -> int:
  """One more than the largest label of either split."""
  return 1 + max(
    int(batch["label"].max())
    for split in ("train", "eval")
    for batch, _ in dataset.batches(256, split=split)
  )


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
  from vqjax import bench, data, sharding, train

  chosen = workdir / "steps.json"
  if not chosen.exists():
    batch = data.Dataset(config.data, config.ops).sample(config.batch_size, "train")
    run = train.Run(config, configuration.spec_of(batch))
    state, frozen = run.init(jax.random.key(0)), run.load_frozen()
    placed = sharding.to_global(run.task.prepare(batch), run.mesh)

    def step() -> Any:
      nonlocal state
      state, metrics = run.step(state, frozen, placed)
      return metrics

    each = min(bench.time_calls({name: step}, 5, 4)[name])
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


class Drawn(NamedTuple):
  """How samples of every class fare.

  accuracy: share that the classifier assigns to the class asked for.
  frechet: distance of their features from the real held-out images'.
  ms: milliseconds an image, with compilation where such samples were not drawn before.
  """

  accuracy: float
  frechet: float
  ms: float


def drawn(model: Any, by: _classifier.Judge, classes: int, **options: Any) -> Drawn:
  """Draws samples of every class and judges them."""
  labels = np.repeat(np.arange(classes), EACH)
  start = time.perf_counter()
  images = model.sample(len(labels), label=labels, batch_size=len(labels) // 4, **options)
  seconds = time.perf_counter() - start
  found, features = map(np.asarray, by.predict(images))
  accuracy = float((found == labels).mean())
  return Drawn(accuracy, _classifier.frechet(features, by.real), 1e3 * seconds / len(labels))


def judge(
  loaded: Any, model: Any, by: _classifier.Judge, classes: int, guidance: float
) -> dict[str, float]:
  """Accuracy and Fréchet distance of samples, and milliseconds per image with the compilation
  aside.
  """
  from vqjax import measure

  plain = drawn(model, by, classes)  # compiles
  again = drawn(model, by, classes, seed=1)
  guided = drawn(model, by, classes, guidance=guidance)
  figures = measure.evaluate_split(
    loaded.run, loaded.dataset(), loaded.weights, limit=1000
  )  # a diffusion takes its number of steps passes for each
  return {
    "accuracy": plain.accuracy,
    "frechet": plain.frechet,
    "guided": guided.accuracy,
    "frechet_guided": guided.frechet,
    "ms_per_image": again.ms,
    "nats": figures.get("nats_per_code", figures.get("nats_per_vector")),
    "steps": model.config.total_steps,
  }


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--tokenizer", required=True)
  parser.add_argument("--codes", help="what python -m vqjax.tokenize wrote with that tokenizer")
  parser.add_argument("--latents", help="what it wrote with --latents=continuous")
  parser.add_argument("--data", required=True, help="the images that the codes are of")
  parser.add_argument("--workdir", type=cli.local, default=pathlib.Path("runs/priors"))
  parser.add_argument("--seconds", type=float, default=180)
  parser.add_argument("--guidance", type=float, default=2.0, help="of the guided samples")
  parser.add_argument("--only", nargs="*", choices=PRIORS)
  parser.add_argument("--draw", nargs="*", default=[], metavar="OPTIONS", help="those of sampling")
  args = parser.parse_args(argv)
  from vqjax import api, data, writers

  ways = {text: options_of(text) for text in args.draw}

  folders = dict.fromkeys(CODES, args.codes) | dict.fromkeys(FLOATS, args.latents)
  chosen = args.only or [name for name in PRIORS if folders[name]]
  if not chosen or not all(folders[name] for name in chosen):
    raise UserError("--codes, --latents: the chosen priors read them; give what they need.")
  dataset = data.Dataset(data.resolve(args.data))
  classes = len(dataset.class_names) or count_classes(dataset)
  by = _classifier.train(dataset, classes)
  print(f"the classifier is right on {by.accuracy:.1%} of the real held-out images")
  rows, more = [], []
  for name in chosen:
    config = prior_config(name, args.tokenizer, folders[name], classes)
    fit(name, config, args.workdir / name, args.seconds)
    loaded = api.open_run(args.workdir / name)
    model = api.Prior(loaded)
    found = judge(loaded, model, by, classes, args.guidance)
    (args.workdir / name / "comparison.json").write_text(json.dumps(found))
    rows.append(_row(name, found))
    for text, options in ways.items():
      got = drawn(model, by, classes, **options)
      more.append([f"{name}, {text}", f"{got.accuracy:.1%}", f"{got.frechet:.2f}"])
  columns = ["prior", "steps", "nats", "class accuracy", "Fréchet"]
  columns += [f"guided by {args.guidance:g}", "Fréchet guided", "ms/image"]
  print(writers.table(columns, rows))
  if more:
    print(writers.table(["drawn with", "class accuracy", "Fréchet"], more))


def _row(name: str, found: dict[str, float]) -> list[str]:
  formats = dict(steps="d", nats=".3f", accuracy=".1%", frechet=".2f", guided=".1%")
  formats |= dict(frechet_guided=".2f", ms_per_image=".1f")
  return [
    name, *("" if found[k] is None else format(found[k], spec) for k, spec in formats.items())
  ]  # fmt: skip
