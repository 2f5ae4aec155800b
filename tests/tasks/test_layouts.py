"""Label maps: a tokenizer of one-hot maps, and a prior that reads its codes before the image's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vqjax
from vqjax import config as configuration, data, tokenize, train
from vqjax.errors import UserError
from vqjax.evaluators import layouts
from vqjax.nn import losses, palette
from vqjax.tasks import autoencode

SHAPES = dict(name="shapes", size=16, num_train=32, num_eval=8)
SMALL = dict(name="vqvae", hidden=8, residual_hidden=8, residual_blocks=1)
SHORT = dict(
  data=SHAPES,
  ops=dict(size=16, channels=3),
  batch_size=8,
  total_steps=2,
  save_every=2,
  eval_examples=8,
  preview=4,
)
CLASSES = 9


def train_run(workdir, **values):
  train.train(SHORT | values, workdir)
  return str(workdir)


def of_maps(**values):
  model = dict(SMALL, channels=CLASSES, quantizer=dict(name="ema", codebook_size=6, dim=4))
  return dict(model=model, loss=dict(reconstruction="binary_cross_entropy")) | values


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs")
  image = train_run(
    folder / "image", model=dict(SMALL, quantizer=dict(name="ema", codebook_size=8, dim=4))
  )
  maps = train_run(folder / "maps", **of_maps())
  return dict(image=image, maps=maps, prior=train_run(folder / "prior", **of_prior(image, maps)))


def of_prior(image, maps, **values):
  condition = dict(labels=8, layout_tokenizer=maps, drop=0.5)
  return (
    SHORT
    | dict(
      task="prior",
      tokenizer=image,
      condition=condition,
      model=dict(name="transformer", layers=1, width=16, heads=2),
      scheme=dict(name="autoregressive"),
      optim=dict(lr=1e-3),
    )
    | values
  )


@pytest.fixture(scope="module")
def batch():
  return data.Dataset(SHAPES).sample(4)


def test_binary_cross_entropy_is_optax():
  rng = np.random.default_rng(0)
  logits, x = (
    rng.normal(size=(2, 3, 3, 4)).astype(np.float32) * 20,
    np.eye(4, dtype=np.float32)[rng.integers(0, 4, (2, 3, 3))],
  )
  expected = optax.sigmoid_binary_cross_entropy(jnp.asarray(logits), jnp.asarray(x)).mean()
  np.testing.assert_allclose(
    losses.reconstruction("binary_cross_entropy", jnp.asarray(logits), jnp.asarray(x)),
    expected,
    rtol=1e-5,
  )


def test_the_loss_is_that_of_zeros_and_ones(runs, batch):
  """The model reads 0 and 1, not -1 and 1, and is asked for them: written out with the model
  itself.
  """
  model = vqjax.load(runs["maps"])
  run, (params, stats, _) = model.run.task.predict["encode"].__self__, model.state
  one_hot = np.eye(CLASSES, dtype=np.float32)[batch["layout"]]
  variables = {"params": params["model"], **stats["model"]}
  logits, quantized = run.model.apply(variables, jnp.asarray(one_hot), train=False)
  np.testing.assert_array_equal(model.encode(batch["layout"]), quantized.ids)
  np.testing.assert_array_equal(model.reconstruct(batch["layout"]), np.argmax(logits, -1))
  np.testing.assert_array_equal(model.decode(quantized.ids), np.argmax(logits, -1))
  _, (_, metrics) = jax.jit(run.loss)(
    params, stats, {}, {"layout": jnp.asarray(batch["layout"])}, jax.random.key(0), jnp.int32(0)
  )
  np.testing.assert_allclose(
    metrics["raw/reconstruction"],
    optax.sigmoid_binary_cross_entropy(logits, one_hot).mean(),
    rtol=1e-4,
  )


def test_held_out_measures_and_previews(runs, tmp_path):
  measured = train.train(SHORT | of_maps(), tmp_path)
  assert {"pixel_accuracy", "mean_iou", "usage"} <= measured.keys() and list(
    (tmp_path / "previews").iterdir()
  )
  (originals, _) = vqjax.load(tmp_path).predict(
    "preview", layout=np.array([[[0, 1, 2, 3] * 4] * 16], np.uint8)
  )["rows"]
  voc = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]  # as the PASCAL VOC kit paints them
  np.testing.assert_allclose((np.asarray(originals)[0, 0, :4] + 1) * 127.5, voc, atol=1e-4)
  assert len({tuple(c) for c in palette.TABLE}) == 256


def test_measure_of_maps_written_out():
  measure = layouts.Measure(classes=4)
  real, recon = (
    np.array([[[0, 0], [1, 1]], [[0, 0], [0, 0]], [[2, 2], [2, 2]]]),
    np.array([[[0, 1], [1, 1]], [[0, 0], [0, 2]], [[3, 3], [3, 3]]]),
  )
  sums = measure.update(
    (), {"layout": jnp.asarray(real)}, {"layout": jnp.asarray(recon)}, jnp.array([1.0, 1.0, 0.0])
  )
  result = measure.result({k: np.asarray(v, np.float64) for k, v in sums.items()})
  # 0: 4 of 6; 1: 2 of 3; 2: 0 of 1; the last map is padding, and class 3 does not occur.
  assert result == pytest.approx({"pixel_accuracy": 6 / 8, "mean_iou": (4 / 6 + 2 / 3 + 0) / 3})


def test_prefix_is_the_codes_of_the_maps(runs, batch):
  prior, maps = vqjax.load(runs["prior"]), vqjax.load(runs["maps"])
  prefix = prior.run.task.extra.prefix
  assert prefix.length == 1 + 16 and prefix.rows == 8 + 8 + 6 and prefix.grid == (4, 4)
  tokens = prior.sampler.request(4, batch["label"], batch["layout"]).prefix_BP
  expected = np.concatenate(
    [8 + batch["label"][:, None], 16 + np.asarray(maps.encode(batch["layout"])).reshape(4, -1)],
    axis=1,
  )
  np.testing.assert_array_equal(tokens, expected)
  kept = prefix.prepare(batch)
  assert kept["layout"].dtype == np.uint8 and kept["layout"].shape == (4, 16, 16)
  np.testing.assert_array_equal(
    prefix.tokens(jax.tree.map(jnp.asarray, kept), (), prior.state[2]), expected
  )
  # Dropped in training, all of it is a hole, and so it is in sampling.
  np.testing.assert_array_equal(prior.sampler.request(4).prefix_BP, np.full((4, 17), -1))
  with pytest.raises(
    UserError,
    match="layout: is not given; this prior was trained with all of its conditions or none",
  ):
    prior.sampler.request(4, batch["label"])
  dropped = (
    np.asarray(prefix.drop(jax.random.key(0), jnp.asarray(np.repeat(expected, 100, 0)))) == -1
  )
  assert (dropped.all(1) == dropped.any(1)).all() and 0.4 < dropped[:, 0].mean() < 0.6


def test_the_map_matters_and_its_tokenizer_stands_still(runs, batch):
  prior = vqjax.load(runs["prior"])
  task, (params, stats, frozen) = prior.run.task, prior.state
  kept = jax.tree.map(jnp.asarray, task.prepare(batch))
  other = kept | {"layout": (kept["layout"] + 1) % CLASSES}
  nats = [prior.predict("likelihood", **b)["nats"] for b in (kept, other)]
  assert np.abs(nats[0] - nats[1]).max() > 1e-6
  loss = lambda frozen: task.loss(params, stats, frozen, kept, jax.random.key(0), jnp.int32(0))[0]
  grads = jax.jit(jax.grad(loss, allow_int=True))(frozen)
  floats = [g for g in jax.tree.leaves(grads["layout"]) if jnp.issubdtype(g.dtype, jnp.floating)]
  assert floats and not any(np.any(g) for g in floats)
  shown = jax.eval_shape(task.predict["preview"], params, stats, frozen, kept)["rows"]
  assert [row.shape for row in shown] == [(4, 16, 16, 3)] * 3
  drawn = prior.sample(2, label=0, layout=batch["layout"][:2], guidance=2.0)
  assert drawn.shape == (2, 16, 16, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["codes", "reduced"])
def test_a_window_sees_the_map_that_lies_in_it(runs, batch, tmp_path, kind):
  if kind == "reduced":
    train_run(
      tmp_path / "prior",
      **of_prior(
        runs["image"], None, condition=dict(labels=8, layouts=CLASSES, layout_grid=(8, 4))
      ),
    )
  prior = vqjax.load(runs["prior"] if kind == "codes" else tmp_path / "prior")
  prior.state[0].update(
    jax.tree.map(
      lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), prior.state[0]
    )
  )
  sampler, label = prior.sampler, batch["label"]
  drawn = sampler.draw(sampler.request(4, label, batch["layout"]), seed=1, temperature=0.0)
  window = lambda maps, rows: np.asarray(
    sampler.draw_window(
      sampler.parts(4, label, maps, scale=(rows / 4, 1)), 4, 1, (rows, 4), temperature=0.0
    )
  )
  np.testing.assert_array_equal(
    window(batch["layout"], 4), drawn
  )  # as large as the grid: plain sampling
  tall = np.concatenate([batch["layout"], batch["layout"][::-1], batch["layout"]], 1)
  a, b = (
    window(tall, 12),
    window(np.concatenate([tall[:, :32], (tall[:, 32:] + 1) % CLASSES], 1), 12),
  )
  assert a.shape == (4, 12, 4)
  same = (
    6 if kind == "reduced" else 3
  )  # up to row 6 no window reaches row 8, where the maps begin to differ, but their encoder looks ahead
  np.testing.assert_array_equal(a[:, :same], b[:, :same])
  assert (a != b).any()
  assert prior.sample(2, label=0, layout=tall[:1], height=48).shape == (2, 48, 16, 3)


@pytest.mark.slow
def test_cached_codes_keep_the_maps(runs, tmp_path):
  tokenize.main(
    ["--workdir", runs["image"], "--output", str(tmp_path / "codes"), "--batch_size", "8"]
  )
  train_run(
    tmp_path / "cached",
    **of_prior(
      runs["image"], runs["maps"], data=dict(name="codes", path=str(tmp_path / "codes")), ops={}
    ),
  )
  a, b = vqjax.load(runs["prior"]), vqjax.load(tmp_path / "cached")
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a.state[0], b.state[0]
  )


def test_what_does_not_fit_is_one_line(runs, tmp_path, batch):
  prior, maps = vqjax.load(runs["prior"]), vqjax.load(runs["maps"])
  start = lambda **values: train.train(
    of_prior(runs["image"], runs["maps"], **values), tmp_path / "x"
  )
  spec = lambda *names: {
    k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items() if k in names
  }
  make = lambda names, **values: autoencode.make(
    configuration.complete(of_maps(**values)), spec(*names)
  )
  (tmp_path / "codeless").mkdir()
  codeless = configuration.complete(
    SHORT | of_maps(model=dict(SMALL, channels=CLASSES, quantizer=dict(name="identity")))
  )
  configuration.save(codeless, tmp_path / "codeless")
  configuration.save_spec(spec("layout"), tmp_path / "codeless")
  wrong = dict(SMALL, channels=3, quantizer=dict(name="ema", codebook_size=6, dim=4))
  for call, message in [
    (
      lambda: prior.sample(1, label=0, layout=np.zeros((8, 8), int)),
      "layout: 8 x 8 pixels, config.condition.layout_tokenizer needs 16 x 16",
    ),
    (
      lambda: prior.sample(1, label=0, layout=np.full((16, 16), 9)),
      "layout: 9 is outside 0 to 8, the classes of config.condition.layout_tokenizer.",
    ),
    (
      lambda: prior.sample(1, label=0, layout=batch["layout"][0], height=32),
      "layout: 16 x 16 pixels, .* needs 32 x 16 here",
    ),
    (
      lambda: maps.encode(batch["layout"] + 9),
      r"layout: \d+ is outside 0 to 8, the classes of config.model.channels=9",
    ),
    (lambda: maps.encode(batch["image"]), "this run was trained on label maps"),
    (
      lambda: tokenize.main(["--workdir", runs["maps"], "--output", str(tmp_path / "codes")]),
      "this run was trained on label maps",
    ),
    (
      lambda: train.train(SHORT | of_maps(model=wrong), tmp_path / "y"),
      r"layout: \d is outside 0 to 2, the classes of config.model.channels=3",
    ),
    (
      lambda: make(("image", "label")),
      "learns label maps, but the data has no layout; it yields image, label",
    ),
    (
      lambda: make(("layout",), model=dict(SMALL, quantizer=dict(name="vq"))),
      "config.model.channels: is None; give the number",
    ),
    (
      lambda: make(("layout",), disc=dict(name="patchgan")),
      "no discriminator and no perceptual loss",
    ),
    (
      lambda: start(condition=dict(layout_tokenizer=runs["image"])),
      "config.condition.layout_tokenizer: .*image is no tokenizer of label maps",
    ),
    (lambda: start(tokenizer=runs["maps"]), "config.tokenizer: .*maps is no tokenizer of images"),
    (lambda: start(condition=dict(layout_tokenizer=str(tmp_path))), "holds no run"),
    (
      lambda: start(condition=dict(layout_tokenizer=str(tmp_path / "codeless"))),
      "is an autoencoder without codes",
    ),
    (
      lambda: start(condition=dict(layout_tokenizer=runs["maps"], layouts=9)),
      "config.condition.layouts: 9 and layout_tokenizer exclude",
    ),
    (
      lambda: train.train(of_prior(runs["image"], None), runs["prior"]),
      "config.condition.layout_tokenizer: this workdir was trained with",
    ),
  ]:
    with pytest.raises(UserError, match=message) as e:
      call()
    assert "\n" not in str(e.value)
