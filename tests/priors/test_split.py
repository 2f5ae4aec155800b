"""A transformer whose parameters are split over the devices that its batch is split over."""

import jax
import numpy as np
import pytest

from vqjax import hlo, sharding
from vqjax.latents import Codes
from vqjax.nn import target
from vqjax.priors import transformer


@pytest.mark.parametrize("remat", ["none", "block"])
def test_the_batch_is_never_gathered(remat):
  """Parameters are, a layer at a time; and nothing changes but where it is computed."""
  mesh = sharding.make_mesh(data=1, fsdp=4)
  latent = Codes((4, 4), 16)
  model = transformer.Model(latent, 16, layers=2, width=32, heads=2, remat=remat)
  ids = np.random.default_rng(0).integers(16, size=(256, 16)).astype(np.int32)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, train=False))
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape).astype(x.dtype), shapes)
  places = sharding.shardings([(".*", "fsdp")], mesh, params)
  batch = sharding.batch_sharding(mesh)

  def loss(params, ids):
    return model.apply(params, ids, train=False)[..., 0].mean()

  def step(params, ids):
    with target.splitting(target.Split(batch, params=True)):
      return jax.value_and_grad(loss)(params, ids)

  program = jax.jit(step, in_shardings=(places, batch), out_shardings=(None, places))
  lowered = program.lower(params, ids)
  assert "sharding_constraint" in lowered.as_text()  # small programs do without, large ones do not
  program = lowered.compile()
  # Half of one activation of the whole batch, and more than all parameters together.
  most = 256 * 16 * 32 * 4 // 2
  assert sum(x.nbytes for x in jax.tree.leaves(params)) < most
  found = hlo.Module(program.as_text()).collectives()
  assert max(size for sizes in found.values() for size, _ in sizes) < most
  value, grads = program(jax.device_put(params, places), jax.device_put(ids, batch))
  true, true_grads = jax.jit(jax.value_and_grad(loss))(params, ids)
  np.testing.assert_allclose(value, true, rtol=1e-5, atol=1e-7)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), grads, true_grads
  )
