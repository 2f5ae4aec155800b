"""Autoencoders causal in time: one frame is a picture, and no frame knows a later one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from vqjax.build import build
from vqjax.errors import UserError

TINY = {
  "vqvae": dict(hidden=8, residual_hidden=4, residual_blocks=1, downsamples=2),
  "resnet": dict(
    ch=8, ch_mult=(1, 1, 2), num_res_blocks=1, attn_resolutions=(), z_channels=6, resolution=16
  ),
}
FSQ = dict(name="fsq", levels=(5, 5, 5))


def make(name, **fields):
  fields = dict(name=name, quantizer=FSQ, axes=3, time="causal") | TINY[name] | fields
  return build("autoencoders", fields)


@functools.cache
def initialised(name, often, **fields):
  model = make(name, time_downsamples=often, **fields)
  x = jax.random.uniform(jax.random.key(1), (1, 1 + 2 * 2**often, 8, 12, 3), minval=-1)
  return model, weights.initialised(model, x), x


@pytest.mark.parametrize("often", [0, 1, 2])
@pytest.mark.parametrize("name", TINY)
def test_sizes(name, often):
  model = make(name, time_downsamples=often)
  factor = 2**often
  assert model.factors == (factor, 4, 4) and model.first == (1, 4, 4)
  for k in (0, 3):
    assert model.grid(1 + k * factor, 8, 12) == (1 + k, 2, 3)
  if factor > 1:
    with pytest.raises(UserError, match="size 4x8x8 is not a multiple of .* after the first 1"):
      model.grid(4, 8, 8)


@pytest.mark.parametrize("name, often, fields", [
    ("vqvae", 0, {}), ("vqvae", 1, {}), ("vqvae", 1, dict(upsample="repeat")), ("resnet", 1, {}),
])  # yapf: disable
def test_frames_know_the_past_alone(name, often, fields):
  """Latents of the first frames are those of the whole video's first ones, and so are pictures."""
  model, variables, x = initialised(name, often, **fields)
  encode = jax.jit(lambda x: model.apply(variables, x, method="encode"))
  decode = jax.jit(lambda z: model.apply(variables, z, method="decode"))
  z = encode(x)
  picture = encode(x[:, :1])
  assert picture.shape[1] == 1
  np.testing.assert_allclose(picture, z[:, :1], atol=1e-5)
  frames = decode(z)
  assert frames.shape == x.shape
  np.testing.assert_allclose(decode(z[:, :2]), frames[:, : 1 + 2**often], atol=1e-5)
  # And what comes later matters: the whole is no row of pictures.
  other = x.at[:, -1].multiply(-1)
  assert np.abs(encode(other)[:, -1] - z[:, -1]).max() > 1e-3
  before = x.at[:, 0].multiply(-1)
  assert np.abs(encode(before)[:, -1] - z[:, -1]).max() > 1e-4


@pytest.mark.parametrize("name", TINY)
def test_causality_by_gradient(name):
  model, variables, x = initialised(name, 1)
  steps = lambda x: jnp.abs(model.apply(variables, x, method="encode")).sum((0, 2, 3, 4))
  seen = np.abs(jax.jit(jax.jacrev(steps))(x)).sum((1, 3, 4, 5)) > 0
  assert seen.shape == (3, 5)
  assert not (seen & (np.arange(5)[None] > 2 * np.arange(3)[:, None])).any() and seen[2, 0]


def test_time_is_halved_last_and_as_often_as_is_said():
  plain = make("vqvae", time="same", time_downsamples=1)
  assert plain.factors == plain.first == (2, 4, 4) and plain.grid(6, 8, 8) == (3, 2, 2)
  kernels = {"down_0": (3, 4, 4), "down_1": (4, 4, 4)}
  params = jax.eval_shape(
    lambda: plain.init(jax.random.key(0), jnp.zeros((1, 2, 8, 8, 3)), train=False)
  )["params"]["encoder"]
  assert {n: params[n]["kernel"].shape[:3] for n in kernels} == kernels


@pytest.mark.parametrize(
  "fields, message",
  [
    (dict(axes=2), "time: 'causal' is for sound and video"),
    (dict(time_downsamples=3), "time_downsamples: 3 is outside 0 to 2"),
    (dict(time_downsamples=-1), "time_downsamples: -1 is outside"),
  ],
)
@pytest.mark.parametrize("name", TINY)
def test_what_does_not_fit_is_one_line(name, fields, message):
  with pytest.raises(UserError, match=message) as e:
    make(name, **fields)
  assert "\n" not in str(e.value)
