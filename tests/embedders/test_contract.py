"""What every embedder promises: vectors of the asked width of what it reads, and early errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import build
from vqjax.errors import UserError

SMALL = dict(width=16, depth=2, heads=2, mlp_width=32)
MORE = dict(vit=dict(patch=4))
GIVEN = dict(features=6, size=(8, 12), channels=3, vocabulary=20, length=5)
NAMES = build.names("embedders")


def made(name, **changes):
  return build.build("embedders", {"name": name} | SMALL | MORE.get(name, {}) | changes, **GIVEN)


def values_of(model, rows=3):
  rng = np.random.default_rng(0)
  if model.reads == "image":
    return jnp.asarray(rng.uniform(-1, 1, (rows, 8, 12, 3)), jnp.float32)
  return jnp.asarray([[1, 2, 19, -1, -1], [3, -1, -1, -1, -1], [-1] * 5], jnp.int32)[:rows]


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
  model, half = made(name), made(name, dtype="bfloat16", remat=True)
  values = values_of(model)

  @jax.jit
  def found():
    out, params = model.init_with_output(jax.random.key(0), values)
    return out, half.apply(params, values), model.apply(params, values[:1])

  out, rough, alone = found()
  assert out.shape == (3, 6) and out.dtype == rough.dtype == jnp.float32 and np.isfinite(out).all()
  np.testing.assert_allclose(rough, out, atol=0.05)
  np.testing.assert_allclose(alone, out[:1], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
  "changes, message", [(dict(heads=3), "does not divide width"), (dict(depth=0), "depth"),
                       (dict(activation="relu"), "activation")]
)  # fmt: skip
def test_sizes_are_refused_when_it_is_made(name, changes, message):
  with pytest.raises(UserError, match=message) as e:
    made(name, **changes)
  assert "\n" not in str(e.value)


def test_captions_are_read_from_the_left_up_to_their_end():
  """By gradient: a caption's vector hangs on its ids up to the last one, and on no other place."""
  model = made("transformer")
  ids = jnp.asarray([[1, 2, 19, -1, -1]], jnp.int32)

  @jax.jit
  def found():
    params = model.init(jax.random.key(0), ids)["params"]
    of_places = lambda places: model.apply({"params": params | {"positions": places}}, ids)[0]
    others = jnp.concatenate([ids, jnp.where(ids < 0, -5, ids), ids.at[0, 3].set(7)])
    moved = jax.jacrev(of_places)(params["positions"])
    return jnp.abs(moved).sum((0, 2)), model.apply({"params": params}, others)

  moved, vectors = found()
  assert (moved > 0).tolist() == [True, True, True, False, False]
  np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-6)
  assert np.abs(vectors[2] - vectors[0]).max() > 1e-4


def test_pixels_are_standardised_as_said():
  model, plain = made("vit", mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0)), made("vit")
  x = values_of(plain)
  mean, std = np.float32([0.1, 0.2, 0.3]), np.float32([0.5, 1.0, 2.0])
  ours = ((np.asarray(x) + 1) / 2 - mean) / std
  ours = ours * 0.5 + 0.5  # which the plain one takes off again

  @jax.jit
  def found():
    params = plain.init(jax.random.key(0), x)
    return model.apply(params, x), plain.apply(params, ours * 2 - 1)

  np.testing.assert_allclose(*found(), atol=1e-5)
  for changes in (dict(mean=(0.1, 0.2)), dict(std=(0.0,)), dict(patch=5)):
    with pytest.raises(UserError):
      made("vit", **changes)
