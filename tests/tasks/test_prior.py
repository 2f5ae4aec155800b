"""Priors as tasks: conditions, several codebooks, hierarchies, cached codes, sampling through the
Python API.
"""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqjax
from vqjax import checkpoint, config as configuration, data, tokenize, train
from vqjax.errors import UserError
from vqjax.tasks import _conditions as conditions, prior

SHAPES = dict(name="shapes", size=16, num_train=32, num_eval=8)
SMALL = dict(hidden=8, residual_hidden=8, residual_blocks=1)


def train_tokenizer(workdir, model, **values):
  train.train(
    dict(
      model=model,
      data=SHAPES,
      ops=dict(size=16, channels=3),
      batch_size=8,
      total_steps=2,
      save_every=2,
      eval_examples=8,
      preview=4,
      **values,
    ),
    workdir,
  )
  return str(workdir)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizers")
  return {
    "plain": train_tokenizer(
      folder / "plain",
      dict(name="vqvae", **SMALL, quantizer=dict(name="ema", codebook_size=8, dim=4)),
      ema_decay=0.5,
    ),
    "residual": train_tokenizer(
      folder / "residual",
      dict(
        name="vqvae",
        **SMALL,
        quantizer=dict(
          name="residual", depth=2, quantizer=dict(name="ema", codebook_size=8, dim=4)
        ),
      ),
    ),
    "vqvae2": train_tokenizer(
      folder / "vqvae2",
      dict(name="vqvae2", **SMALL, quantizer=dict(name="ema", codebook_size=8, dim=4)),
    ),
  }


def config_of(tokenizer, scheme="autoregressive", model=None, **values):
  base = dict(
    task="prior",
    tokenizer=tokenizer,
    data=SHAPES,
    ops=dict(size=16, channels=3),
    model=model or dict(name="transformer", layers=1, width=16, heads=2),
    scheme=dict(name=scheme),
    batch_size=8,
    total_steps=4,
    log_every=1,
    save_every=2,
    eval_examples=8,
    preview=4,
    optim=dict(lr=1e-3),
  )
  return configuration.complete(base | values)


@pytest.fixture(scope="module")
def priors(tokenizers, tmp_path_factory):
  """A class-conditional prior of a scheme, trained when a test first asks for it."""

  @functools.cache
  def trained(scheme):
    workdir = tmp_path_factory.mktemp(scheme)
    train.train(config_of(tokenizers["plain"], scheme, condition=dict(labels=8)), workdir)
    return vqjax.load(workdir)

  return trained


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["autoregressive", "masked", "diffusion", "replace"])
def test_train_sample_complete(scheme, priors):
  model = priors(scheme)
  drawn = model.sample(3, label=[0, 1, 7], seed=1, guidance=2.0)
  assert drawn.shape == (3, 16, 16, 3) and drawn.dtype == np.uint8
  np.testing.assert_array_equal(drawn, model.sample(3, label=[0, 1, 7], seed=1, guidance=2.0))
  many = model.sample(
    8, label=1, seed=1, guidance=3e3
  )  # eight rows are split over the devices, three are not
  np.testing.assert_array_equal(many, model.sample(8, label=1, seed=1, guidance=3e3, batch_size=3))
  if scheme in (
    "autoregressive",
    "masked",
  ):  # a diffusion's blocks hardly open in so few steps; the last step of replace has nearly all
    assert (
      many != model.sample(8, label=1, seed=1, guidance=3e3, guidance_schedule="linear")
    ).any()
  images = data.Dataset(SHAPES).sample(3)["image"]
  ids = np.asarray(model.encode(images)).reshape(3, -1)
  request = model.sampler.request(
    3, [0, 1, 2], levels=(model.encode(images),), known=model.sampler.keep_first(0.5)
  )
  completed = np.asarray(model.sampler.draw(request, 0)).reshape(3, -1)
  np.testing.assert_array_equal(completed[:, :8], ids[:, :8])
  assert model.complete(images, keep=0.5, label=[0, 1, 2]).shape == images.shape
  if scheme != "replace":
    assert model.log_prob(model.encode(images), label=[0, 1, 2]).shape == (3,)
  if scheme != "autoregressive":
    mask = np.zeros((16, 16))
    mask[:4, :8] = 1
    known = model.sampler.keep_outside(mask)
    assert (~known).sum() == 2 and not known[0] and not known[1]
    assert model.frames(2, label=0, steps=2).shape == (2, 2, 16, 16, 3)


def test_log_prob_is_the_sum_of_conditionals(priors):
  model = priors("autoregressive")
  ids = model.encode(data.Dataset(SHAPES).sample(2)["image"])
  task = model.run.task.extra
  logits = task._logits(
    model.state[0], ids.reshape(2, -1), task.prefix.tokens({"label": jnp.array([3, 5])}, ()), None
  )
  log_probs = jax.nn.log_softmax(logits)
  expected = [
    sum(float(log_probs[b, i, int(ids.reshape(2, -1)[b, i])]) for i in range(16)) for b in range(2)
  ]
  np.testing.assert_allclose(model.log_prob(ids, label=[3, 5]), expected, rtol=1e-4)
  np.testing.assert_allclose(
    model.log_prob(ids, label=[3, 5], per_code=True).sum(-1), expected, rtol=1e-4
  )


def test_a_bound_is_measured_with_noise_of_each_batch(priors):
  """A nearly uniform network over 8 codes is unsure of all positions alike, whatever the batch."""
  model, rng = priors("masked"), np.random.default_rng(0)
  batches = [rng.integers(0, 8, (8, 4, 4)) for _ in range(60)]
  nats = np.mean(
    [model.predict("likelihood", ids=ids, label=np.arange(8))["nats"].mean(0) for ids in batches], 0
  )
  assert np.abs(nats - np.log(8)).max() < 0.7
  ids = np.concatenate(batches[:1])
  np.testing.assert_allclose(
    model.log_prob(ids[::-1], label=1, draws=4)[::-1],
    model.log_prob(ids, label=1, draws=4),
    rtol=1e-4,
  )  # the row does not matter
  np.testing.assert_allclose(model.log_prob(ids, label=1, draws=64) / 16, -np.log(8), atol=0.15)


@pytest.mark.parametrize("scheme", ["masked", "replace", "diffusion"])
def test_schemes_keep_to_each_positions_book(scheme, tokenizers, tmp_path):
  spec = {"image": jax.ShapeDtypeStruct((8, 16, 16, 3), "uint8")}
  task = prior.make(config_of(tokenizers["residual"], scheme), spec)
  params, stats = task.init(jax.random.key(0), {"image": jnp.zeros((8, 16, 16, 3), jnp.uint8)})
  batch = {"ids": jax.random.randint(jax.random.key(1), (8, 4, 4, 2), 0, 8)}
  loss, _ = jax.jit(task.loss)(params, stats, {}, batch, jax.random.key(2), jnp.int32(0))
  assert 0 < loss < 3 * np.log(16)
  blank = jnp.zeros((8, 32), jnp.int32)
  drawn = jax.jit(task.extra.sampler(steps=3))(
    params, jax.random.key(3), jnp.zeros((8, 0), jnp.int32), blank, blank.astype(bool)
  )
  assert ((np.asarray(drawn) // 8) == np.arange(32)[None] % 2).all()


def test_a_prior_stays_with_its_tokenizer_and_opens_without_its_codes(tokenizers, tmp_path):
  own = train_tokenizer(
    tmp_path / "own",
    dict(name="vqvae", **SMALL, quantizer=dict(name="ema", codebook_size=8, dim=4)),
  )
  tokenize.main(["--workdir", own, "--output", str(tmp_path / "codes"), "--batch_size", "8"])
  source = data.resolve(str(tmp_path / "codes"))
  train.train(config_of(own, data=source, ops={}), tmp_path / "prior")
  (tmp_path / "codes").rename(tmp_path / "moved")
  assert vqjax.load(tmp_path / "prior").sample(1).shape == (1, 16, 16, 3)
  again = configuration.of_run(own)
  again.total_steps = 4
  train.train(again, own)
  with pytest.raises(
    UserError, match=r"config.tokenizer: its weights have changed since .*prior began"
  ):
    vqjax.load(tmp_path / "prior")


@pytest.mark.slow
def test_cached_codes_train_the_same_prior(tokenizers, priors, tmp_path):
  tokenize.main(
    [
      "--workdir",
      tokenizers["plain"],
      "--output",
      str(tmp_path / "codes"),
      "--shard",
      "12",
      "--batch_size",
      "8",
    ]
  )
  cached = dict(name="codes", path=str(tmp_path / "codes"))
  train.train(
    config_of(tokenizers["plain"], condition=dict(labels=8), data=cached, ops={}),
    tmp_path / "cached",
  )
  a, b = priors("autoregressive"), vqjax.load(tmp_path / "cached")
  # The two steps are different programs, so sums may round differently.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a.state[0], b.state[0]
  )
  ids = a.encode(data.Dataset(SHAPES).sample(8)["image"])
  np.testing.assert_array_equal(
    ids, [data.Dataset(cached).source.examples("eval")[i]["ids"] for i in range(8)]
  )


def test_codes_of_another_tokenizer_are_refused(tokenizers, tmp_path):
  tokenize.main(["--workdir", tokenizers["plain"], "--output", str(tmp_path), "--batch_size", "8"])
  other = train_tokenizer(
    tmp_path / "other",
    dict(name="vqvae", **SMALL, quantizer=dict(name="ema", codebook_size=8, dim=4)),
    seed=5,
  )
  with pytest.raises(UserError, match="were made by tokenizer .* write them again"):
    train.train(
      config_of(other, data=dict(name="codes", path=str(tmp_path)), ops={}), tmp_path / "run"
    )


@pytest.mark.slow
def test_residual_codes_stay_in_their_books(tokenizers, tmp_path):
  train.train(config_of(tokenizers["residual"]), tmp_path)
  model = vqjax.load(tmp_path)
  codes = model.run.task.extra.codes
  assert codes.grid == (4, 4, 2) and codes.vocabulary == 16
  ids = model.encode(data.Dataset(SHAPES).sample(4)["image"])
  np.testing.assert_array_equal(codes.unflatten(codes.flatten(ids)), ids)
  request = model.sampler.request(4)
  flat = model.run.task.extra.sampler()(model.state[0], jax.random.key(0), *request)
  assert ((np.asarray(flat) // 8) == np.arange(32)[None] % 2).all()
  assert model.sample(2).shape == (2, 16, 16, 3)


@pytest.mark.slow
def test_a_hierarchy_samples_coarse_first(tokenizers, tmp_path):
  train.train(config_of(tokenizers["vqvae2"], condition=dict(level=0)), tmp_path / "top")
  train.train(
    config_of(tokenizers["vqvae2"], condition=dict(level=1, coarse=str(tmp_path / "top"))),
    tmp_path / "bottom",
  )
  top, bottom = vqjax.load(tmp_path / "top"), vqjax.load(tmp_path / "bottom")
  for name in ("sample", "frames"):
    with pytest.raises(UserError, match="models level 0 of 2"):
      getattr(top, name)(1)
  seen, decode = [], bottom.decode
  bottom.decode = lambda ids: (
    seen.append([np.asarray(x).reshape(len(x), -1) for x in ids]) or decode(ids)
  )
  assert bottom.sample(8).shape == (8, 16, 16, 3)
  ((coarse, fine),) = seen
  assert (coarse == fine[:, :4]).mean() < 0.4  # each level has noise of its own
  bottom.sample(8, temperature=0.0)
  assert len(np.unique(seen[-1][0], axis=0)) == 1  # options reach every level
  ids = bottom.encode(data.Dataset(SHAPES).sample(8)["image"])
  given = [np.asarray(x).reshape(8, -1) for x in ids]
  bottom.complete_codes(ids, keep=0.5)
  for drawn, real in zip(seen[-1], given):
    half = real.shape[1] // 2
    np.testing.assert_array_equal(drawn[:, :half], real[:, :half])
    assert (drawn[:, half:] != real[:, half:]).any()  # drawn anew at every level
  assert bottom.frames(8).shape == (16, 8, 16, 16, 3)
  shutil.copytree(tmp_path / "bottom", tmp_path / "bottom2")
  bottom.config.condition.coarse = str(tmp_path / "bottom")
  configuration.save(bottom.config, tmp_path / "bottom2")
  for call, message in [
    (lambda: bottom.log_prob(ids[0]), "ids: one array; the tokenizer has 2 levels"),
    (lambda: bottom.sample(1, label=0), "label: this prior was trained without one"),
    (lambda: bottom.sample(1, height=32), "without levels"),
    (
      lambda: vqjax.load(tmp_path / "bottom2").sample(1),
      "config.condition.coarse: .* models level 1; give a prior of level 0",
    ),
  ]:
    with pytest.raises(UserError, match=message):
      call()


@pytest.mark.slow
def test_sliding_window_goes_beyond_the_training_size(priors):
  model = priors("autoregressive")
  assert model.sample(2, height=24, width=32).shape == (2, 24, 32, 3)
  with pytest.raises(UserError, match="30 x 16 is not a multiple of 4"):
    model.sample(1, height=30)


def test_bad_requests_are_one_line(tokenizers, priors, tmp_path):
  model = priors("autoregressive")
  images = data.Dataset(SHAPES).sample(1)["image"]
  for call, message in [
    (lambda: model.sample(1, label=8), "label: 8 is outside 0 to 7"),
    (
      lambda: model.sample(1, layout=np.zeros((16, 16), int)),
      "layout: this prior was trained without one",
    ),
    (lambda: model.sample(1, top_k=0), "top_k: 0 is outside 1 to 8"),
    (lambda: model.sample(1, top_k=9), "top_k: 9 is outside 1 to 8"),
    (lambda: model.sample(1, steps=4), "steps: the scheme autoregressive has no such option"),
    (lambda: model.complete(images, keep=1.5), "keep: 1.5 is outside 0 to 1"),
    (
      lambda: model.complete(images, mask=np.ones((16, 16))),
      "mask: an autoregressive prior cannot see",
    ),
    (lambda: vqjax.load(tokenizers["plain"]).sample(1), "sampling needs a prior"),
    (lambda: model.sample(0), "num: 0 in batches of 64; draw at least one"),
    (lambda: model.sample(2, batch_size=0), "num: 2 in batches of 0"),
    (
      lambda: model.sample(4, label=[1, 2]),
      r"label: 2 given for 4 image\(s\); give one, or one for each",
    ),
    (lambda: model.sample(1, label="dress"), "label: <U5 of shape .*; give integers"),
    (lambda: model.sample(1, label=2.7), "label: float64 of shape .*; give integers"),
    (lambda: model.sample(1, label=2**40), "label: 1099511627776 is outside 0 to 7"),
    (lambda: model.sample(1, seed=-1), "seed: -1 is outside"),
    (lambda: model.sample(1, height=-4), "height, width: -4 x 16 is not a multiple of 4"),
    (
      lambda: model.sample(1, guidance=3.0),
      "guidance: 3.0 strengthens a condition, and none is given",
    ),
    (lambda: model.sample(1, label=1, guidance=float("nan")), "guidance: nan is no finite number"),
    (
      lambda: model.sample(1, label=1, guidance=2.0, guidance_schedule="cosin"),
      "guidance_schedule: 'cosin' is none of constant, linear",
    ),
    (lambda: model.sample(1, temperature=float("inf")), "temperature: inf"),
    (lambda: model.sample(1, prefix=3), "prefix: the scheme autoregressive has no such option"),
    (
      lambda: model.complete(images, height=24),
      "height: the scheme autoregressive has no such option",
    ),
    (lambda: model.complete_codes(np.zeros((1, 5, 5), int)), "over grids of 4 x 4 codes"),
    (lambda: model.log_prob(np.full((1, 4, 4), 99)), "ids: 99 to 99 is not within 0 to 7"),
    (lambda: model.decode(np.zeros((1, 4, 4))), "ids: float64 of shape .*; give integers"),
    (lambda: model.frames(3, ids=np.zeros((2, 4, 4), int)), r"ids: of 2 image\(s\), but num=3"),
    (lambda: train.train(config_of(None), tmp_path / "x"), "config.tokenizer: is not set"),
    (
      lambda: train.train(config_of(tokenizers["plain"], condition=dict(labels=3)), tmp_path / "y"),
      r"label: \d is outside 0 to 2",
    ),
  ]:
    with pytest.raises(UserError, match=message) as e:
      call()
    assert "\n" not in str(e.value)


def test_layouts_reduce_to_the_most_frequent_class():
  layout = np.array([[[0, 0, 1, 1], [0, 2, 1, 2], [2, 2, 0, 1], [2, 1, 1, 0]]])
  np.testing.assert_array_equal(conditions.reduce_layout(layout, (2, 2), 3), [[[0, 1], [2, 0]]])
  with pytest.raises(UserError, match="4 x 4 is not a multiple of config.condition.layout_grid"):
    conditions.reduce_layout(layout, (3, 3), 3)


def test_prefix_order_offsets_and_dropping():
  class OneLevel:
    def codes(self, level):
      return prior.Codes((2, 2), 10, 1)

  spec = {"label": 0, "layout": 0}
  prefix = conditions.Prefix(
    conditions.Condition(labels=3, layouts=2, layout_grid=(1, 2), level=1, drop=0.5),
    11,
    OneLevel(),
    spec,
  )
  batch = {"label": jnp.array([2]), "layout": jnp.array([[[0, 1]]])}
  tokens = prefix.tokens(batch, (jnp.array([[[1, 2], [3, 9]]]),))
  np.testing.assert_array_equal(tokens, [[13, 14, 15, 17, 18, 19, 25]])
  assert prefix.length == 7 and prefix.rows == 26 and prefix.grid == (2, 2)
  dropped = np.asarray(prefix.drop(jax.random.key(0), jnp.ones((400, 7), jnp.int32)) == -1)
  assert (dropped.all(1) == dropped.any(1)).all() and 0.4 < dropped[:, 0].mean() < 0.6


def test_identity_tells_weights_apart():
  a = {"w": jnp.arange(4.0)}
  assert checkpoint.identity({}, a) == checkpoint.identity({}, {"w": jnp.arange(4.0)})
  assert checkpoint.identity({}, a) != checkpoint.identity(
    {}, {"w": jnp.arange(4.0).at[1].add(1e-6)}
  )
  assert checkpoint.identity({}, a) != checkpoint.identity({"levels": (1,)}, a)
