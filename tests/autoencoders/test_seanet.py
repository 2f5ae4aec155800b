"""SEANet: sounds of any length, causality by gradients, chunks that equal the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from vqjax import tiles
from vqjax.build import build
from vqjax.errors import UserError
from vqjax.nn import waves

SMALL = dict(width=4, strides=(2, 3), decoder_width=None, dilations=(1, 3), residual_size=3)
ENCODEC = dict(
  compress=2, shortcut="conv", activation="elu", time="causal", edges="reflect", lstm=1,
  output="none",
)  # fmt: skip
VQ = dict(name="residual", depth=2, quantizer=dict(name="ema", codebook_size=8, dim=4))


@functools.cache
def made(causal):
  fields = dict(name="seanet", quantizer=VQ) | SMALL | (ENCODEC if causal else {})
  model = build("autoencoders", fields)
  return model, weights.initialised(model, jnp.zeros((1, 60, 1)), std=0.3)


@pytest.mark.parametrize("causal", [False, True])
def test_any_length(causal):
  """From one sample up."""
  model, variables = made(causal)
  x = 0.3 * jax.random.normal(jax.random.key(1), (1, 60, 1))
  for length in (1, 6, 59):
    (grid,) = model.grid(length)
    ids = jax.eval_shape(lambda x: model.apply(variables, x, method="tokens"), x[:, :length])
    recon, _ = jax.eval_shape(lambda x: model.apply(variables, x, train=False), x[:, :length])
    assert ids.shape == (1, grid, 2) and recon.shape == (1, length, 1)
    back = jax.eval_shape(lambda ids: model.apply(variables, ids, method="from_tokens"), ids)
    assert back.shape == (1, 6 * grid, 1)
  with pytest.raises(UserError, match="size 0"):
    model.grid(0)


def test_causal_models_never_see_the_future():
  """By gradients: of latents at the samples, and of samples at the latents."""
  model, variables = made(True)
  model = model.clone(edges="zeros")  # reflections show the very first codes what follows
  x = 0.3 * jax.random.normal(jax.random.key(1), (1, 60, 1))
  z = jax.eval_shape(lambda x: model.apply(variables, x, method="encode"), x)
  z = jax.random.normal(jax.random.key(2), z.shape)
  encode = lambda x: model.apply(variables, x, method="encode")[0].sum(-1)
  decode = lambda z: model.apply(variables, z, method="decode")[0, :, 0]
  seen = np.abs(jax.jit(jax.jacrev(encode))(x))[:, 0, :, 0]  # [code, sample]
  for code in range(10):
    assert seen[code, 6 * code + 5] > 0 and not seen[code, 6 * code + 6 :].any()
  seen = np.abs(jax.jit(jax.jacfwd(decode))(z))[:, 0].sum(-1)  # [sample, code]
  for sample in range(60):
    assert seen[sample, sample // 6] > 0 and not seen[sample, sample // 6 + 1 :].any()
  centred, variables = made(False)
  encode = lambda x: centred.apply(variables, x, method="encode")[0].sum(-1)
  assert np.abs(jax.jit(jax.jacrev(encode))(x))[0, 0, 6:, 0].any(), "the test sees what looks ahead"


@pytest.mark.parametrize("causal", [False, True])
def test_a_stream_in_chunks_is_the_whole(causal):
  """Wide parts in tiles with `halo` around them, the LSTM on all codes."""
  model, variables = made(causal)
  cells = 60
  x = 0.3 * jax.random.normal(jax.random.key(2), (1, 6 * cells, 1))
  beyond = 2 * -(-model.halo // 6)
  assert beyond + 4 < cells // 2
  plan = tiles.Plan((cells,), (beyond + 4,), (beyond,), True)
  call = lambda method: jax.jit(lambda value: model.apply(variables, value, method=method))

  @jax.jit
  def wholes(x):
    ids = model.apply(variables, x, method="tokens")
    recon, _ = model.apply(variables, x, train=False)
    return ids, recon, model.apply(variables, ids, method="from_tokens")

  ids, recon, decoded = wholes(x)
  for name, value, whole in (
    ("encode", x, ids),
    ("reconstruct", x, recon),
    ("decode", ids, decoded),
  ):
    out = value
    for method, tiled in model.in_parts[name]:
      out = tiles.apply(call(method), out, plan) if tiled else call(method)(out)
    np.testing.assert_allclose(out, whole, atol=2e-6)


def test_odd_strides_lose_a_sample_where_both_ends_are_cut_alike():
  x = jnp.ones((1, 4, 2))
  for trim, length in (("exact", 20), ("even", 19)):
    layer = waves.ConvTranspose(3, 5, trim=trim)
    made = layer.init_with_output(jax.random.key(0), x)[0]
    assert made.shape == (1, length, 3)


def test_reflections_of_sounds_shorter_than_the_pad():
  x = jnp.arange(1.0, 4.0).reshape(1, 3, 1)
  assert waves.pad(x, 2, 1, "reflect")[0, :, 0].tolist() == [3, 2, 1, 2, 3, 2]
  assert waves.pad(x, 4, 0, "reflect")[0, :, 0].tolist() == [0, 0, 3, 2, 1, 2, 3]


@pytest.mark.parametrize(
  "field, value",
  [
    ("strides", ()), ("strides", (0,)), ("width", 0), ("sizes", (7, 3)), ("decoder_width", 6),
    ("compress", 3), ("lstm", -1),
  ],
)  # fmt: skip
def test_impossible_fields_are_named(field, value):
  with pytest.raises(UserError, match=f"{field}"):
    build("autoencoders", dict(name="seanet", quantizer=VQ) | SMALL | {field: value})
