"""Label maps: a tokenizer of one-hot maps, a prior that reads its codes before the image's, and one
that learns them.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import weights

import vqjax
from vqjax import api, config as configuration, data, tokenize, train
from vqjax.errors import UserError
from vqjax.sampler import Given
from vqjax.tasks import autoencode

SHAPES = dict(name="shapes", size=16, num_train=32, num_eval=8)
CLASSES = 9


@pytest.fixture(scope="module")
def of_maps(short, small):
  """of_maps(**values): the config of a tokenizer of maps."""
  model = dict(name="vqvae", **small, quantizer=dict(name="ema", codebook_size=6, dim=4))
  signal, loss = dict(name="layout", classes=CLASSES), dict(reconstruction="binary_cross_entropy")
  return lambda **values: short | dict(model=model, signal=signal, loss=loss) | values


@pytest.fixture(scope="module")
def of_prior(short):
  """of_prior(tokenizer, maps, **values): the config of a prior, by default given codes of maps."""

  def config(tokenizer, maps, **values):
    condition = dict(label=dict(classes=8), layout_codes=dict(tokenizer=maps), drop=0.5)
    base = dict(
      task="prior",
      tokenizer=tokenizer,
      condition=condition,
      model=dict(name="transformer", layers=1, width=16, heads=2),
      scheme=dict(name="autoregressive"),
      optim=dict(lr=1e-3),
    )
    return short | base | values

  return config


@pytest.fixture(scope="module")
def runs(tokenizer, of_maps, of_prior, tmp_path_factory, random_run):
  folder = tmp_path_factory.mktemp("runs")
  train.train(of_maps(preview=4), maps := str(folder / "maps"))
  prior = random_run(folder / "prior", of_prior(tokenizer, maps))
  return dict(image=tokenizer, maps=maps, prior=str(prior))


@pytest.fixture(scope="module")
def prior(runs):
  return vqjax.load(runs["prior"])


@pytest.fixture(scope="module")
def maps(runs):
  return vqjax.load(runs["maps"])


@pytest.fixture(scope="module")
def batch():
  return data.Dataset(SHAPES).sample(4)


def test_the_loss_is_that_of_zeros_and_ones(maps, batch):
  """The model reads 0 and 1, not -1 and 1, and is asked for them: written out with the model
  itself.
  """
  run, weights = maps.info.modules, maps.weights
  one_hot = np.eye(CLASSES, dtype=np.float32)[batch["layout"]]
  variables = {"params": weights.params["model"], **weights.stats["model"]}
  apply = jax.jit(lambda variables, x: run.model.apply(variables, x, train=False))
  logits, quantized = apply(variables, jnp.asarray(one_hot))
  np.testing.assert_array_equal(maps.encode(batch["layout"]), quantized.ids)
  np.testing.assert_array_equal(maps.reconstruct(batch["layout"]), np.argmax(logits, -1))
  np.testing.assert_array_equal(maps.decode(quantized.ids), np.argmax(logits, -1))
  _, (_, metrics) = jax.jit(run.loss)(
    *weights, {"layout": jnp.asarray(batch["layout"])}, jax.random.key(0), jnp.int32(0)
  )
  np.testing.assert_allclose(
    metrics["raw/reconstruction"],
    optax.sigmoid_binary_cross_entropy(logits, one_hot).mean(),
    rtol=1e-4,
  )


def figures(workdir):
  """The last held-out ones of the run."""
  lines = (json.loads(line) for line in open(f"{workdir}/metrics.jsonl"))
  return [line for line in lines if any(k.startswith("eval/") for k in line)][-1]


def test_held_out_measures_and_previews(maps, batch):
  assert {"eval/pixel_accuracy", "eval/mean_iou", "eval/usage"} <= figures(maps.workdir).keys()
  assert list((maps.workdir / "previews").iterdir())
  # Without noise, so the key tells nothing.
  preview = jax.jit(lambda weights, batch: maps.task.predict["preview"](weights, batch, None))
  out = preview(maps.weights, {"layout": batch["layout"]})
  rows = maps.info.pictures(batch, out)
  assert [row.shape for row in rows] == [(4, 16, 16, 3)] * 2
  np.testing.assert_array_equal(rows[0], maps.info.signal.pictures(batch["layout"]))


def test_prefix_is_the_codes_of_the_maps(prior, maps, batch):
  prefix = prior.modules.prefix
  assert prefix.length == 1 + 16 and prefix.rows == 8 + 8 + 6 and prefix.grid == (4, 4)
  given = {"label": batch["label"], "layout": batch["layout"]}
  tokens = prior.sampler.request(Given(4, given)).prefix_BP
  codes = np.asarray(maps.encode(batch["layout"])).reshape(4, -1)
  expected = np.concatenate([8 + batch["label"][:, None], 16 + codes], axis=1)
  np.testing.assert_array_equal(tokens, expected)
  kept = prefix.prepare(batch)
  assert kept["layout"].dtype == np.uint8 and kept["layout"].shape == (4, 16, 16)
  kept = jax.tree.map(jnp.asarray, kept)
  np.testing.assert_array_equal(prefix.tokens(kept, prior.weights.frozen, 4), expected)
  # Dropped in training, all of it is a hole, and so it is in sampling.
  np.testing.assert_array_equal(prior.sampler.request(Given(4)).prefix_BP, np.full((4, 17), -1))
  with pytest.raises(
    UserError,
    match="layout: is not given; this prior was trained with all of its conditions or none",
  ):
    prior.sampler.request(Given(4, {"label": batch["label"]}))


def test_the_map_matters_and_its_tokenizer_stands_still(prior, batch):
  task, (params, stats, frozen) = prior.loaded.run.task, prior.weights
  kept = jax.tree.map(jnp.asarray, task.prepare(batch))
  other = kept | {"layout": (kept["layout"] + 1) % CLASSES}
  likelihood = jax.jit(task.predict["likelihood"])
  nats = [likelihood(prior.weights, b, jax.random.key(0))["nats"] for b in (kept, other)]
  assert np.abs(nats[0] - nats[1]).max() > 1e-6
  loss = lambda frozen: task.loss(params, stats, frozen, kept, jax.random.key(0), jnp.int32(0))[0]
  grads = jax.jit(jax.grad(loss, allow_int=True))(frozen)
  for name in ("tokenizer", "layout_codes"):
    floats = [g for g in jax.tree.leaves(grads[name]) if jnp.issubdtype(g.dtype, jnp.floating)]
    assert floats and not any(np.any(g) for g in floats)
  out = jax.eval_shape(task.predict["preview"], prior.weights, kept, jax.random.key(0))
  rows = task.info.pictures(batch, {k: np.zeros(v.shape, v.dtype) for k, v in out.items()})
  assert [row.shape for row in rows] == [(4, 16, 16, 3)] * 3
  drawn = prior.sample(2, label=0, layout=batch["layout"][:2], guidance=2.0)
  assert drawn.shape == (2, 16, 16, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["codes", "reduced"])
def test_a_window_sees_the_map_that_lies_in_it(runs, prior, of_prior, batch, tmp_path, kind):
  model = prior
  if kind == "reduced":
    condition = dict(label=dict(classes=8), layout=dict(classes=CLASSES, grid=(8, 4)))
    config = configuration.complete(of_prior(runs["image"], None, condition=condition))
    run = train.Run(config, configuration.spec_of(batch))
    params = weights.drawn(run.abstract.params, std=0.3)
    own = prior.weights._replace(params=params, frozen=run.load_frozen())
    model = api.Prior(api.Loaded(tmp_path, config, run, own))
  sampler, label = model.sampler, batch["label"]
  given = lambda maps: Given(4, {"label": label, "layout": maps})
  drawn = sampler.draw(sampler.request(given(batch["layout"])), seed=1, temperature=0.0)
  window = lambda maps, rows: np.asarray(
    sampler.draw_window(given(maps), 1, (rows, 4), temperature=0.0)
  )
  # As large as the grid: plain sampling.
  np.testing.assert_array_equal(window(batch["layout"], 4), drawn)
  tall = np.concatenate([batch["layout"], batch["layout"][::-1], batch["layout"]], 1)
  changed = np.concatenate([tall[:, :32], (tall[:, 32:] + 1) % CLASSES], 1)
  a, b = window(tall, 12), window(changed, 12)
  assert a.shape == (4, 12, 4)
  # Up to row 6 no window reaches row 8, where the maps begin to differ, but their encoder looks
  # ahead.
  same = 6 if kind == "reduced" else 3
  np.testing.assert_array_equal(a[:, :same], b[:, :same])
  assert (a != b).any()
  assert model.sample(4, label=0, layout=tall[:1], height=48).shape == (4, 48, 16, 3)


def test_cached_codes_keep_the_maps(runs, prior, reads_the_same):
  reads_the_same(runs["image"], prior, SHAPES, ("label", "layout"))


@pytest.mark.slow
def test_a_prior_learns_the_codes_of_maps(runs, of_prior, maps, batch, tmp_path, random_run):
  """Tokenized, read from the codes or the maps, and sampled: maps come out."""
  folder = str(tmp_path / "codes")
  tokenize.main(["--workdir", runs["maps"], "--output", folder, "--batch_size", "8"])
  codes = data.Dataset(dict(name="codes", path=folder))
  ids = np.asarray(maps.encode(batch["layout"]))
  np.testing.assert_array_equal(codes.sample(4)["ids"], ids)
  config = of_prior(runs["maps"], None, condition=dict(label=dict(classes=8), drop=0.5))
  # Weights so small that no code is nearly certain: relative bounds are on nats of some size.
  model = vqjax.load(random_run(tmp_path / "prior", config, std=0.05))
  drawn = model.sample(4, label=[0, 1, 2, 3], guidance=2.0)
  assert drawn.shape == (4, 16, 16) and drawn.dtype == np.uint8 and drawn.max() < CLASSES
  assert model.complete(batch["layout"], label=batch["label"]).shape == (4, 16, 16)
  whole = model.complete(batch["layout"], keep=1.0, label=batch["label"])
  np.testing.assert_array_equal(whole, maps.reconstruct(batch["layout"]))
  assert model.frames(4, label=0).shape == (16, 4, 16, 16, 3)
  # The maps themselves serve as well as their codes.
  task = model.loaded.run.task
  key, batches = jax.random.key(0), [batch, {"ids": ids, "label": batch["label"]}]
  batches = [task.prepare(each) for each in batches]
  for each in batches:
    assert jax.eval_shape(task.loss, *model.weights, each, key, jnp.int32(0))[0].shape == ()
  likelihood = jax.jit(lambda *given: task.predict["likelihood"](*given)["nats"])
  of_maps, of_codes = (likelihood(model.weights, each, key) for each in batches)
  np.testing.assert_allclose(of_maps, of_codes, rtol=1e-5)
  np.testing.assert_allclose(
    model.log_prob(ids, label=batch["label"]), -of_codes.sum(-1), rtol=1e-4
  )


def test_what_does_not_fit_is_one_line(runs, prior, of_maps, of_prior, tmp_path, batch):
  spec = lambda *names: configuration.spec_of({k: batch[k] for k in names})
  make = lambda names, **values: autoencode.make(
    configuration.complete(of_maps(**values)), spec(*names)
  )
  start = lambda **values: train.train(
    of_prior(runs["image"], runs["maps"], **values), tmp_path / "x"
  )
  codes_of = lambda workdir: start(condition=dict(layout_codes=dict(tokenizer=str(workdir))))
  codeless = of_maps()["model"] | dict(quantizer=dict(name="identity"))
  (tmp_path / "codeless").mkdir()
  configuration.save(configuration.complete(of_maps(model=codeless)), tmp_path / "codeless")
  configuration.save_spec(spec("layout"), tmp_path / "codeless")
  option = "config.condition.layout_codes.tokenizer"
  for call, message in [
    (
      lambda: prior.sample(1, label=0, layout=np.zeros((8, 8), int)),
      f"layout: 8 x 8 pixels, {option} needs 16 x 16",
    ),
    (
      lambda: prior.sample(1, label=0, layout=np.full((16, 16), 9)),
      f"layout: 9 is outside 0 to 8, the classes of {option}",
    ),
    (
      lambda: prior.sample(1, label=0, layout=batch["layout"][0], height=32),
      "layout: 16 x 16 pixels, .* needs 32 x 16 here",
    ),
    (
      lambda: train.train(of_maps(signal=dict(name="layout", classes=3)), tmp_path / "y"),
      r"layout: \d is outside 0 to 2, the classes of config.signal.classes=3",
    ),
    (
      lambda: make(("image", "label")),
      "config.signal.name: 'layout' learns the data's layout, but they yield image, label",
    ),
    (
      lambda: make(("layout",), signal=dict(name="layout")),
      r"config.signal\(layout\): needs classes",
    ),
    (
      lambda: make(("layout",), loss=dict(reconstruction="l1")),
      "config.loss.reconstruction: 'l1' is no loss of the signal 'layout'",
    ),
    (
      lambda: make(("layout",), disc=dict(name="patchgan")),
      "config.signal.name: 'layout' is nothing that a discriminator",
    ),
    (
      lambda: codes_of(runs["image"]),
      f"{option}: .* is a tokenizer of the data's image, no tokenizer of layouts",
    ),
    (lambda: codes_of(runs["prior"]), f"{option}: .* is no tokenizer; give the workdir of one"),
    (lambda: codes_of(tmp_path), f"{option}: no run lies at"),
    (lambda: codes_of(tmp_path / "codeless"), "is an autoencoder without codes"),
    (
      lambda: train.train(of_prior(runs["image"], runs["image"]), runs["prior"]),
      f"{option}: .* is a tokenizer of the data's image, no tokenizer of layouts",
    ),
  ]:
    with pytest.raises(UserError, match=message) as e:
      call()
    assert "\n" not in str(e.value)
