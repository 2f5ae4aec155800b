"""EQ-VAE's term: none for a decoder that turns with its latents, against values by hand for one
that does not, and what it cannot serve.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from vqjax import config as configuration, train
from vqjax.errors import UserError
from vqjax.tasks import _equivariance

KEYS = [jax.random.key(i) for i in range(40)]


def test_grids_and_moves():
  assert _equivariance.sides((8, 8)) == ((8, 8), (6, 6), (4, 4), (2, 2))
  assert _equivariance.sides((7, 7)) == ((7, 7), (5, 5), (4, 4), (2, 2))
  assert _equivariance.sides((1, 2)) == ((1, 2), (1, 1))
  x = jnp.arange(24.0).reshape(1, 3, 4, 2)
  for i, quarters in enumerate((0, 2)):
    np.testing.assert_array_equal(_equivariance.turned(x, (0, 2), i)[0], np.rot90(x[0], quarters))
  smooth = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None], (1, 8, 8, 1))
  half = np.asarray(_equivariance.shrunk(smooth, (4, 4)))[0, 0, 1:-1, 0]
  np.testing.assert_allclose(half, [2.5, 4.5], atol=1e-5)  # the mean of each two


def test_a_decoder_that_turns_with_its_latents_loses_nothing():
  z = jax.random.normal(jax.random.key(0), (5, 4, 4, 3))
  compare = lambda z, x: jnp.square(z - x).mean()
  run = jax.jit(lambda key: _equivariance.loss(key, z, z, compare))
  assert max(float(run(key)) for key in KEYS[:4]) < 1e-12


@pytest.mark.parametrize("grid, count", [((4, 4), 3), ((4, 6), 1)])
def test_one_that_knows_which_way_is_up_does_lose_by_every_turn(grid, count):
  """Of one example alone: the whole grid, under all turns but none."""
  slope = jnp.broadcast_to(jnp.arange(4.0)[None, :, None, None], (1, *grid, 1))
  compare = lambda z, x: jnp.square(jnp.arange(z.shape[1])[None, :, None, None] - x).mean()
  run = jax.jit(lambda key: _equivariance.loss(key, slope, slope, compare))
  turns = range(1, 4) if count == 3 else (2,)
  by_hand = [jnp.square(jnp.rot90(slope, n, (1, 2)) - slope).mean() for n in turns]
  found = {round(float(run(key)), 4) for key in KEYS}
  assert found == {round(float(v), 4) for v in by_hand}


def test_every_size_has_its_share_of_the_batch():
  z, seen = jnp.zeros((9, 8, 8, 2)), []

  def compare(z, x):
    seen.append((z.shape[:3], x.shape[:3]))
    return jnp.float32(10.0 ** len(seen))

  total = _equivariance.loss(KEYS[0], z, jnp.zeros((9, 16, 16, 3)), compare)
  assert [z for z, _ in seen] == [(3, 8, 8), (2, 6, 6), (2, 4, 4), (2, 2, 2)]
  assert [x for _, x in seen] == [(3, 16, 16), (2, 12, 12), (2, 8, 8), (2, 4, 4)]
  assert float(total) == pytest.approx((3 * 10 + 2 * 100 + 2 * 1e3 + 2 * 1e4) / 9)


MODEL = dict(
  name="vqvae",
  hidden=8,
  residual_hidden=8,
  residual_blocks=1,
  quantizer=dict(name="identity", dim=2),
)


def run_of(**values):
  config = configuration.complete(dict(model=MODEL, ops=dict(size=16)) | values)
  spec = {"image": jax.ShapeDtypeStruct((4, 16, 16, 3), "uint8")}
  return train.Run(config, spec, jax.devices()[:1]), spec


def test_the_term_joins_the_loss_of_both_kinds_of_run():
  for disc in (None, dict(name="patchgan", channels=8, n_layers=1)):
    run, spec = run_of(loss=dict(equivariance_weight=0.5), disc=disc)
    _, metrics = jax.eval_shape(run._step, run.abstract, run.task.frozen.shapes(), spec)
    assert {"loss/equivariance", "raw/equivariance"} <= metrics.keys()
  run, _ = run_of(loss=dict(equivariance_weight=0.5))
  batch = {"image": np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)}
  params, stats = weights.drawn((run.abstract.params, run.abstract.stats))
  loss = lambda p: run.task.loss(p, stats, {}, batch, jax.random.key(1), 0)
  (total, (_, metrics)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  assert float(total) == pytest.approx(
    float(metrics["loss/reconstruction"] + metrics["loss/equivariance"]), rel=1e-5
  )
  assert float(metrics["raw/equivariance"]) > 0
  # It reaches the encoder: latents themselves shall turn.
  assert np.abs(grads["model"]["encoder"]["conv_mid"]["kernel"]).max() > 0


def test_a_hierarchy_has_none():
  model = dict(name="vqvae2", hidden=8, residual_hidden=8, residual_blocks=1)
  with pytest.raises(UserError, match="equivariance_weight: turns one grid of latents"):
    run_of(
      model=model | dict(quantizer=dict(name="ema", codebook_size=8, dim=4)),
      loss=dict(equivariance_weight=1.0),
    )
