"""Quantizers against the arrays that vector-quantize-pytorch and taming-transformers computed."""

import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import build
from vqjax.nn import codebook


@pytest.fixture(scope="module")
def data(golden):
  return dict(np.load(golden / "quantizers.npz"))


@pytest.fixture(scope="module")
def meta(golden):
  return json.loads((golden / "meta_quantizers.json").read_text())


def close(actual, desired):
  np.testing.assert_allclose(actual, desired, rtol=1e-4, atol=1e-5)


def quantizer(name, **fields):
  return build.build("quantizers", dict(name=name, **fields))


def evaluate(q, variables, z):
  return jax.jit(lambda v, z: q.apply(v, z, train=False))(variables, z)


def initial(q, z):
  return jax.jit(lambda z: q.init(jax.random.key(0), z, train=False))(z)


def with_book(name, book, **fields):
  """A quantizer and its variables with this codebook in effect."""
  q = quantizer(
    name, codebook_size=len(book), dim=book.shape[1], codebook_init="normal", revive=0.0, **fields
  )
  variables = initial(q, jnp.zeros((1, book.shape[1])))
  stats, params = dict(variables["stats"]), dict(variables.get("params", {}))
  if name == "ema":
    stats |= {"codebook": jnp.asarray(book), "sums": jnp.asarray(book)}
  else:
    params["codebook"] = jnp.asarray(book)
  return q, {"params": params, "stats": stats}


def test_ema_three_steps(data, meta):
  q, variables = with_book(
    "ema", data["codebook0"], decay=meta["ema"]["decay"], eps=meta["ema"]["eps"]
  )
  train = jax.jit(lambda v, z: q.apply(v, z, train=True, mutable=["stats"]))
  for i in range(3):
    out, state = train(variables, data[f"z{i}"])
    variables = {**variables, **state}
    np.testing.assert_array_equal(out.ids, data[f"ema_idx{i}"])
    close(out.z, data[f"ema_q{i}"])
    close(out.loss, data[f"ema_loss{i}"])
    close(variables["stats"]["codebook"], data[f"ema_codebook{i + 1}"])
    close(variables["stats"]["counts"], data[f"ema_count{i + 1}"])


def test_cosine_similarity(data):
  for name in ("vq", "ema"):
    q, variables = with_book(name, data["codebook0"], normalize="l2")
    out = evaluate(q, variables, data["z0"])
    np.testing.assert_array_equal(out.ids, data["cos_idx"])
    close(out.z, data["cos_q"])


@pytest.mark.parametrize("estimator,prefix", [("straight_through", "st"), ("rotation", "rot")])
def test_gradient_estimators(data, estimator, prefix):
  q, variables = with_book("vq", data["codebook0"], estimator=estimator)
  out, pull = jax.vjp(lambda z: q.apply(variables, z, train=False).z, data["z1"])
  close(out, data[f"{prefix}_q"])
  close(pull(jnp.asarray(data[f"{prefix}_cotangent"]))[0], data[f"{prefix}_grad"])


@pytest.mark.parametrize("case", ["fsq_a", "fsq_b"])
def test_fsq(data, meta, case):
  q = quantizer("fsq", levels=meta[case])
  z = data[f"{case}_z"]
  out, pull = jax.vjp(lambda z: q.apply({}, z, train=False).z, z)
  close(out, data[f"{case}_q"])
  close(pull(jnp.asarray(data[f"{case}_cotangent"]))[0], data[f"{case}_grad"])
  ids = q.apply({}, z, train=False).ids
  np.testing.assert_array_equal(ids, data[f"{case}_idx"])
  close(q.apply({}, ids, method="embed"), data[f"{case}_codes_of_idx"])


def test_lfq(data, meta):
  m = meta["lfq"]
  fields = dict(
    dim=m["dim"],
    entropy_weight=m["entropy_loss_weight"],
    diversity=m["diversity_gamma"],
    commitment_weight=m["commitment_loss_weight"],
    temperature=1.0 / m["inv_temperature"],
  )
  out = evaluate(quantizer("lfq", **fields), {}, data["lfq_z"])
  close(out.z, data["lfq_q"])
  np.testing.assert_array_equal(out.ids, data["lfq_idx"])
  np.testing.assert_allclose(out.loss, data["lfq_aux"], rtol=1e-4)


def test_residual(data):
  books = data["rvq_codebooks"]
  inner = dict(name="ema", codebook_size=books.shape[1], dim=books.shape[2])
  q = quantizer("residual", quantizer=inner, depth=len(books))
  variables = initial(q, data["z2"])
  stats = {
    f"levels_{i}": {**variables["stats"][f"levels_{i}"], "codebook": b} for i, b in enumerate(books)
  }
  out = evaluate(q, {"stats": stats}, data["z2"])
  np.testing.assert_array_equal(out.ids, data["rvq_idx"])
  close(out.z, data["rvq_q"])
  close(q.apply({"stats": stats}, data["rvq_idx"], method="embed"), data["rvq_from_idx"])


def test_vq_of_taming(golden):
  torch = pytest.importorskip("torch")
  data = np.load(golden / "taming_vqmodel.npz")
  checkpoint = torch.load(golden / "taming_vqmodel.ckpt", weights_only=True)
  book = checkpoint.get("state_dict", checkpoint)["quantize.embedding.weight"].numpy()
  q, variables = with_book("vq", book, codebook_weight=1.0, commitment_weight=0.25)
  out = evaluate(q, variables, data["pre_quant"])
  np.testing.assert_array_equal(out.ids, data["indices"])
  close(out.z, data["quant"])
  close(out.loss, data["codebook_loss"])
  loss = lambda book: (
    q.apply({**variables, "params": {"codebook": book}}, data["pre_quant"], train=False).loss
  )
  close(jax.jit(jax.grad(loss))(jnp.asarray(book)), data["grad_codebook"])
  legacy, _ = with_book("vq", book, codebook_weight=0.25, commitment_weight=1.0)
  close(evaluate(legacy, variables, data["pre_quant"]).loss, data["codebook_loss_legacy"])


def test_gumbel_of_taming(golden):
  data = np.load(golden / "taming_gumbelvq.npz")
  size = data["logits"].shape[-1]
  q = quantizer("gumbel", codebook_size=size, dim=4, projection="none", kl_weight=5e-4)
  variables = initial(q, data["logits"])
  out = evaluate(q, variables, data["logits"])
  np.testing.assert_array_equal(out.ids, data["indices_argmax"])
  np.testing.assert_allclose(out.loss, data["kl"], rtol=1e-4)
  np.testing.assert_array_equal(out.z, codebook.lookup(variables["params"]["codebook"], out.ids))


def test_codes_of_openai(golden):
  data = np.load(golden / "openai_dvae.npz")
  size = data["logits"].shape[-1]
  q = quantizer("gumbel", codebook_size=size, dim=4, projection="none")
  variables = initial(q, data["logits"])
  np.testing.assert_array_equal(evaluate(q, variables, data["logits"]).ids, data["indices"])


@pytest.mark.parametrize(
  "name,codebook,commitment,init",
  [
    ("vqgan_imagenet_f16_1024", 0.25, 1.0, "uniform"),
    ("vqgan_imagenet_f16_16384", 0.25, 1.0, "uniform"),
    ("vqvae_imagenet", 1.0, 0.25, "normal"),
    ("vqvae_cifar10", 1.0, 0.25, "normal"),
  ],
)
def test_configs_train_codebooks_as_published(name, codebook, commitment, init, monkeypatch):
  monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2]))
  cfg = importlib.import_module(f"configs.{name}").get_config()["model"]["quantizer"]
  cfg = cfg.get("quantizer", cfg)
  assert (cfg["codebook_weight"], cfg["commitment_weight"]) == (codebook, commitment)
  assert (cfg["codebook_init"], cfg["revive"]) == (init, 0.0)
