"""Attention's kernels, interpreted, against XLA's products: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import pulled

from vqjax import sharding
from vqjax.latents import Codes
from vqjax.nn import attention, kernels, sparse, target
from vqjax.priors import transformer

MASKS = sparse.Masks(("column", "convolution", "row"), 3, 4, 3, 19)


def arrays(*shape):
  return [jax.random.normal(jax.random.key(i), shape) for i in range(4)]


def same(ours, true, atol=1e-5):
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(true)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


@pytest.fixture
def on_tpu(monkeypatch):
  """Attention takes the kernels, interpreted."""
  interpreted = functools.partial(kernels.attend, interpret=True)
  monkeypatch.setattr(kernels, "attend", interpreted)
  choose = lambda dtype, width: "kernels"
  return lambda: monkeypatch.setattr(attention, "implementation", choose)


@pytest.mark.parametrize(
  "heads, width, causal",
  [(2, 64, True), (3, 64, False), (5, 32, True), (4, 96, False), (3, 72, True), (1, 128, False)],
)
def test_heads_of_any_width(heads, width, causal):
  given = arrays(2, 12, heads, width)
  sees = (lambda query, key: key <= query,) if causal else ()
  ours = lambda *x: kernels.attend(*x, sees, interpret=True)
  plain = functools.partial(jax.nn.dot_product_attention, is_causal=causal)
  same(pulled(ours, *given), pulled(plain, *given))


def test_heads_too_many_to_lie_beside_each_other_are_padded(monkeypatch):
  monkeypatch.setattr(kernels, "_HELD_AT_MOST", 12 * 128)
  given = arrays(2, 12, 3, 72)
  shapes = str(jax.make_jaxpr(lambda *x: kernels.attend(*x, interpret=True))(*given[:3]))
  assert "f32[2,12,384]" in shapes
  ours = lambda *x: kernels.attend(*x, interpret=True)
  same(pulled(ours, *given), pulled(jax.nn.dot_product_attention, *given))


# A length that divides, unmasked, is in test_rotary_positions.
@pytest.mark.parametrize("length, causal", [(256, True), (200, True), (200, False)])
def test_queries_in_blocks_and_lengths_that_do_not_divide(monkeypatch, length, causal):
  monkeypatch.setattr(kernels, "_SCORES", 128 * 256)
  given = arrays(1, length, 1, 128)
  sees = (lambda query, key: key <= query,) if causal else ()
  ours = lambda *x: kernels.attend(*x, sees, interpret=True)
  plain = functools.partial(jax.nn.dot_product_attention, is_causal=causal)
  same(pulled(ours, *given), pulled(plain, *given))


@pytest.mark.parametrize("length, heads, width", [(256, 2, 64), (12, 16, 40), (12, 3, 72)])
def test_rotary_positions(monkeypatch, length, heads, width):
  """In blocks of queries, in heads that lie across registers, in some that fill no whole ones."""
  monkeypatch.setattr(kernels, "_SCORES", 128 * 256)
  given, angles = arrays(1, length, heads, width), attention.rotary_table((length,), width)
  fused = lambda q, k, v: kernels.attend(q, k, v, (), 0, jnp.asarray(angles), interpret=True)
  plain = lambda q, k, v: attention.attend(q, k, v, "full", 0, angles)
  same(pulled(fused, *given), pulled(plain, *given), atol=1e-4)


@pytest.mark.parametrize("kind", range(3))
def test_masks_of_several_kinds(kind):
  given = arrays(1, 19, 2, 64)
  fused = lambda kind, *x: pulled(
    lambda *y: kernels.attend(*y, MASKS.sees, kind, interpret=True), *x
  )
  plain = lambda q, k, v: attention.attend(q, k, v, MASKS, kind)
  same(jax.jit(fused)(kind, *given), pulled(plain, *given))


def test_rounding_is_that_of_the_products():
  """Probabilities are float32 and go into the second product in the inputs' type."""
  q, k, v, g = (x.astype(jnp.bfloat16) for x in arrays(1, 16, 2, 64))
  ours = pulled(lambda *x: kernels.attend(*x, interpret=True), q, k, v, g)
  assert {x.dtype for x in ours} == {jnp.dtype("bfloat16")}
  same(ours, pulled(jax.nn.dot_product_attention, q, k, v, g), atol=0.03)


@pytest.mark.parametrize(
  "mesh, positions", [(dict(data=4), "row_column"), (dict(data=1, fsdp=2, tensor=2), "rotary")]
)
def test_a_transformer_trains_the_same_on_a_mesh(on_tpu, mesh, positions):
  """Through layers, masks by name and recomputation; examples and heads on their own devices."""
  latent, mesh = Codes((4, 4), 16), sharding.make_mesh(**mesh)
  shape = dict(layers=3, width=16, heads=2, remat="block", attention="dalle", window=3)
  model = transformer.Model(latent, 20, positions=positions, max_prefix=2, **shape)
  ids = jax.random.randint(jax.random.key(0), (4, 16), 0, 16)
  prefix = jnp.array([[16, 17], [18, 19], [16, -1], [-1, -1]])
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, prefix, train=False))
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape).astype(x.dtype), shapes)
  batch = sharding.batch_sharding(mesh)

  def step(params, ids, prefix):
    with target.splitting(target.Split(batch, params=False)):
      loss = lambda params: jnp.square(model.apply(params, ids, prefix, train=False)).mean()
      return jax.value_and_grad(loss)(params)

  plain = jax.jit(step)(params, ids, prefix)
  on_tpu()
  fused = jax.jit(lambda *x: step(*x), in_shardings=(None, batch, batch))
  text = fused.lower(params, ids, prefix).as_text()
  assert "sdy.manual_computation" in text
  same(fused(params, ids, prefix), plain)


def test_what_the_kernels_leave_to_xla(on_tpu):
  """Other lengths of keys, masks as arrays, and all that is no training step."""
  on_tpu()
  q, k, v, _ = (jax.ShapeDtypeStruct(x.shape, "bfloat16") for x in arrays(4, 8, 2, 64))
  batch = sharding.batch_sharding(sharding.make_mesh())
  # A new function each time: what was traced before stays as it is.
  fused = lambda mask, *x: (
    "pallas_call" in str(jax.make_jaxpr(lambda *y: attention.attend(*y, mask))(*x))
  )
  assert not fused("causal", q, k, v)
  with target.splitting(target.Split(batch, params=False)):
    assert fused("causal", q, k, v) and fused("full", q, k, v) and fused(MASKS, q, k, v)
    few = jax.ShapeDtypeStruct((4, 3, 2, 64), "bfloat16")
    assert not fused("full", few, k, v)
    assert not fused("full", *[jax.ShapeDtypeStruct((3, 8, 2, 64), "bfloat16")] * 3)
    assert not fused("full", *[jax.ShapeDtypeStruct((4, 4096, 2, 64), "bfloat16")] * 3)
    assert not fused(jnp.ones((8, 8), bool), q, k, v)
