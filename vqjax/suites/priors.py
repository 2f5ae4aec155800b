"""Four priors over the same codes: python -m vqjax.bench --suite=priors --tokenizer=WORKDIR
--codes=DIR --data=PATH [--seconds=180]

Trains an autoregressive, a masked, a diffusion and a PixelCNN prior on a labelled data set's codes
for the same time each (steps chosen from their measured speed), and judges 50 samples of every
class by a small classifier trained on the real images: the share assigned to the class that was
asked for, without guidance and with. Prints nats per code over 1,000 held-out examples (for masked
and diffusion a bound), these accuracies, and sampling time per image without guidance.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from vqjax import cli, config as configuration
from vqjax.errors import UserError

PRIORS = ("autoregressive", "masked", "diffusion", "pixelcnn")


class Classifier(nn.Module):
  """A small convolutional classifier of [B, H, W, C] in [-1, 1]."""

  classes: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for width in (32, 64, 128):
      x = nn.relu(nn.Conv(width, (3, 3), (2, 2))(x))
    return nn.Dense(self.classes)(nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1))))


def train_classifier(dataset: Any, classes: int, steps: int = 1500, batch_size: int = 128) -> Any:
  """Trains on the real images of a data.Dataset; returns (predict(images uint8) -> classes,
  accuracy on the held-out images).
  """
  model, tx = (
    Classifier(classes),
    optax.adamw(optax.cosine_decay_schedule(1e-3, steps), weight_decay=1e-3),
  )
  scale = lambda image: jnp.asarray(image, jnp.float32) / 127.5 - 1
  stream = dataset.train(batch_size, seed=1)
  params = model.init(jax.random.key(0), scale(next(stream)["image"]))
  opt = tx.init(params)

  @jax.jit
  def step(params: Any, opt: Any, image: jax.Array, label: jax.Array) -> Any:
    loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(
      model.apply(p, scale(image)), label
    ).mean()
    updates, opt = tx.update(jax.grad(loss)(params), opt, params)
    return optax.apply_updates(params, updates), opt

  for _ in range(steps):
    batch = next(stream)
    params, opt = step(params, opt, batch["image"], batch["label"])
  stream.close()
  predict = jax.jit(lambda image: jnp.argmax(model.apply(params, scale(image)), -1))
  right = total = 0.0
  for batch, mask in dataset.batches(batch_size):
    right, total = (
      right + float((mask * (predict(batch["image"]) == batch["label"])).sum()),
      total + float(mask.sum()),
    )
  return predict, right / total


def count_classes(dataset: Any) -> int:
  """One more than the largest label of either split."""
  return 1 + max(
    int(batch["label"].max())
    for split in ("train", "eval")
    for batch, _ in dataset.batches(256, split=split)
  )


def prior_config(name: str, tokenizer: str, codes: str, classes: int) -> Any:
  """The repository's config of this prior, on these codes."""
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


def judge(
  workdir: pathlib.Path, predict: Any, classes: int, guidance: float, each: int = 50
) -> dict[str, float]:
  """Accuracy of samples, and milliseconds per image with the compilation aside."""
  from vqjax import api, measure

  loaded = api.open_run(workdir)
  model = api.Prior(loaded)
  labels = np.repeat(np.arange(classes), each)
  draw = lambda **options: model.sample(
    len(labels), label=labels, batch_size=len(labels) // 4, **options
  )
  right = lambda images: float((np.asarray(predict(images)) == labels).mean())
  images = draw(seed=0)  # compiles
  start = time.perf_counter()
  draw(seed=1)
  seconds = (time.perf_counter() - start) / len(labels)
  figures = measure.evaluate_split(
    loaded.run, loaded.dataset(), loaded.weights, limit=1000
  )  # a diffusion takes its number of steps passes for each
  return {
    "accuracy": right(images),
    "guided": right(draw(seed=0, guidance=guidance)),
    "ms_per_image": 1e3 * seconds,
    "nats": figures.get("nats_per_code"),
    "steps": model.config.total_steps,
  }


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--tokenizer", required=True)
  parser.add_argument(
    "--codes", required=True, help="what python -m vqjax.tokenize wrote with that tokenizer"
  )
  parser.add_argument("--data", required=True, help="the images that the codes are of")
  parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/priors"))
  parser.add_argument("--seconds", type=float, default=180)
  parser.add_argument("--guidance", type=float, default=2.0, help="of the guided samples")
  parser.add_argument("--only", nargs="*", choices=PRIORS)
  args = parser.parse_args(argv)
  from vqjax import data, writers

  dataset = data.Dataset(data.resolve(args.data))
  classes = len(dataset.class_names) or count_classes(dataset)
  predict, accuracy = train_classifier(dataset, classes)
  print(f"the classifier is right on {accuracy:.1%} of the real held-out images")
  rows = []
  for name in args.only or PRIORS:
    fit(
      name,
      prior_config(name, args.tokenizer, args.codes, classes),
      args.workdir / name,
      args.seconds,
    )
    found = judge(args.workdir / name, predict, classes, args.guidance)
    (args.workdir / name / "comparison.json").write_text(json.dumps(found))
    nats = "" if found["nats"] is None else f"{found['nats']:.3f}"
    rows.append(
      [
        name,
        str(found["steps"]),
        nats,
        f"{found['accuracy']:.1%}",
        f"{found['guided']:.1%}",
        f"{found['ms_per_image']:.1f}",
      ]
    )
  print(
    writers.table(
      ["prior", "steps", "nats/code", "class accuracy", f"guided by {args.guidance:g}", "ms/image"],
      rows,
    )
  )
