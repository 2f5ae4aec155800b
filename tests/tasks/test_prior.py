"""Priors as tasks: conditions, several codebooks, hierarchies, cached codes, sampling through the
Python API.
"""

import contextlib
import functools
import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vqjax
from vqjax import api, config as configuration, data, digests, tokenize, train
from vqjax.errors import UserError
from vqjax.sampler import Given

SHAPES = dict(name="shapes", size=16, num_train=32, num_eval=8)
LABELS = dict(label=dict(classes=8))


def config_of(tokenizer, scheme="autoregressive", model=None, **values):
  base = dict(
    task="prior",
    tokenizer=tokenizer,
    data=SHAPES,
    ops=dict(size=16, channels=3),
    model=model or dict(name="transformer", layers=1, width=16, heads=2),
    scheme=dict(name=scheme),
    batch_size=8,
    total_steps=2,
    log_every=1,
    save_every=2,
    eval_examples=8,
    preview=0,
    optim=dict(lr=1e-3),
  )
  return configuration.complete(base | values)


@pytest.fixture(scope="module")
def priors(tokenizer, tmp_path_factory, random_run):
  """A class-conditional prior of a scheme, made when a test first asks for it: so little weight
  leaves its network nearly uniform.
  """

  @functools.cache
  def made(scheme):
    config = config_of(tokenizer, scheme, condition=LABELS)
    return vqjax.load(random_run(tmp_path_factory.mktemp(scheme), config, std=0.05))

  return made


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["autoregressive", "masked", "diffusion", "replace"])
def test_sample_complete(scheme, priors, untrained, small, monkeypatch):
  if scheme in ("autoregressive", "masked"):
    model = priors(scheme)
  else:
    quantizer = dict(name="ema", codebook_size=8, dim=4)
    config = config_of(None, scheme, condition=LABELS).to_dict()
    tokenizer = dict(model=dict(name="vqvae", **small, quantizer=quantizer))
    model = api.Prior(untrained(tokenizer, config))
  drawn = model.sample(3, label=[0, 1, 7], seed=1, guidance=2.0)
  assert drawn.shape == (3, 16, 16, 3) and drawn.dtype == np.uint8
  np.testing.assert_array_equal(drawn, model.sample(3, label=[0, 1, 7], seed=1, guidance=2.0))
  # Eight rows are split over the devices, three are not. The decoder may round otherwise; codes are
  # the same.
  seen, decode = [], model.decode
  monkeypatch.setattr(model, "decode", lambda ids: seen.append(np.asarray(ids)) or decode(ids))
  many = model.sample(8, label=1, seed=1, guidance=2.0)
  parts = model.sample(8, label=1, seed=1, guidance=2.0, batch_size=3)
  np.testing.assert_array_equal(seen[0], np.concatenate(seen[1:])[:8])
  np.testing.assert_allclose(many.astype(int), parts.astype(int), rtol=0, atol=1)
  # A diffusion's blocks hardly open in so few steps; the last step of replace has nearly all.
  if scheme in ("autoregressive", "masked"):
    constant = model.sample(8, label=1, seed=1, guidance=3e3)
    linear = model.sample(8, label=1, seed=1, guidance=3e3, guidance_schedule="linear")
    assert (constant != linear).any()
  images = data.Dataset(SHAPES).sample(3)["image"]
  ids = model.encode(images)
  request = model.sampler.request(Given(3, {"label": np.arange(3)}, (ids,)))
  completed = np.asarray(model.sampler.draw(request, 0)).reshape(3, -1)
  np.testing.assert_array_equal(completed[:, :8], np.asarray(ids).reshape(3, -1)[:, :8])
  assert model.complete(images, keep=0.5, label=[0, 1, 2]).shape == images.shape
  if scheme != "replace":
    assert model.log_prob(ids, label=[0, 1, 2]).shape == (3,)
  if scheme != "autoregressive":
    mask = np.zeros((16, 16))
    mask[:4, :8] = 1
    request = model.sampler.request(Given(3, {"label": np.arange(3)}, (ids,), mask=mask))
    np.testing.assert_array_equal(~request.known_BL, [[True] * 2 + [False] * 14] * 3)
    assert model.frames(3, label=0, steps=2).shape == (2, 3, 16, 16, 3)


def test_log_prob_is_the_sum_of_conditionals(priors):
  model = priors("autoregressive")
  ids = np.asarray(model.encode(data.Dataset(SHAPES).sample(3)["image"]))
  prior, labels = model.modules, [3, 5, 0]
  prefix = prior.prefix.tokens({"label": jnp.array(labels)}, {}, 3)
  full = jax.jit(lambda params, ids: prior.network(params, prefix).full(ids, None))
  logits = full(model.weights.params, jnp.asarray(ids).reshape(3, -1))
  log_probs = np.asarray(jax.nn.log_softmax(logits))
  each = np.take_along_axis(log_probs, ids.reshape(3, -1, 1), -1)[..., 0]
  np.testing.assert_allclose(model.log_prob(ids, label=labels), each.sum(-1), rtol=1e-4)
  np.testing.assert_allclose(
    model.log_prob(ids, label=labels, per_code=True), each, rtol=1e-3, atol=1e-4
  )


def test_a_bound_is_measured_with_noise_of_each_batch(priors):
  """A nearly uniform network over 8 codes is unsure of all positions alike, whatever the batch."""
  model, rng = priors("masked"), np.random.default_rng(0)
  ids = [rng.integers(0, 8, (8, 4, 4)).astype(np.int32) for _ in range(60)]
  rows = ({"ids": each, "label": np.arange(8, dtype=np.int32)} for each in ids)
  batches = ((batch, np.ones(8, np.float32)) for batch in rows)
  figures = model.loaded.run.measurement.over(batches, model.weights)
  nats = np.array([figures[f"nats_at/{i}"] for i in range(16)])
  assert np.abs(nats - np.log(8)).max() < 0.7
  # The row of an example does not matter.
  np.testing.assert_allclose(
    model.log_prob(ids[0][::-1], label=1, draws=4)[::-1],
    model.log_prob(ids[0], label=1, draws=4),
    rtol=1e-4,
  )
  np.testing.assert_allclose(model.log_prob(ids[0], label=1, draws=64) / 16, -np.log(8), atol=0.15)


@pytest.mark.parametrize(
  "scheme, order",
  [
    ("autoregressive", "flattened"),
    ("autoregressive", "delayed"),
    ("masked", "parallel"),
    ("replace", "flattened"),
    ("diffusion", "parallel"),
  ],
)
def test_several_books_keep_to_their_positions(scheme, order, untrained, small):
  """Residual codes, from the image to the loss and from the draw to the picture."""
  inner = dict(name="ema", codebook_size=8, dim=4)
  quantizer = dict(name="residual", depth=2, quantizer=inner)
  tokenizer = dict(model=dict(name="vqvae", **small, quantizer=quantizer))
  loaded = untrained(tokenizer, config_of(None, scheme, order=dict(name=order)).to_dict())
  task, weights = loaded.run.task, loaded.weights
  latent = task.info.modules.latent
  assert latent.grid == (4, 4, 2) and latent.vocabulary == 16 and latent.length == 32
  batch = {"image": jax.random.randint(jax.random.key(1), (8, 16, 16, 3), 0, 256).astype("uint8")}
  loss, _ = jax.jit(task.loss)(*weights, batch, jax.random.key(2), jnp.int32(0))
  assert 0 < loss < 6 * np.log(8)
  model = api.Prior(loaded)
  ids = model.encode(batch["image"])
  np.testing.assert_array_equal(latent.unflatten(latent.flatten(ids)), ids)
  seen, decode = [], model.decode
  model.decode = lambda ids: seen.append(np.asarray(ids)) or decode(ids)
  options = {} if scheme == "autoregressive" else {"steps": 3}
  assert model.sample(8, **options).shape == (8, 16, 16, 3)
  assert seen[0].shape == (8, 4, 4, 2) and seen[0].max() < 8
  request = model.sampler.request(Given(8))
  flat, steps = model.sampler.draw(request, 0, trajectory=True, **options)
  np.testing.assert_array_equal(flat, seen[0])
  assert steps.shape[1:] == (8, 32)
  np.testing.assert_array_equal(steps[-1].reshape(flat.shape), flat)


def test_a_prior_stays_with_its_tokenizer_and_opens_without_its_codes(
  tokenizer, tmp_path, random_run
):
  own = str(tmp_path / "own")
  shutil.copytree(tokenizer, own)
  tokenize.main(["--workdir", own, "--output", str(tmp_path / "codes"), "--batch_size", "8"])
  config = config_of(own, data=data.resolve(str(tmp_path / "codes")), ops={})
  train.train(config, tmp_path / "prior")
  (tmp_path / "codes").rename(tmp_path / "moved")
  vqjax.load(tmp_path / "prior")
  other = random_run(tmp_path / "other", configuration.of_run(own), seed=1)
  shutil.rmtree(f"{own}/checkpoints")
  shutil.copytree(other / "checkpoints", f"{own}/checkpoints")
  with pytest.raises(UserError, match=r"config.tokenizer: has changed since .*prior began"):
    vqjax.load(tmp_path / "prior")
  config.data.path = str(tmp_path / "moved")
  with pytest.raises(UserError, match="were made by tokenizer .* write them again"):
    train.train(config, tmp_path / "another")


def test_cached_codes_train_the_same_prior(tokenizer, priors, reads_the_same, tmp_path):
  """Its steps read the same of them, in the same order."""
  model = priors("autoregressive")
  reads_the_same(tokenizer, model, SHAPES, ("label",))
  cached = dict(name="codes", path=str(tmp_path / "codes"))
  images, codes = (data.Dataset(source).train(8, seed=3) for source in (SHAPES, cached))
  with contextlib.closing(images), contextlib.closing(codes):
    for plain, read in itertools.islice(zip(images, codes), 5):  # into the second epoch
      np.testing.assert_array_equal(model.encode(plain["image"]), read["ids"])
      np.testing.assert_array_equal(plain["label"], read["label"])


@pytest.mark.slow
def test_groups_of_books_are_drawn_coarse_to_fine(short, small, tmp_path, random_run):
  inner = dict(name="ema", codebook_size=8, dim=4)
  quantizer = dict(name="residual", depth=3, quantizer=inner)
  tokenizer = short | dict(model=dict(name="vqvae", **small, quantizer=quantizer))
  workdir, first = str(random_run(tmp_path / "rq", tokenizer)), str(tmp_path / "first")
  order = dict(name="coarse_to_fine", groups=(1, 2), within="delayed")
  random_run(first, config_of(workdir, order=order))
  below = dict(order=order, level=1, condition=dict(coarser=dict(prior=first)))
  model = vqjax.load(random_run(tmp_path / "second", config_of(workdir, **below)))
  assert model.modules.latent.grid == (4, 4, 2) and model.modules.latent.steps == 17
  coarse = vqjax.load(first)
  with pytest.raises(UserError, match="models level 0 of 2"):
    coarse.sample(1)
  seen, decode = [], model.decode
  model.decode = lambda ids: seen.append(np.asarray(ids)) or decode(ids)
  assert model.sample(8).shape == (8, 16, 16, 3) and seen[-1].shape == (8, 4, 4, 3)
  ids = np.asarray(model.encode(data.Dataset(SHAPES).sample(8)["image"]))
  model.complete_codes(ids, keep=0.5)
  np.testing.assert_array_equal(seen[-1][:, :2], ids[:, :2])
  assert (seen[-1][:, 2:] != ids[:, 2:]).any((0, 1, 2)).all()  # in every book
  both = coarse.log_prob(ids) + model.log_prob(ids)
  assert both.shape == (8,) and (both < 0).all()
  other = config_of(workdir, **below | dict(order=order | dict(groups=(2, 1))))
  random_run(tmp_path / "third", other)
  with pytest.raises(
    UserError, match=r"first has groups of \[1, 2\] books, this prior of \[2, 1\]"
  ):
    vqjax.load(tmp_path / "third").sample(1)


@pytest.mark.slow
def test_a_hierarchy_samples_coarse_first(short, small, tmp_path, random_run):
  model = dict(name="vqvae2", **small, quantizer=dict(name="ema", codebook_size=8, dim=4))
  workdir = str(random_run(tmp_path / "vqvae2", short | dict(model=model)))
  top = random_run(tmp_path / "top", config_of(workdir))
  below = config_of(workdir, level=1, condition=dict(coarser=dict(prior=str(top))))
  top, bottom = vqjax.load(top), vqjax.load(random_run(tmp_path / "bottom", below))
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
  bottom.sample(8, temperature=1e-5)  # as good as 0, which would be another program
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
  bottom.config.condition.coarser.prior = str(tmp_path / "bottom")
  configuration.save(bottom.config, tmp_path / "bottom2")
  for call, message in [
    (lambda: bottom.log_prob(ids[0]), "ids: one array; the tokenizer has 2 levels"),
    (lambda: bottom.sample(1, label=0), "label: this prior was trained without one"),
    (lambda: bottom.sample(1, height=32), "without levels"),
    (
      lambda: vqjax.load(tmp_path / "bottom2").sample(1),
      "config.condition.coarser.prior: .* is no prior of level 0; give one",
    ),
    (
      lambda: train.train(config_of(workdir, level=1), tmp_path / "x"),
      "config.level: 1 is drawn given the coarser ones; set config.condition.coarser.prior",
    ),
    (
      lambda: train.train(config_of(workdir, level=2), tmp_path / "x"),
      r"config.level: 2; the tokenizer has 2 level\(s\)",
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


def test_bad_requests_are_one_line(tokenizer, priors, tmp_path):
  model = priors("autoregressive")
  images = data.Dataset(SHAPES).sample(3)["image"]
  codes = np.zeros((1, 4, 4), int)
  broken = [
    None, 3, "word", codes[0], codes[:0], codes[:, :0, :0], codes * np.nan, codes[..., None],
    [[1], [1, 2]], [[[10**30]]], {},
  ]  # fmt: skip
  for call, message in [
    (lambda: model.sample(1, label=8), "label: 8 is outside 0 to 7"),
    (
      lambda: model.sample(1, layout=np.zeros((16, 16), int)),
      "layout: this prior was trained without one",
    ),
    (lambda: model.sample(1, top_k=0), "top_k: 0 is no whole number from 1 up"),
    (lambda: model.sample(1, top_k=9), "top_k: 9 is outside 1 to 8"),
    (lambda: model.sample(1, steps=4), "steps: the scheme autoregressive has no such option"),
    (lambda: model.complete(images, keep=1.5), "keep: 1.5 is outside 0 to 1"),
    (
      lambda: model.complete(images, mask=np.ones((16, 16))),
      "mask: an autoregressive prior cannot see",
    ),
    *(
      (lambda n=n, call=call: call(n), f"{name}: .* is no whole number")
      for name, call in [
        ("num", model.sample),
        ("num", model.frames),
        ("num", model.held_out),
        ("seed", lambda n: model.sample(1, seed=n or -1)),
        ("batch_size", lambda n: model.sample(2, batch_size=n)),
        ("draws", lambda n: model.log_prob(codes, draws=n)),
        ("height", lambda n: model.sample(1, height=n or 1.5)),
        ("top_k", lambda n: model.sample(1, top_k=n)),
      ]
      for n in (0, 1.5, 2.0, "many", [1])
    ),
    *(
      (lambda value=value, call=call: call(value), f"{name}: ")
      for name, call, values in [
        ("ids", model.decode, broken),
        ("ids", model.complete_codes, broken),
        ("ids", model.log_prob, broken),
        ("ids", lambda ids: model.frames(2, ids=ids), broken[1:]),
        ("image", model.complete, [None, "word", [[1], [1, 2]], {}]),
        ("images", model.encode, [None, "word", [[1], [1, 2]], images[0], images[:0]]),
        ("images", model.reconstruct, [np.full((1, 16, 16, 3), x) for x in (np.nan, np.inf)]),
        ("keep", lambda keep: model.complete_codes(codes, keep), ["all", [0.5], np.nan]),
      ]
      for value in values
    ),
    (lambda: model.sample(1, height=0, width=0), "height, width: 0 x 0 is not"),
    (lambda: model.sample(1, height=4 * 10**9, width=16), "height, width: .* is too large"),
    (lambda: model.complete_codes(codes, 0.5, np.ones((16, 16))), "keep, mask: each says which"),
    (
      lambda: model.sample(4, label=[1, 2]),
      r"label: 2 given for 4 example\(s\); give one, or one for each",
    ),
    (lambda: model.sample(1, label="dress"), "label: <U5 of shape .*; give numbers"),
    (lambda: model.sample(1, label=2.7), "label: float64 of shape .*; give integers"),
    (lambda: model.sample(1, label=2**40), "label: 1099511627776 is outside 0 to 7"),
    (lambda: model.sample(1, seed=-1), "seed: -1 is no whole number from 0 to"),
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
    (
      lambda: model.sample(1, prefix=3),
      "prefix: this prior has no such condition or option. Known: .*label",
    ),
    (
      lambda: model.complete(images, height=24),
      "height: this prior has no such condition or option. Known: .*label",
    ),
    (lambda: model.complete_codes(np.zeros((1, 5, 5), int)), "over grids of 4 x 4 codes"),
    (lambda: model.log_prob(np.full((1, 4, 4), 99)), "ids: 99 to 99 is not within 0 to 7"),
    (lambda: model.decode(np.zeros((1, 4, 4))), "ids: float64 of shape .*; give integers"),
    (lambda: model.frames(3, ids=np.zeros((2, 4, 4), int)), r"ids: of 2 example\(s\), but num=3"),
    (lambda: train.train(config_of(None), tmp_path / "x"), "config.tokenizer: is not set"),
    (
      lambda: train.train(
        config_of(tokenizer, condition=dict(label=dict(classes=3))), tmp_path / "y"
      ),
      r"label: \d is outside 0 to 2",
    ),
  ]:
    with pytest.raises(UserError, match=message) as e:
      call()
    assert "\n" not in str(e.value)


def test_identity_tells_weights_apart():
  a = {"w": jnp.arange(4.0)}
  assert digests.identity({}, a) == digests.identity({}, {"w": jnp.arange(4.0)})
  assert digests.identity({}, a) != digests.identity({}, {"w": jnp.arange(4.0).at[1].add(1e-6)})
  assert digests.identity({}, a) != digests.identity({"levels": (1,)}, a)
