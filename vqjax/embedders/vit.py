"""CLIP's image tower (arXiv 2103.00020, section 2.4): a vision transformer with a class token."""

from __future__ import annotations

import math

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks, fields
from vqjax.embedders import _blocks as blocks
from vqjax.errors import UserError
from vqjax.nn import layers, patches


class Model(nn.Module):
  """Patches without bias, class token, learned positions, norm, blocks, norm, projection.

  Attributes:
    patch: side of a patch.
    width, depth, heads, mlp_width: of the blocks.
    activation: inside the MLPs.
    mean, std: what is taken off pixels in [0, 1], and what they are divided by: a number for each
      channel, or one for all.
    remat: recompute the blocks' activations in the backward pass.
    dtype: compute dtype.
    features, size, channels: see vqjax.embedders.
  """

  patch: int = 16
  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp_width: int = 3_072
  activation: blocks.Activation = "quick_gelu"
  mean: tuple[float, ...] = (0.5,)
  std: tuple[float, ...] = (0.5,)
  remat: bool = False
  dtype: str = "float32"
  features: int = fields.program(512)
  size: tuple[int, ...] = fields.program((224, 224))
  channels: int = fields.program(3)

  reads = "image"

  def __post_init__(self):
    blocks.check(self)
    checks.positive(self, "patch")
    layers.check_size(self.size, self.factors)
    for name, values in (("mean", self.mean), ("std", self.std)):
      if len(values) not in (1, self.channels):
        raise UserError(f"{name}: {values}; give one number, or {self.channels}.")
    if not all(0 < value < math.inf for value in self.std):
      raise UserError(f"std: {self.std} is not positive.")
    super().__post_init__()

  @property
  def factors(self) -> tuple[int, ...]:
    return (self.patch,) * len(self.size)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    mean, std = (
      jnp.broadcast_to(jnp.asarray(v, jnp.float32), (1, 1, 1, self.channels))
      for v in (self.mean, self.std)
    )
    x = patches.cut(((x + 1) / 2 - mean) / std, self.factors)
    x = einops.rearrange(x, "b ... d -> b (...) d")
    x = nn.Dense(self.width, use_bias=False, dtype=jnp.dtype(self.dtype), name="embed")(x)
    start = self.param("start", nn.initializers.normal(self.width**-0.5), (self.width,))
    start = jnp.broadcast_to(start.astype(x.dtype), (x.shape[0], 1, self.width))
    x = jnp.concatenate([start, x], axis=1)
    table = self.param("positions", nn.initializers.normal(self.width**-0.5), x.shape[1:])
    x = blocks.norm(self.dtype, "norm_in")(x + table.astype(x.dtype)[None])
    x = blocks.stack(self, x, "full")
    return blocks.project(self, blocks.norm(self.dtype, "norm_out")(x[:, 0]))
