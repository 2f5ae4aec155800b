"""Random numbers in place of initialised or trained weights: compiling initialisers takes longer
than most tests.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def drawn(abstract, seed=0, std=None):
  """Arrays for abstract ones: about 1 where they scale, of deviation `std` elsewhere, by default as
  wide as initialisers draw kernels; integers and flags are 1.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    x = np.ones(leaf.shape)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      fan_in = math.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 100
      wide = std or 1 / math.sqrt(max(1, fan_in))
      x = rng.standard_normal(leaf.shape) * wide + x * ("scale" in jax.tree_util.keystr(path))
    place = getattr(leaf, "sharding", None)
    return jax.device_put(np.asarray(x, leaf.dtype), place)

  return jax.tree_util.tree_map_with_path(draw, abstract)


def initialised(module, *inputs, seed=1, std=None, **options):
  """A module's variables, so drawn."""
  options = {"train": False} | options
  return drawn(
    jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x, **options), *inputs), seed, std
  )
