"""Priors over text and codes: the joint loss, its likelihood, guidance, prompts, the vocabulary's
lineage, and what is refused.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vqjax
from vqjax import config as configuration, data, sample, tokenize, train
from vqjax.data import captions
from vqjax.data.text import Bpe
from vqjax.errors import UserError
from vqjax.sampler import Given

SHAPES = dict(name="shapes", size=16, num_train=32, num_eval=8, max_objects=1)
TEXT = dict(size=300, length=10)
MODEL = dict(
  name="transformer", layers=2, width=16, heads=2, positions="row_column", attention="dalle",
  window=3,
)  # fmt: skip


def config_of(tokenizer, **values):
  base = dict(
    task="prior",
    tokenizer=tokenizer,
    data=SHAPES,
    ops=dict(size=16, channels=3),
    model=MODEL,
    scheme=dict(name="autoregressive"),
    condition=dict(text=TEXT, label=dict(classes=8), drop=0.25),
    batch_size=8,
    total_steps=2,
    log_every=1,
    save_every=2,
    eval_examples=8,
    preview=0,
  )
  return configuration.complete(base | values)


@pytest.fixture(scope="module")
def workdir(tokenizer, tmp_path_factory):
  folder = tmp_path_factory.mktemp("text") / "prior"
  figures = train.train(config_of(tokenizer), folder)
  assert 0 < figures["nats_per_text_token"] < 6.5 and figures["nats_per_code"] > 0
  return folder


@pytest.fixture(scope="module")
def model(workdir):
  return vqjax.load(workdir)


def test_the_joint_loss_by_hand(model):
  """1/8 and 7/8 of the means over the text's tokens and over the codes; what is dropped has no
  text.
  """
  task, prior = model.loaded.run.task, model.modules
  batch = task.prepare(data.Dataset(SHAPES).sample(8))
  assert batch["text"].shape == (8, 10) and batch["text"].dtype == np.int32
  params, key = model.weights.params, jax.random.key(3)
  total, (_, metrics) = jax.jit(task.loss)(*model.weights, batch, key, 0)
  prefix = prior.prefix.tokens(batch, {}, 8)
  shown = np.asarray(prior.prefix.dropped(jax.random.fold_in(key, 1), prefix))
  ids = np.asarray(model.encode(batch["image"])).reshape(8, 16)
  said = lambda params: prior.model.apply(
    {"params": params["model"]}, ids, shown, train=False, method="joint"
  )
  codes, text = (np.asarray(jax.nn.log_softmax(x)) for x in jax.jit(said)(params))
  of_codes = -np.take_along_axis(codes, ids[..., None], -1).mean()
  logits = np.asarray(jax.jit(said)(params)[1], np.float64)[:, 1:, 8:]  # label first: 1 + 8 rows
  own = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  nats = []
  for b in range(8):
    length = int((batch["text"][b] >= 0).sum())
    tokens = [*batch["text"][b, :length], 300 + length][:10]
    nats += [] if shown[b, 0] < 0 else [-own[b, i, token] for i, token in enumerate(tokens)]
  assert 0 < (shown[:, 0] < 0).sum() < 8
  np.testing.assert_allclose(metrics["loss/text"], np.mean(nats), rtol=1e-4)
  np.testing.assert_allclose(metrics["loss/codes"], of_codes, rtol=1e-4)
  np.testing.assert_allclose(total, np.mean(nats) / 8 + of_codes * 7 / 8, rtol=1e-4)


def test_same_caption_and_seed_give_the_same_picture_and_prompts_stay(model):
  texts = ["a red circle", "", "x" * 10_000]
  given = dict(text=texts, label=[0, 1, 2], seed=2)
  # So few steps teach little: only much guidance shows that the caption matters.
  drawn = model.sample(3, guidance=3e3, **given)
  np.testing.assert_array_equal(drawn, model.sample(3, guidance=3e3, **given))
  assert (drawn != model.sample(3, **given | {"text": "a \ud800 日本"}, guidance=3e3)).any()
  assert model.sample(2).shape == (2, 16, 16, 3)  # nothing given
  images = data.Dataset(SHAPES).sample(3)["image"]
  ids = np.asarray(model.encode(images))
  conditions = {"text": np.array(texts, object), "label": np.arange(3)}
  request = model.sampler.request(Given(3, conditions, (ids,), keep=0.5))
  assert (np.asarray(request.prefix_BP) >= 0).all()  # an empty caption is no missing one
  drawn = np.asarray(model.sampler.draw(request, 0)).reshape(3, -1)
  np.testing.assert_array_equal(drawn[:, :8], ids.reshape(3, -1)[:, :8])
  assert model.complete(images, keep=0.5, text="a red circle", label=1).shape == images.shape
  assert model.log_prob(ids, text="a red circle", label=1).shape == (3,)


def test_cached_logits_equal_the_whole(model):
  """Step by step as all at once, through guidance, on the network's own masks."""
  from vqjax.schemes import Guidance

  prefix = model.modules.prefix.tokens(
    {"text": jnp.array([[1, 2, 3] + [-1] * 7] * 2), "label": jnp.array([0, 3])}, {}, 2
  )
  network = model.modules.network(model.weights.params, prefix, Guidance(2.0))
  ids = jnp.asarray(np.random.default_rng(0).integers(0, 8, (2, 16)))
  whole = jax.jit(network.full)(ids)
  logits, cache = jax.jit(network.start)()
  step = jax.jit(network.step)
  for i in range(16):
    np.testing.assert_allclose(logits, whole[:, i : i + 1], atol=1e-5)
    if i < 15:
      logits, cache = step(ids[:, i : i + 1], i, cache)


def test_captions_on_the_command_line(model, workdir, tmp_path, monkeypatch):
  monkeypatch.setattr(vqjax.api, "load_prior", lambda *_: model)
  file, page = tmp_path / "captions.txt", tmp_path / "page.png"
  file.write_text("a blue ring\na green star\n")
  flags = ["--workdir", str(workdir), "--num", "6", "--label", "3", "--output", str(page)]
  sample.main([*flags, "--text=a red, large circle", "--text_file", str(file)])
  with Image.open(page) as image:
    assert image.width == 2 * 64 + 2 and image.height > 3 * 64 + 3 * 10  # a row for each
  for more, message in [
    (["--text_file", str(tmp_path / "none.txt")], "--text_file=.*none.txt: cannot be read"),
    ([f"--text={i}" for i in range(7)], "--num=6: is fewer than the 7 values of --text=0 …"),
  ]:
    with pytest.raises(UserError, match=message):
      sample.main([*flags, *more])
  for call, message in [
    (lambda: model.sample(2, text=["a"] * 3, label=1), "text: 3 given for 2"),
    (lambda: model.sample(2, text=3, label=1), "text: 3 is no caption; give a string"),
    (lambda: model.sample(2, text="a"), "label: is not given; this prior was trained with all"),
  ]:
    with pytest.raises(UserError, match=message):
      call()


def test_samples_are_ranked_by_another_run(
  model, workdir, tmp_path, capsys, monkeypatch, random_run
):
  monkeypatch.setattr(vqjax.api, "load_prior", lambda *_: model)
  tower = dict(width=8, depth=1, heads=2, mlp_width=16)
  towers = dict(
    image=dict(name="vit", patch=8, **tower), text=dict(name="transformer", **tower), features=4
  )
  config = dict(task="contrast", model=towers, text=TEXT, data=SHAPES, ops=dict(size=16))
  config, ranker = configuration.complete(config | dict(batch_size=8)), tmp_path / "ranker"
  ranker.mkdir()
  random_run(ranker, train.begun(config, data.Dataset(config.data, config.ops), ranker))
  flags = ["--workdir", str(workdir), "--num", "6", "--label", "3", "--text=a red ring"]
  page = tmp_path / "page.png"
  for more, ranked, columns in [
    ([], ["a red ring"], 2), (["--text=a star"], ["a red ring", "a star"], 3),
  ]:  # fmt: skip
    sample.main([*flags, *more, "--output", str(page), "--rank", str(ranker)])
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": best ")[0] for line in said if ": best " in line] == ranked
    with Image.open(page) as image:
      assert image.width == columns * 64 + (columns - 1) * 2
  with pytest.raises(UserError, match="--rank: .* embeds no images and captions"):
    sample.main([*flags, "--rank", str(workdir)])


def test_captions_beside_codes_train_the_same_vocabulary(tokenizer, short, tmp_path):
  folder = tmp_path / "codes"
  flags = ["--workdir", tokenizer, "--output", str(folder), "--shard", "12", "--batch_size", "8"]
  tokenize.main(flags)
  cached = data.Dataset(data.resolve(str(folder)))
  assert json.loads((folder / "train-00001-text.json").read_text())[0].startswith("a ")
  assert len(list(cached.texts())) == 32 and cached.sample(8)["text"][0].startswith("a ")
  kept = captions.keep(captions.Text(**TEXT), "config.condition.text", cached, tmp_path / "run")
  of_images = Bpe.train(data.Dataset(short["data"]).texts(), TEXT["size"])
  assert Bpe.read(kept).identity == of_images.identity


def test_another_vocabulary_in_the_workdir_is_seen(workdir, tmp_path):
  shutil.copytree(workdir, tmp_path / "moved")
  Bpe.train(["another one"] * 3, 270).write(tmp_path / "moved" / "bpe.json")
  with pytest.raises(UserError, match="config.condition.text.bpe: has changed since .*moved began"):
    vqjax.load(tmp_path / "moved")


def test_a_run_continues_with_its_own_vocabulary_alone(workdir, tmp_path):
  config = configuration.of_run(workdir)
  assert config.condition.text.bpe == str(workdir / "bpe.json")
  train.train(config, workdir)
  Bpe.train(["another one"] * 3, 270).write(tmp_path / "other.json")
  config.condition.text.bpe = str(tmp_path / "other.json")
  with pytest.raises(UserError, match="condition.text.bpe: .*other.json is another vocabulary"):
    train.train(config, workdir)


@pytest.mark.parametrize(
  "values, message",
  [
    (dict(scheme=dict(name="masked")), "config.condition.text.predicted: 0.125, .*scheme 'masked'"),
    (
      dict(model=dict(name="pixelcnn", layers=1, width=8)),
      "config.condition.text.predicted: 0.125, but the network 'pixelcnn' predicts codes alone",
    ),
    (dict(condition=dict(text=dict(size=256, length=4))), "SIZE"),
    (dict(data=dict(name="arrays", path="IMAGES")), "the data have no text|have no captions"),
  ],
)
def test_what_does_not_fit_is_one_line(values, message, tokenizer, workdir, tmp_path):
  if message == "SIZE":
    values = dict(condition=dict(text=dict(size=256, bpe=str(workdir / "bpe.json"))))
    message = r"config.condition.text.size: 256 is less than the \d+ ids"
  if "data" in values:
    images = data.Dataset(SHAPES).sample(8)["image"]
    np.savez(tmp_path / "images.npz", image=images)
    values = dict(data=data.resolve(str(tmp_path / "images.npz")))
  with pytest.raises(UserError, match=message) as e:
    train.train(config_of(tokenizer, **values), tmp_path / "prior")
  assert "\n" not in str(e.value)


def test_text_without_prediction_fits_every_scheme(tokenizer):
  condition = dict(text=TEXT | dict(predicted=0.0))
  model = dict(name="transformer", layers=1, width=16, heads=2)
  config = config_of(tokenizer, scheme=dict(name="masked"), model=model, condition=condition)
  spec = configuration.spec_of(data.Dataset(SHAPES).sample(8), config)
  assert spec["text"].shape == (8, 10) and spec["text"].dtype == "int32"
  run = train.Run(config, spec)
  metrics = jax.eval_shape(run._step, run.abstract, run.task.frozen.shapes(), spec)[1]
  assert "loss/text" not in metrics and run.task.info.modules.prefix.rows == 8 + 1 + 310
