"""PixelCNN and PixelSNAIL: the masks, no blind spot, the coarser grid where it belongs, and what
they refuse.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.priors import pixelcnn, pixelsnail

NETWORKS = {
  "pixelcnn": lambda grid=(4, 4), **k: pixelcnn.Model(
    Codes(grid, 16), 20, **dict(layers=4, width=8, kernel=3) | k
  ),
  "pixelsnail": lambda grid=(4, 4), **k: pixelsnail.Model(
    Codes(grid, 16), 20, **dict(blocks=1, residuals=2, width=8, heads=2, kernel=3) | k
  ),
}


def test_masks():
  assert pixelsnail.causal_mask(3, centre=False).tolist() == [[1, 1, 1], [1, 0, 0]]
  assert pixelsnail.causal_mask(3, centre=True).tolist() == [[1, 1, 1], [1, 1, 0]]
  assert pixelsnail.causal_mask(1, centre=True).tolist() == [[1]]


def gradient_by_place(model, prefix=None):
  """|d logits[0, i] / d embedding of token t| as [L, rows], on ids 0 .. 15."""
  ids = jnp.arange(16)[None]
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, prefix, train=False))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes)[
    "params"
  ]

  def f(table):
    inner = params | {"embed": params["embed"] | {"table": table}}
    return model.apply({"params": inner}, ids, prefix, train=False)[0].sum(-1)

  return np.abs(jax.jit(jax.jacrev(f))(params["embed"]["table"])).sum(-1)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_no_blind_spot(network):
  """With enough layers every earlier code of a 4 x 4 grid is seen, above right included."""
  assert ((gradient_by_place(network())[:, :16] > 0) == np.tri(16, 16, -1)).all()


def test_pixelsnail_without_attention_sees_one_column_right_per_row_up():
  sees = gradient_by_place(NETWORKS["pixelsnail"](attention="none"))[:, :16].reshape(4, 4, 4, 4) > 0
  for r, c, other, column in np.ndindex(sees.shape):
    assert sees[r, c, other, column] == (
      column < c if other == r else other < r and column <= c + r - other
    )


def test_coarser_grid_is_seen_where_it_lies():
  """PixelCNN's condition is per position: the last code of the first row depends on the two coarse
  codes above it.
  """
  model = NETWORKS["pixelcnn"](prefix_grid=(2, 2), layers=1, kernel=1)
  sees = gradient_by_place(model, jnp.array([[16, 17, 18, 19]]))[:, 16:] > 0
  assert sees[0].tolist() == [True, False, False, False]
  assert sees[3].tolist() == [False, True, False, False]
  assert sees[15].tolist() == [False, False, False, True]


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_class_and_a_coarser_grid_together(network):
  sees = gradient_by_place(network(prefix_grid=(1, 2)), jnp.array([[19, 16, 17]]))
  assert (sees[:, [19, 16, 17]] > 0).any(0).all() and (sees[:, 18] == 0).all()


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_one_axis(network):
  assert (
    (gradient_by_place(network(grid=(16,), kernel=11))[:, :16] > 0) == np.tri(16, 16, -1)
  ).all()


@pytest.mark.parametrize("fields, message", [
    (dict(grid=(2, 2, 4)), "grid: .* has 3 axes"),
    (dict(causal=False), "causal: "),
    (dict(kernel=4), "kernel: 4 is even"),
    (dict(prefix_grid=(2, 2)), "prefix_grid: .* at least 4 tokens, not 3"),
    (dict(prefix_grid=(1, 3)), r"prefix_grid: \(1, 3\) does not divide"),
    (dict(prefix_grid=(3,)), "is not .height, width"),
])  # yapf: disable
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_refuses(network, fields, message):
  with pytest.raises(UserError, match=message):
    jax.eval_shape(
      lambda: network(**fields).init(
        jax.random.key(0), jnp.zeros((1, 16), int), jnp.zeros((1, 3), int), train=False
      )
    )
