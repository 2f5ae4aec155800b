"""PatchGAN against taming's discriminator and against PyTorch's own layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.discriminators import patchgan
from vqjax.errors import UserError


def from_torch(state):
  """{params, batch_stats} from the tensors of taming's NLayerDiscriminator."""
  params, stats = {}, {}
  for name, tensor in state.items():
    _, position, kind = name.split(".")
    value = np.asarray(tensor)
    layer = f"main_{position}"
    if value.ndim == 4:
      params.setdefault(layer, {})["kernel"] = value.transpose(2, 3, 1, 0)
    elif kind in ("running_mean", "running_var"):
      stats.setdefault(layer, {})[kind.removeprefix("running_")] = value
    elif kind == "bias":
      params.setdefault(layer, {})["bias"] = value
    elif kind == "weight":
      params.setdefault(layer, {})["scale"] = value
  return {"params": params, "batch_stats": stats}


@pytest.fixture(scope="module")
def published(golden):
  torch = pytest.importorskip("torch")
  state = torch.load(golden / "taming_discriminator.ckpt", weights_only=True)
  return from_torch(state.get("state_dict", state)), np.load(golden / "taming_discriminator.npz")


def test_has_the_tensors_of_taming(published):
  """And its features; its values are compared in importers/test_taming_vqgan.py."""
  variables, values = published
  disc = patchgan.Model(channels=16, n_layers=2)
  ((logits, features), _), shapes = jax.eval_shape(
    lambda x: (
      disc.apply(variables, x, train=True, mutable="batch_stats"),
      disc.init(jax.random.key(0), x, train=True),
    ),
    values["real"],
  )
  assert jax.tree.map(jnp.shape, dict(variables)) == jax.tree.map(jnp.shape, dict(shapes))
  assert logits.shape == values["logits_real"].shape
  assert [f.shape for f in features] == [(2, 16, 16, 16), (2, 8, 8, 32), (2, 7, 7, 64)]


def test_group_norm_matches_torch():
  torch = pytest.importorskip("torch")
  disc = patchgan.Model(channels=32, n_layers=1, norm="group")
  x = np.random.default_rng(0).normal(size=(2, 12, 16, 3)).astype(np.float32)
  variables = jax.jit(functools.partial(disc.init, train=True))(jax.random.key(1), x)
  assert variables.keys() == {"params"}
  params = jax.tree.map(np.asarray, variables["params"])
  h = torch.tensor(x).permute(0, 3, 1, 2)
  conv = lambda h, p, stride: torch.nn.functional.conv2d(
    h, torch.tensor(p["kernel"]).permute(3, 2, 0, 1), torch.tensor(p["bias"]), stride, padding=1
  )
  h = torch.nn.functional.leaky_relu(conv(h, params["main_0"], 2), 0.2)
  h = torch.nn.functional.group_norm(conv(h, params["main_2"], 1), 32)
  h = conv(torch.nn.functional.leaky_relu(h, 0.2), params["main_5"], 1)
  logits, _ = disc.apply(variables, x, train=True)
  np.testing.assert_allclose(logits, h.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


def test_batch_statistics_are_of_the_global_batch():
  disc = patchgan.Model(channels=4, n_layers=1)
  x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
  x += np.arange(4, dtype=np.float32)[:, None, None, None]
  variables = jax.jit(functools.partial(disc.init, train=True))(jax.random.key(0), x)
  mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  sharded = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
  run = jax.jit(lambda v, x: disc.apply(v, x, train=True, mutable="batch_stats"))
  (logits, _), stats = run(variables, sharded)
  (expected, _), expected_stats = run(variables, x)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), stats, expected_stats
  )


def test_bfloat16_keeps_statistics_and_logits_in_float32():
  disc = patchgan.Model(channels=4, n_layers=1, dtype="bfloat16")
  (logits, features), variables = jax.eval_shape(
    lambda: disc.init_with_output(jax.random.key(0), jnp.zeros((2, 8, 8, 3)), train=True)
  )
  assert logits.dtype == jnp.float32 and {f.dtype for f in features} == {jnp.dtype("bfloat16")}
  assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_names_the_image_that_leaves_no_patch():
  with pytest.raises(UserError, match="size 16x32 .* at least 24"):
    jax.eval_shape(
      lambda: patchgan.Model().init(jax.random.key(0), jnp.zeros((1, 16, 32, 3)), train=True)
    )
  logits, _ = jax.eval_shape(
    lambda: patchgan.Model().init_with_output(
      jax.random.key(0), jnp.zeros((1, 24, 24, 3)), train=True
    )[0]
  )
  assert logits.shape == (1, 1, 1, 1)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("axes", [1, 3])
def test_axes(axes, norm):
  disc, for_images = (patchgan.Model(channels=4, n_layers=1, norm=norm, axes=n) for n in (axes, 2))
  run = lambda disc, *size: jax.eval_shape(
    lambda: disc.init_with_output(jax.random.key(0), jnp.zeros((2, *size, 1)), train=True)
  )
  (logits, features), variables = run(disc, *(8, 12, 6)[:axes])
  assert logits.shape == (2, *(2, 4, 1)[:axes], 1)
  assert [f.shape for f in features] == [(2, *(4, 6, 3)[:axes], 4), (2, *(3, 5, 2)[:axes], 8)]
  # The same parameters as for images, but for the kernels' number of axes.
  assert jax.tree.structure(variables) == jax.tree.structure(run(for_images, 8, 8)[1])
  with pytest.raises(UserError, match="size 8x8 has 2 grid axes"):
    run(disc, 8, 8)


@pytest.mark.parametrize("field,value", [("channels", 0), ("n_layers", 0), ("axes", 4)])
def test_impossible_fields_are_named(field, value):
  with pytest.raises(UserError, match="patchgan is made for" if field == "axes" else f"{field}: 0"):
    patchgan.Model(**{field: value})
