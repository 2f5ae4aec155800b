"""Convolutions over time: who sees what, by gradient; the way CPUs compute them against XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from vqjax.nn import causal, layers


def random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("sizes, strides", [((3, 3, 3), (1, 1, 1)), ((4, 4, 4), (2, 2, 2)),
                                            ((3, 4, 4), (1, 2, 2))])  # fmt: skip
@pytest.mark.parametrize("time", ["same", "causal"])
def test_unfolded_convolutions_are_xlas(sizes, strides, time):
  """Values and both gradients; of the transposed ones too, which XLA has as it is."""
  x, kernel = random(2, 5, 8, 6, 3), random(*sizes, 3, 4, seed=1)
  pads = causal.pads(x.shape[1:-1], sizes, strides, time)
  back = causal.transposed_pads(sizes, strides, time)

  def plain(x, k):
    numbers = causal.layout(3)
    return jax.lax.conv_transpose(x, k, strides, back, dimension_numbers=numbers)

  ours, theirs = {}, {}
  ours["convolve"] = lambda x, k: causal.convolve(x, k, strides, pads)
  theirs["convolve"] = lambda x, k: jax.lax.conv_general_dilated(
    x, k, strides, pads, dimension_numbers=causal.layout(3)
  )
  ours["transposed"] = lambda x, k: causal.transposed(x, k, strides, back)
  theirs["transposed"] = plain

  def with_gradients(fn, x, k):
    out, pull = jax.vjp(fn, x, k)
    return out, pull(random(*out.shape, seed=2))

  @jax.jit
  def run(x, k):
    return [[with_gradients(fns[name], x, k) for fns in (ours, theirs)] for name in ours]

  for (out, got), (expected, wanted) in run(x, kernel):
    np.testing.assert_allclose(out, expected, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-4), got, wanted)


def seen(layer, frames, inner=(4, 4), channels=2):
  """bool [T', T]: whether step t' of what comes out depends on step t of what goes in."""
  x = random(1, frames, *inner, channels)
  params = weights.drawn(jax.eval_shape(layer.init, jax.random.key(0), x))
  out = lambda x: jnp.abs(layer.apply(params, x)).sum((0, 2, 3, 4))
  return np.abs(jax.jit(jax.jacrev(out))(x)).sum((1, 3, 4, 5)) > 0


@pytest.mark.parametrize("stride", [1, 2])
def test_causal_layers_see_the_past_alone(stride):
  """With a stride of f, step i of the coarse grid stands for steps up to i f of the fine one."""
  fields, strides = dict(time="causal"), (stride, 2, 2)
  steps = 1 + 3 * stride
  past = np.arange(steps)[None] <= stride * np.arange(4)[:, None]
  for layer in (layers.Conv(2, tuple(s + 2 for s in strides), strides, **fields),
                layers.Downsample(stride=strides, **fields)):  # fmt: skip
    found = seen(layer, steps)
    assert found.shape == (4, steps) and not (found & ~past).any()
    assert found[np.arange(4), stride * np.arange(4)].all()
  # A step of the fine grid may see the coarse one that stands for it and those before.
  own = -(-np.arange(steps) // stride)
  for layer in (layers.ConvTranspose(2, "float32", strides, **fields),
                layers.Upsample(stride=strides, **fields)):  # fmt: skip
    found = seen(layer, 4)
    assert found.shape == (steps, 4) and not (found & (np.arange(4)[None] > own[:, None])).any()
    assert found[np.arange(steps), own].all()


@pytest.mark.parametrize(
  "layer", [layers.GroupNorm(time="causal"), layers.AttentionBlock(time="causal")]
)
def test_norms_and_attention_are_of_each_frame(layer):
  np.testing.assert_array_equal(seen(layer, 3, channels=8), np.eye(3, dtype=bool))


def test_time_that_keeps_its_length_is_padded_on_both_sides():
  assert causal.pads((5, 8, 8), (3, 4, 4), (1, 2, 2), "same") == ((1, 1), (1, 1), (1, 1))
  found = seen(layers.Downsample(stride=(1, 2, 2)), 4)
  assert found.tolist() == (np.abs(np.subtract.outer(range(4), range(4))) <= 1).tolist()
