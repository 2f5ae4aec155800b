"""Layers against flax's own, direct definitions and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights
from flax import linen as nn

from vqjax.nn import layers, target


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("shape", [(2, 5, 7, 12), (2, 9, 12), (2, 2, 3, 4, 12)])
def test_group_norm_is_exact(mean, shape):
  rng = np.random.default_rng(0)
  # Channels of one group differ in level, so that the spread between channels counts as well.
  x = (rng.normal(size=shape) + mean + rng.normal(size=shape[-1]) * 3).astype(np.float32)
  scale, bias = rng.normal(size=(2, shape[-1])).astype(np.float32)
  groups = x.astype(np.float64).reshape(2, -1, 4, 3)
  expected = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(
    groups.var((1, 3), keepdims=True) + 1e-6
  )
  expected = expected.reshape(shape) * scale + bias
  out = jax.jit(layers.group_norm, static_argnums=(3, 4))(x, scale, bias, 4, 1e-6)
  np.testing.assert_allclose(out, expected, atol=2e-5 if mean == 0 else 1e-3)


def test_group_norm_of_16_bits():
  x = (jax.random.normal(jax.random.key(0), (2, 16, 16, 8)) + 20.0).astype(jnp.bfloat16)
  out = jax.jit(layers.group_norm, static_argnums=(3, 4))(x, jnp.ones(8), jnp.zeros(8), 4, 1e-6)
  exact = layers.group_norm(x.astype(jnp.float32), jnp.ones(8), jnp.zeros(8), 4, 1e-6)
  assert out.dtype == jnp.bfloat16
  # Rounding the output alone is an error of one in 2^9.
  np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=2**-8, atol=1e-3)


def test_group_norm_gradient():
  x = jax.random.normal(jax.random.key(0), (2, 4, 6, 8)) + 2.0
  g = jax.random.normal(jax.random.key(1), x.shape)
  reference = nn.GroupNorm(4, epsilon=1e-6, use_fast_variance=False)
  params = {"scale": jnp.arange(1.0, 9.0), "bias": jnp.ones(8)}
  ours = jax.grad(
    lambda x, p: jnp.sum(g * layers.group_norm(x, p["scale"], p["bias"], 4, 1e-6)), argnums=(0, 1)
  )
  flax = jax.grad(lambda x, p: jnp.sum(g * reference.apply({"params": p}, x)), argnums=(0, 1))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    ours(x, params),
    flax(x, params),
  )


@pytest.mark.parametrize(
  "height,width,dtype",
  [(8, 6, "float32"), (5, 3, "float32"), (1, 1, "float32"), (6, 4, "bfloat16")],
)
def test_kernel_gradient_by_strips(height, width, dtype):
  x, g = (
    jax.random.normal(jax.random.key(i), (2, height, width, c)).astype(dtype)
    for i, c in enumerate((5, 4))
  )
  padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
  expected = np.einsum("bhwcrs,bhwd->rscd", windows, np.asarray(g, np.float64))
  out = jax.jit(layers._kernel_gradient_by_strips)(x, g)
  assert out.dtype == dtype
  np.testing.assert_allclose(
    out.astype(jnp.float32), expected, rtol=1e-5 if dtype == "float32" else 1e-2, atol=1e-4
  )


@pytest.mark.parametrize("channels", [8, 128])  # the wide one takes the strips
def test_conv3x3_gradients(channels):
  x, kernel, g = (
    jax.random.normal(jax.random.key(i), s)
    for i, s in enumerate(((1, 16, 16, channels), (3, 3, channels, 2), (1, 16, 16, 2)))
  )

  def plain(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  def run(f):
    out, pull = jax.vjp(f, x, kernel)
    return out, pull(g)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
    jax.jit(run, static_argnums=0)(layers.conv3x3),
    jax.jit(run, static_argnums=0)(plain),
  )


def test_conv3x3_has_second_derivatives():
  x, kernel = (
    jax.random.normal(jax.random.key(0), (1, 4, 4, 2)),
    jax.random.normal(jax.random.key(1), (3, 3, 2, 2)),
  )

  def penalty(kernel):
    return jnp.sum(jax.grad(lambda x: jnp.sum(layers.conv3x3(x, kernel) ** 2))(x) ** 2)

  direction, eps = jax.random.normal(jax.random.key(2), kernel.shape), 1e-3
  numeric = (penalty(kernel + eps * direction) - penalty(kernel - eps * direction)) / (2 * eps)
  np.testing.assert_allclose(jnp.sum(jax.grad(penalty)(kernel) * direction), numeric, rtol=2e-2)


def test_attention_block_is_softmax_over_positions():
  x = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))
  block = layers.AttentionBlock()
  variables = block.init(jax.random.key(1), x)
  p = variables["params"]
  h = layers.group_norm(x, p["norm"]["scale"], p["norm"]["bias"], 8, 1e-6).reshape(2, 12, 8)
  q, k, v, out = (
    lambda h, n=n: h @ p[n]["kernel"][0, 0] + p[n]["bias"][None, None]
    for n in ("q", "k", "v", "proj_out")
  )
  weights = jax.nn.softmax(jnp.einsum("bic,bjc->bij", q(h), k(h)) / np.sqrt(8), axis=-1)
  expected = x + out(weights @ v(h)).reshape(x.shape)
  np.testing.assert_allclose(block.apply(variables, x), expected, rtol=1e-4, atol=1e-5)
  # It sees positions, not the grid that they lie on.
  for grid in ((12,), (3, 2, 2)):
    again = jax.tree.map(
      lambda a: a.reshape((1,) * len(grid) + a.shape[2:]) if a.ndim > 1 else a, variables
    )
    np.testing.assert_allclose(
      block.apply(again, x.reshape(2, *grid, 8)).reshape(x.shape), expected, rtol=1e-4, atol=1e-5
    )


def test_downsampling():
  # Zero padding at the bottom and the right only: the first output reads pixels 0..2, the last one
  # 2..3 and a zero.
  ones = {"params": {"conv": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}}}
  out = layers.Downsample().apply(ones, jnp.ones((1, 4, 4, 1)))
  np.testing.assert_array_equal(out[0, :, :, 0], [[9, 6], [6, 4]])
  ones["params"]["conv"]["kernel"] = jnp.ones((3, 1, 1))
  np.testing.assert_array_equal(
    layers.Downsample().apply(ones, jnp.ones((1, 4, 1)))[0, :, 0], [3, 2]
  )


# Of each layer what flax makes of it on that many axes.
CONVOLUTIONS = {
  "3": (layers.Conv(6), lambda n: nn.Conv(6, (3,) * n)),
  "1": (layers.Conv(6, 1), lambda n: nn.Conv(6, (1,) * n)),
  "strided": (layers.Conv(6, 4, 2), lambda n: nn.Conv(6, (4,) * n, (2,) * n)),
  "padded": (
    layers.Conv(6, stride=2, padding=(0, 1)),
    lambda n: nn.Conv(6, (3,) * n, (2,) * n, ((0, 1),) * n),
  ),
  "transposed": (
    layers.ConvTranspose(6, "float32"),
    lambda n: nn.ConvTranspose(6, (4,) * n, (2,) * n),
  ),
}


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_equal_flax_with_their_gradients(name, axes):
  ours, theirs = CONVOLUTIONS[name][0], CONVOLUTIONS[name][1](axes)
  x = jax.random.normal(jax.random.key(0), (2, *(4, 6, 2)[:axes], 5))
  init = jax.jit(lambda x: [layer.init(jax.random.key(1), x) for layer in (ours, theirs)])
  mine, variables = init(x)
  jax.tree.map(np.testing.assert_array_equal, mine, variables)
  variables["params"]["bias"] = jnp.arange(6.0)

  @jax.jit
  def run(variables, x):
    results = []
    for layer in (ours, theirs):
      y, pull = jax.vjp(layer.apply, variables, x)
      results.append((y, pull(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))))
    return results

  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
  jax.tree.map(close, *run(variables, x))


@pytest.mark.parametrize(
  "grid, stride, time, dilated",
  [
    ((3, 4), 2, "same", (2, 2)),
    ((3, 2, 3), (2, 1, 2), "same", (2, 1, 2)),
    ((3, 2, 3), 2, "causal", (1, 2, 2)),
  ],
)
def test_upsampling_of_accelerators_is_that_of_cpus(grid, stride, time, dilated, monkeypatch):
  """One transposed convolution against repeated positions, with its gradients."""
  layer = layers.Upsample(stride=stride, time=time)
  x = jax.random.normal(jax.random.key(0), (2, *grid, 3))
  variables = weights.drawn(jax.eval_shape(layer.init, jax.random.key(1), x))

  def run(variables, x):
    y, pull = jax.vjp(layer.apply, variables, x)
    return y, pull(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

  # A function of its own: what was traced before would stay as it is.
  expected = jax.jit(lambda *given: run(*given))(variables, x)
  monkeypatch.setattr(target, "platform", lambda: "tpu")
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, jax.jit(run)(variables, x), expected)
  assert f"lhs_dilation={dilated}" in str(jax.make_jaxpr(layer.apply)(variables, x))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_blocks_on_any_number_of_axes(axes):
  shape = (2, *(4, 6, 2)[:axes], 6)
  double, half = ((2, *(int(n * f) for n in shape[1:-1]), 6) for f in (2, 0.5))
  for layer, args, expected in (
    (layers.Upsample(), (), double),
    (layers.Downsample(), (), half),
    (layers.ResnetBlock(10), (False,), (*shape[:-1], 10)),
    (layers.ResidualStack(1, 4), (), shape),
  ):
    out, _ = jax.eval_shape(
      lambda x: layer.init_with_output(jax.random.key(0), x, *args), jnp.zeros(shape)
    )
    assert out.shape == expected
