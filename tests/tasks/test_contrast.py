"""The contrastive task: its loss by hand on one and on four devices, and a run from captions on."""

import json
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqjax
from vqjax import config as configuration, sample, sharding, train
from vqjax.data.text import Bpe
from vqjax.errors import UserError
from vqjax.tasks import contrast

TOWER = dict(width=8, depth=1, heads=2, mlp_width=16)
MODEL = dict(
  image=dict(name="vit", patch=8, **TOWER), text=dict(name="transformer", **TOWER), features=4
)


def config_of(**changes):
  fields = dict(task="contrast", model=MODEL, text=dict(size=300, length=12), batch_size=8)
  return configuration.complete(fields | changes)


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
  return {"image": image, "text": rng.integers(0, 300, (8, 12)).astype(np.int32)}


def by_hand(logits):
  """Figure 3 of the paper, in numpy."""
  log_softmax = lambda x: x - np.log(np.exp(x).sum(1, keepdims=True))
  rows, columns = (-np.diag(log_softmax(x)).mean() for x in (logits, logits.T))
  return (rows + columns) / 2


@pytest.mark.parametrize("devices", [1, 4])
def test_loss_is_over_the_global_batch(batch, devices):
  run = train.Run(config_of(), configuration.spec_of(batch), jax.devices()[:devices])
  task, placed = run.task, sharding.to_global(batch, run.mesh)

  @jax.jit
  def found(batch):
    params, stats = task.init(jax.random.key(0), batch)
    vectors = task.predict["embed"](vqjax.tasks.Weights(params, stats, {}), batch)
    loss, (_, metrics) = task.loss(params, stats, {}, batch, None, None)
    return loss, metrics, vectors, params["model"]["log_scale"]

  loss, metrics, vectors, log_scale = jax.device_get(found(placed))
  assert log_scale == pytest.approx(math.log(1 / 0.07))
  for name in ("image", "text"):
    assert vectors[name].shape == (8, 4)
    np.testing.assert_allclose(np.linalg.norm(vectors[name], axis=1), 1, rtol=1e-5)
  logits = np.exp(log_scale) * vectors["image"] @ vectors["text"].T
  assert loss == pytest.approx(by_hand(logits), rel=1e-5)
  assert loss == pytest.approx((metrics["loss/captions"] + metrics["loss/images"]) / 2, rel=1e-5)


def test_scale_is_clipped_but_finds_back():
  gradient = jax.vmap(jax.grad(lambda x, sign: sign * contrast.clipped(x, 2.0)))
  value = jax.vmap(lambda x: contrast.clipped(x, 2.0))
  x, sign = jnp.asarray([1.0, 1.0, 3.0, 3.0]), jnp.asarray([1.0, -1.0, 1.0, -1.0])
  assert value(x).tolist() == [1, 1, 2, 2]
  assert gradient(x, sign).tolist() == [1, -1, 1, 0]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
  """Pictures of one colour, and its name."""
  rng = np.random.default_rng(0)
  names, colors = ["red", "lime", "blue", "grey"], np.eye(4, 3, dtype=np.uint8) * 255
  kind = rng.integers(0, 4, 40)
  images = np.broadcast_to(colors[kind][:, None, None], (40, 16, 16, 3))
  texts = np.array([f"a {names[i]} square" for i in kind])
  file = tmp_path_factory.mktemp("pairs") / "pairs.npz"
  np.savez(file, images=images, captions=texts, test=np.arange(40) % 4 == 0)
  return file


def test_a_run_from_captions_to_ranked_pictures(
  pairs, tmp_path, monkeypatch, terminate, compiled_once
):
  monkeypatch.chdir(tmp_path)
  data = dict(name="arrays", path=str(pairs))
  config = config_of(
    data=data,
    total_steps=2,
    save_every=1,
    eval_examples=8,
    preview=4,
    best="recall@1",
    text=dict(size=300, lower=True),
  )
  workdir = pathlib.Path("run")
  with terminate(1):
    figures = train.train(config, workdir)
  assert 0 <= figures["image_to_text@1"] <= figures["image_to_text@5"] <= 1
  bpe = Bpe.read(workdir / "bpe.json")
  assert bpe.size <= 300 and bpe.marks == 2
  assert json.loads((workdir / "frozen.json").read_text()) == {"text.bpe": bpe.identity}
  assert list((workdir / "previews").iterdir())

  train.train(config, workdir)  # the same command continues
  other = Bpe.train(["something else"] * 3, 280)
  other.write(tmp_path / "other.json")
  for field, value, message in [
    ("bpe", str(tmp_path / "other.json"), "another vocabulary"), ("size", 301, "text.size"),
  ]:  # fmt: skip
    changed = configuration.complete(config.to_dict())
    changed.text[field] = value
    with pytest.raises(UserError, match=message):
      train.train(changed, workdir)

  workdir.rename(tmp_path / "moved")
  model = vqjax.load(tmp_path / "moved")
  images = np.zeros((2, 20, 24, 3), np.float32)
  order, scores = model.rank(images, "a red square")
  assert sorted(order) == [0, 1] and scores.shape == (2,)
  colors = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
  texts = np.array(["a red square", "a blue square"] * 2, object)
  rows = sample._ranked(model, colors, texts, 2)
  assert sorted(c.tobytes() for row in rows for c in row.values) == sorted(
    c.tobytes() for c in colors
  )
  below = [row.captions for row in rows]
  assert [len(row.values) for row in rows] == [2, 2] and below[1][0].endswith(" a blue square")
  assert all(float(first.split()[0]) >= float(last.split()[0]) for first, last in below)
  with pytest.raises(UserError, match="3 captions for 2 images"):
    model.rank(images, ["a", "b", "c"])
  other.marked().write(tmp_path / "moved" / "bpe.json")
  with pytest.raises(UserError, match="config.text.bpe: has changed since"):
    vqjax.load(tmp_path / "moved")
  shutil.rmtree(tmp_path / "moved")


def test_what_does_not_fit_is_named(pairs, batch, tmp_path):
  spec = configuration.spec_of(batch)
  swapped = dict(image=MODEL["text"], text=MODEL["text"])
  for changes, message in [
    (
      dict(model=swapped),
      "config.model.image.name: 'transformer' embeds text, not image; take vit",
    ),
    (dict(temperature=0.0), "config.temperature"),
    (dict(model=MODEL | dict(features=0)), "config.model.features"),
    (dict(text=dict(length=0)), "config.text: length: 0"),
  ]:
    with pytest.raises(UserError, match=message):
      contrast.make(config_of(**changes), spec)
  with pytest.raises(UserError, match="config.data: have no text, but image"):
    contrast.make(config_of(), {"image": spec["image"]})
  task = contrast.make(config_of(), spec)
  with pytest.raises(UserError, match="config.text.bpe: is not set"):
    task.prepare({"image": batch["image"], "text": ["a"] * 8})
  np.savez(tmp_path / "dumb.npz", images=batch["image"])
  silent = config_of(data=dict(name="arrays", path=str(tmp_path / "dumb.npz")))
  with pytest.raises(UserError, match="config.text: config.data have no captions"):
    train.train(silent, tmp_path / "run")
  small = config_of(data=dict(name="arrays", path=str(pairs)), text=dict(size=257))
  with pytest.raises(UserError, match="config.text.size: 257 is too small; give at least 258"):
    train.train(small, tmp_path / "run")


def test_long_captions_are_cut_with_a_count(tmp_path, caplog):
  Bpe.train(["red"] * 3, 256).marked().write(tmp_path / "bpe.json")
  text = dict(bpe=str(tmp_path / "bpe.json"), size=258, length=6)
  shapes = {"image": ((1, 16, 16, 3), "uint8"), "text": ((1, 6), "int32")}
  spec = {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}
  task = contrast.make(config_of(text=text), spec)
  texts = ["", "four", "x" * 10_000, "Ω"]
  with caplog.at_level("WARNING", logger="vqjax"):
    ids = task.prepare({"image": None, "text": texts})["text"]
  assert "1 of 4 captions are longer than 6 ids" in caplog.text
  assert ids[0].tolist() == [256, 257, -1, -1, -1, -1] and (ids[2] >= 0).all()
  small = contrast.make(config_of(text=text | dict(size=257)), spec)
  with pytest.raises(UserError, match="config.text.size: 257 is less than the 258 ids"):
    small.prepare({"image": None, "text": texts})
  with pytest.raises(UserError, match="config.data: yields image, no text, which the run reads"):
    task.prepare({"image": None})
