"""StyleGAN2's discriminator: shapes, and what the minibatch statistic may and may not see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.discriminators import stylegan
from vqjax.errors import UserError


@pytest.mark.parametrize(
  "height,width,blocks", [(4, 4, 0), (28, 28, 3), (32, 24, 3), (64, 64, 4), (256, 256, 6)]
)
def test_shapes(height, width, blocks):
  disc = stylegan.Model(channels=8, max_channels=32, dtype="bfloat16")
  logits, features = jax.eval_shape(
    lambda: disc.init_with_output(jax.random.key(0), jnp.zeros((2, height, width, 3)), train=True)[
      0
    ]
  )
  assert logits.shape == (2, 1) and logits.dtype == jnp.float32
  assert len(features) == blocks + 1
  assert min(features[-1].shape[1:3]) <= 4


def test_refuses_other_sizes():
  with pytest.raises(UserError, match="30x32"):
    jax.eval_shape(
      lambda: stylegan.Model().init(jax.random.key(0), jnp.zeros((1, 30, 32, 3)), train=True)
    )


def test_minibatch_spread():
  x = np.random.default_rng(0).normal(size=(6, 2, 3, 5)).astype(np.float32)
  spread = stylegan.minibatch_spread(x, 3)
  expected = [x[i : i + 3].std(axis=0).mean() for i in (0, 0, 0, 3, 3, 3)]
  np.testing.assert_allclose(
    spread, np.broadcast_to(np.array(expected)[:, None, None, None], (6, 2, 3, 1)), rtol=1e-5
  )


def test_sees_its_own_group_only_and_has_second_derivatives():
  disc = stylegan.Model(channels=4, max_channels=8, group=2)
  x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
  variables = jax.jit(functools.partial(disc.init, train=True))(jax.random.key(0), x)

  @jax.jit
  def gradient(x):
    return jax.grad(lambda x: disc.apply(variables, x, train=True)[0][0, 0])(x)

  reach = jnp.abs(gradient(x)).max(axis=(1, 2, 3))
  assert (reach[:2] > 0).all() and (reach[2:] == 0).all()
  # Identical images: the spread is zero, where a bare square root has no derivative.
  alike = jnp.broadcast_to(x[:1], x.shape)
  second = jax.jit(jax.grad(lambda x: jnp.square(gradient(x)).sum()))(alike)
  assert jnp.isfinite(second).all() and jnp.abs(second).max() > 0


@pytest.mark.parametrize("field,value", [("channels", 0), ("group", 0), ("axes", 3)])
def test_impossible_fields_are_named(field, value):
  with pytest.raises(
    UserError, match="stylegan is made for 2" if field == "axes" else f"{field}: 0"
  ):
    stylegan.Model(**{field: value})
