"""Priors over floats as tasks: which latents are learned and how they are normalised, caches of
them, exact resume, sampling through the Python API, and wrong pairs in one line.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

import vqjax
from vqjax import config as configuration, data, lineage, measure, tasks, tokenize, train
from vqjax.errors import UserError
from vqjax.sampler import Given
from vqjax.schemes import flow
from vqjax.tasks import _latents

SHAPES = dict(name="shapes", size=16, num_train=32, num_eval=8)
DIT = dict(name="dit", layers=1, width=16, heads=2, hidden=16, patch=2)
LABELS = dict(label=dict(classes=8), drop=0.3)


@pytest.fixture(scope="session")
def vae(short, small, tmp_path_factory, random_run):
  """The workdir of a tokenizer without codes: 4 x 4 Gaussian latents of 3 channels."""
  workdir = tmp_path_factory.mktemp("vae")
  quantizer = dict(name="gaussian", dim=3, noise=0.1)
  model = dict(name="vqvae", **small, quantizer=quantizer)
  return str(random_run(workdir, short | dict(model=model), std=None))


FLOW = dict(name="flow", likelihood_steps=2)


def config_of(tokenizer, **values):
  base = dict(
    task="prior",
    tokenizer=tokenizer,
    data=SHAPES,
    ops=dict(size=16, channels=3),
    model=DIT,
    scheme=FLOW,
    condition=LABELS,
    batch_size=8,
    total_steps=8,
    log_every=3,
    save_every=5,
    eval_examples=8,
    preview=0,
    keep=4,
    ema_decay=0.9,
    optim=dict(lr=1e-2),
  )
  return configuration.complete(base | values)


@pytest.fixture(scope="module")
def cached(vae, tokenizer, tmp_path_factory):
  """Folders of cached latents: of the VAE's, and before the codes of the other tokenizer."""
  folders = {name: tmp_path_factory.mktemp(name) for name in ("vae", "continuous")}
  for (name, folder), workdir in zip(folders.items(), (vae, tokenizer)):
    command = ["--workdir", workdir, "--output", str(folder), "--batch_size=8", "--shard=12"]
    tokenize.main(command + (["--latents=continuous"] if name == "continuous" else []))
  return folders


@pytest.fixture(scope="module")
def latents(vae):
  """The VAE's latents of all training images, encoded here."""
  batches = data.Dataset(SHAPES, dict(size=16)).batches(8, split="train")
  images = np.concatenate([batch["image"][mask > 0] for batch, mask in batches])
  return np.asarray(vqjax.load(vae).encode(images))


def test_a_tokenizer_without_codes_yields_floats(vae, cached, latents):
  model = vqjax.load(vae)
  images = data.Dataset(SHAPES, dict(size=16)).sample(4)["image"]
  z = model.encode(images)
  assert z.shape == (4, 4, 4, 3) and z.dtype == np.float32
  np.testing.assert_array_equal(z, model.encode(images))  # the mean: nothing is drawn
  np.testing.assert_array_equal(model.decode(z), model.reconstruct(images))
  manifest = json.loads((cached["vae"] / "manifest.json").read_text())
  files = [s["files"]["latents"] for s in manifest["splits"]["train"]]
  rows = np.concatenate([np.load(cached["vae"] / f) for f in files])
  assert rows.dtype == np.float16 and rows.shape == (32, 4, 4, 3)
  np.testing.assert_allclose(rows, latents, atol=2e-3, rtol=2e-3)


def test_floats_before_codes_are_quantized_by_the_decoder(tokenizer, cached):
  model = vqjax.load(tokenizer)
  stage = vqjax.api.Tokenizer(vqjax.api.open_run(tokenizer), model.info.floats)
  images = data.Dataset(SHAPES, dict(size=16)).sample(4)["image"]
  z = stage.encode(images)
  assert z.shape == (4, 4, 4, 4)
  np.testing.assert_array_equal(stage.decode(z), model.decode(model.encode(images)))
  # A little off, and still the same codes.
  np.testing.assert_array_equal(stage.decode(z + 1e-5), stage.decode(z))
  batch = data.Dataset(dict(name="codes", path=str(cached["continuous"]))).sample(8)
  assert batch["latents"].shape == (8, 4, 4, 4) and batch["latents"].dtype == np.float16


@pytest.mark.slow
def test_a_flow_trains_samples_completes_and_stays_with_its_statistics(
  vae, latents, tmp_path, crash, same_run, compiled_once
):
  workdir = tmp_path / "prior"
  train.train(config_of(vae), tmp_path / "whole")
  with crash(6):
    train.train(config_of(vae), workdir)
  # Continued with the same config, which says nothing of statistics.
  train.train(config_of(vae), workdir)
  assert int(same_run(tmp_path / "whole", workdir).step) == 8
  z = latents.reshape(-1, 3).astype(np.float64)
  kept = json.loads((workdir / "latents.json").read_text())
  np.testing.assert_allclose(kept["mean"], z.mean(0), atol=1e-5)
  np.testing.assert_allclose(kept["std"], z.std(0), rtol=1e-4)
  model = vqjax.load(workdir)
  latent = model.modules.latent
  assert latent.kind == "floats" and latent.mean == tuple(kept["mean"])
  flat = np.asarray(latent.flatten(latents)).reshape(-1, 3)
  np.testing.assert_allclose(flat.std(0), 1, rtol=1e-3)
  drawn = model.sample(3, label=[0, 1, 7], seed=1, guidance=2.0, steps=3)
  assert drawn.shape == (3, 16, 16, 3) and drawn.dtype == np.uint8
  np.testing.assert_array_equal(
    drawn, model.sample(3, label=[0, 1, 7], seed=1, guidance=2.0, steps=3)
  )
  images = data.Dataset(SHAPES, dict(size=16)).sample(3)["image"]
  mask = np.zeros((16, 16))
  mask[:8] = 1
  ids = model.encode(images)
  request = model.sampler.request(Given(3, {"label": np.arange(3)}, (ids,), mask=mask))
  out = np.asarray(model.sampler.draw(request, 0, steps=2))
  np.testing.assert_allclose(out[:, 2:], np.asarray(ids)[:, 2:], atol=1e-5)
  assert (out[:, :2] != np.asarray(ids)[:, :2]).all()
  assert model.complete(images, keep=0.5, label=[0, 1, 2], steps=2).shape == images.shape
  assert model.frames(3, label=[0, 1, 2], steps=3, solver="euler").shape == (3, 3, 16, 16, 3)
  nats = model.log_prob(ids, label=[0, 1, 2], draws=2)
  assert nats.shape == (3,) and np.isfinite(nats).all()
  with pytest.raises(UserError, match=r"config.latents.mean: this workdir was trained with"):
    train.train(config_of(vae, latents=dict(mean=(0.0,) * 3, std=(1.0,) * 3)), workdir)
  changed = json.loads((workdir / "config.json").read_text())
  changed["latents"]["std"] = [1.0] * 3
  (workdir / "config.json").write_text(json.dumps(changed))
  with pytest.raises(UserError, match="config.latents: has changed since"):
    vqjax.load(workdir)


def test_a_run_on_cached_latents_begins_with_their_statistics(vae, cached, latents, tmp_path):
  """And its step and its figures, of a network that predicts variances too, have shapes."""
  source = dict(name="codes", path=str(cached["vae"]))
  scheme = dict(name="ddpm", variance="learned", likelihood_steps=2)
  dataset = data.Dataset(source)
  config = train.begun(config_of(vae, data=source, scheme=scheme), dataset, tmp_path)
  z = latents.reshape(-1, 3).astype(np.float16).astype(np.float64)  # as they are kept
  np.testing.assert_allclose(config.latents.mean, z.mean(0), atol=1e-3)
  np.testing.assert_allclose(config.latents.std, z.std(0), rtol=2e-3)
  batch = dataset.sample(8)
  run = train.Run(config, configuration.spec_of(batch, config))
  frozen = run.task.frozen.shapes()
  _, metrics = jax.eval_shape(run._step, run.abstract, frozen, run.task.prepare(batch))
  assert metrics["loss/floats"].shape == ()
  measure.HeldOut(run, dataset, train.weights_of(run.abstract, frozen))


def test_samples_of_a_posterior_differ_from_step_to_step(vae, monkeypatch):
  statistics = dict(kind="sampled", mean=(0.0,) * 3, std=(1.0,) * 3)
  config = config_of(vae, latents=statistics, condition={})
  spec = {"image": jax.ShapeDtypeStruct((8, 16, 16, 3), "uint8")}
  stage = _latents.opened(config, spec)
  frozen, images = stage.load(), data.Dataset(SHAPES, dict(size=16)).sample(4)["image"]
  levels = lambda key: np.asarray(stage.levels_of(frozen, {"image": images}, key)[0])
  mean, one, other = levels(None), levels(jax.random.key(0)), levels(jax.random.key(1))
  np.testing.assert_allclose(mean, vqjax.load(vae).encode(images), atol=1e-6)
  assert np.abs(one - mean).max() > 1e-3 and np.abs(one - other).max() > 1e-3
  # The likelihood is of samples, too: means are what the prior never saw.
  monkeypatch.setattr(flow.Scheme, "bound", lambda self, key, network, latent: latent[..., 0])
  run, batch = train.Run(config, spec), data.Dataset(SHAPES, dict(size=16)).sample(4)
  given = tasks.Weights(run.abstract.params, {}, run.load_frozen())
  nats = lambda seed: run.task.predict["likelihood"](given, batch, jax.random.key(seed))["nats"]
  found = [np.asarray(nats(seed)).ravel() for seed in (0, 1)]
  assert all(np.abs(x - mean[..., 0].ravel()).max() > 1e-3 for x in found)
  assert np.abs(found[0] - found[1]).max() > 1e-3


def refused(config, spec=None):
  """What training says before its first step."""
  with pytest.raises(UserError) as e:
    spec = spec or {"image": ((16, 16, 3), "uint8"), "label": ((), "int32")}
    shapes = {k: jax.ShapeDtypeStruct((8, *s), dtype) for k, (s, dtype) in spec.items()}
    train.Run(config, shapes)
  assert "\n" not in str(e.value)
  return str(e.value)


def test_the_wrong_kind_of_latent_is_one_line(vae, tokenizer):
  transformer = dict(name="transformer", layers=1, width=16, heads=2)
  said = refused(config_of(vae, scheme=dict(name="autoregressive"), model=transformer))
  assert "'autoregressive' is for codes" in said and "flow" in said and vae in said
  said = refused(config_of(tokenizer))
  assert "'flow' is for floats" in said and "config.latents.kind=continuous" in said
  said = refused(config_of(vae, model=transformer))
  assert "config.model.name: 'transformer' is for codes" in said and "take one of dit" in said
  latents = {"latents": ((4, 4, 3), "float16"), "label": ((), "int32")}
  said = refused(config_of(tokenizer, scheme=dict(name="masked"), model=DIT), latents)
  assert "config.data: holds floats" in said and "codes are learned" in said
  ids = {"ids": ((4, 4), "int32"), "label": ((), "int32")}
  said = refused(config_of(vae), ids)
  assert "config.data: holds codes" in said and "--latents=continuous" in said
  said = refused(config_of(vae, latents=dict(kind="sampled")), latents)
  assert "'sampled' draws from posteriors" in said
  with pytest.raises(UserError, match="mean, std: 1 and 0 numbers; give both"):
    config_of(vae, latents=dict(mean=(1.0,)))


def test_a_cache_of_another_tokenizer_is_one_line(vae, tokenizer, cached, tmp_path):
  source = dict(name="codes", path=str(cached["continuous"]))
  with pytest.raises(UserError, match="the latents in .* were made by tokenizer"):
    lineage.check_codes({"tokenizer": "another"}, data.Dataset(source), {"tokenizer": vae})
  with pytest.raises(UserError):
    train.train(config_of(vae, data=source), tmp_path / "prior")


def test_the_network_of_floats_serves_codes_too(tokenizer):
  config = config_of(tokenizer, scheme=dict(name="masked"), model=DIT)
  spec = {"image": ((16, 16, 3), "uint8"), "label": ((), "int32")}
  shapes = {k: jax.ShapeDtypeStruct((8, *s), dtype) for k, (s, dtype) in spec.items()}
  run = train.Run(config, shapes)
  _, metrics = jax.eval_shape(run._step, run.abstract, run.task.frozen.shapes(), shapes)
  assert metrics["loss/codes"].shape == ()


@pytest.mark.parametrize("remat", ["none", "block"])
def test_a_mean_flow_learns_and_draws_without_a_condition(vae, remat):
  """Its loss differentiates the network in both directions, through dropout and recomputation."""
  statistics = dict(mean=(0.0,) * 3, std=(1.0,) * 3)
  config = config_of(
    vae,
    scheme=dict(name="meanflow"),
    model=DIT | dict(remat=remat, dropout=0.1),
    condition={},
    latents=statistics,
  )
  spec = {"image": jax.ShapeDtypeStruct((8, 16, 16, 3), "uint8")}
  run = train.Run(config, spec, jax.devices()[:1])
  # Adam's moments begin at zero; the average must not be the very buffers of what it averages.
  state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), run.abstract)
  params = weights.drawn(run.abstract.params)
  state = state.replace(params=params, ema=jax.tree.map(jnp.copy, params["model"]))
  frozen = run.load_frozen()
  batch = {"image": data.Dataset(SHAPES, dict(size=16)).sample(8)["image"]}
  before = jax.device_get(state.params["model"]["head"]["kernel"])
  for _ in range(2):
    state, metrics = run.step(state, frozen, batch)
  assert np.isfinite(float(metrics["loss/floats"])) and float(metrics["floats/square"]) > 0
  assert "span_in" in state.params["model"]
  assert (jax.device_get(state.params["model"]["head"]["kernel"]) != before).any()
  if remat == "none":  # drawing takes no gradients, so it recomputes nothing
    drawn = jax.jit(run.task.predict["sample"])(
      train.weights_of(state, frozen), batch, jax.random.key(0)
    )
    assert drawn["image"].shape == (8, 16, 16, 3) and np.isfinite(drawn["image"]).all()


def test_a_hierarchy_without_codes_is_told_what_it_can_do(short, tmp_path):
  model = dict(name="vqvae2", hidden=8, residual_hidden=8, residual_blocks=1)
  config = configuration.complete(short | dict(model=model | dict(quantizer=dict(name="identity"))))
  spec = {"image": jax.ShapeDtypeStruct((8, 16, 16, 3), "uint8")}
  configuration.save(config, tmp_path)
  configuration.save_spec(spec, tmp_path)
  run = train.Run(config, spec)
  assert run.task.info.levels == run.task.info.floats == ()
  said = refused(config_of(str(tmp_path)))
  assert "gives no single latent before its codes" in said
  model = vqjax.api.Tokenizer(vqjax.api.Loaded(tmp_path, config, run, None))
  for call in (lambda: model.encode(np.zeros((1, 16, 16, 3))), lambda: model.decode(np.zeros(1))):
    with pytest.raises(UserError, match="neither codes nor a single latent; use reconstruct"):
      call()
