"""LPIPS against the authors' package, and its gradients where activations vanish."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.importers import lpips as importer
from vqjax.nn import perceptual


@pytest.fixture(scope="module")
def states(golden):
  """The (VGG16, linear) state dicts that the golden values were made with."""
  order = json.loads((golden / "meta_models.json").read_text())["lpips_vgg"]["order"]
  rng = np.random.default_rng(1234)
  vgg, linear = {}, {}
  for name, shape in order:
    _, position, kind = name.split(".")
    scale = np.sqrt(2 / np.prod(shape[1:])) if kind == "weight" else 0.05
    vgg[f"features.{position}.{kind}"] = (
      rng.standard_normal(shape).astype(np.float32) * scale
    ).astype(np.float32)
  for g, width in enumerate((64, 128, 256, 512, 512)):
    linear[f"lin{g}.model.1.weight"] = np.abs(
      rng.standard_normal((1, width, 1, 1)).astype(np.float32)
    )
  return vgg, linear


@pytest.fixture(scope="module")
def weights(states):
  return importer.weights(*states)


@pytest.fixture(scope="module")
def values(golden):
  return np.load(golden / "lpips_vgg.npz")


def test_matches_the_authors(weights, values):
  @jax.jit
  def run(weights, a, b):
    features = (perceptual.lpips_features(weights, image) for image in (a, b))
    return perceptual.layer_distances(weights, *features), perceptual.lpips(weights, a, b)

  layers, distance = run(weights, values["a"], values["b"])
  np.testing.assert_allclose(distance, values["distance"], rtol=1e-4)
  for i, layer in enumerate(layers):
    np.testing.assert_allclose(layer, values[f"layer{i}"], rtol=1e-4)


def test_bfloat16_is_close(weights, values):
  a, b = values["a"][:1, :16, :16], values["b"][:1, :16, :16]
  distance = jax.jit(perceptual.lpips, static_argnums=3)(weights, a, b, "bfloat16")
  full = jax.jit(perceptual.lpips)(weights, a, b)
  assert distance.dtype == jnp.float32
  np.testing.assert_allclose(distance, full, rtol=0.05)


def test_gradients(weights, values):
  a, b = values["a"][:1, :16, :16], values["b"][:1, :16, :16]
  gradient = jax.jit(
    jax.grad(lambda w, real, recon: perceptual.lpips(w, real, recon).sum(), argnums=(1, 2))
  )
  on_b, on_a = gradient(weights, b, a)
  assert jnp.isfinite(on_a).all() and (on_a != 0).any() and (on_b == 0).all()
  # Weights that switch every activation off: features of zeros, whose norm has no derivative.
  dead = {k: np.full_like(v, -1.0) if k.endswith("bias") else 0 * v for k, v in weights.items()}
  _, on_a = gradient(dead, b, a)
  assert jnp.isfinite(on_a).all()


def test_unit_features_have_finite_gradients_at_zero():
  gradient = jax.grad(lambda x: perceptual._unit(x).sum())(jnp.zeros((1, 1, 1, 4)))
  assert jnp.isfinite(gradient).all()


def test_one_channel_is_repeated(weights, values):
  grey = values["a"][:1, :16, :16, :1]
  feature = jax.jit(lambda weights, x: perceptual.lpips_features(weights, x)[0])
  repeated = np.repeat(grey, 3, axis=-1)
  np.testing.assert_allclose(
    feature(weights, grey), feature(weights, repeated), rtol=1e-5, atol=1e-6
  )
  with pytest.raises(UserError, match="at least 16 pixels, got 8x16"):
    perceptual.lpips_features(weights, grey[:, :8])


def test_save_and_load(states, weights, tmp_path):
  importer.write_file(states[::-1], {}, tmp_path / "lpips.npz")
  loaded = perceptual.load(tmp_path / "lpips.npz")
  assert loaded.keys() == weights.keys() == perceptual.shapes().keys()
  for name, value in weights.items():
    np.testing.assert_array_equal(loaded[name], value)


def test_unusable_files_are_told(tmp_path):
  with pytest.raises(UserError, match="no such file; write one with"):
    perceptual.load(tmp_path / "absent.npz")
  (tmp_path / "text.npz").write_text("not an archive")
  with pytest.raises(UserError, match="not an .npz"):
    perceptual.load(tmp_path / "text.npz")
  empty = {name: np.zeros(shape, np.float32) for name, shape in perceptual.shapes().items()}
  for change, message in (
    ({"linear0": np.zeros(3)}, r"'linear0' has shape \(3,\), expected \(64,\)"),
    ({"linear9": np.zeros(3)}, "unexpected array 'linear9'"),
  ):
    np.savez(tmp_path / "wrong.npz", **(empty | change))
    with pytest.raises(UserError, match=message):
      perceptual.load(tmp_path / "wrong.npz")
  np.savez(tmp_path / "short.npz", linear0=np.zeros(64))
  with pytest.raises(UserError, match="'conv0_0/kernel' is missing"):
    perceptual.load(tmp_path / "short.npz")


def test_importer_names_the_tensor(states):
  vgg, linear = states
  assert (
    importer.weights(vgg | {"classifier.0.weight": np.zeros(1)}, linear).keys()
    == perceptual.shapes().keys()
  )
  with pytest.raises(UserError, match="VGG16: missing: 'features.5.weight'"):
    importer.weights({k: v for k, v in vgg.items() if k != "features.5.weight"}, linear)
  with pytest.raises(UserError, match="LPIPS linear weights: unexpected: 'lin5"):
    importer.weights(vgg, linear | {"lin5.model.1.weight": np.zeros(1)})
  with pytest.raises(UserError, match=r"'features.0.bias' is \(3,\), not \(64,\)"):
    importer.weights(vgg | {"features.0.bias": np.zeros(3)}, linear)
