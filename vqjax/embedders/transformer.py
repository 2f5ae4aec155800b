"""CLIP's text tower (arXiv 2103.00020, section 2.4): a causal transformer, read at the last id."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import fields
from vqjax.embedders import _blocks as blocks


class Model(nn.Module):
  """Embedding, learned positions, causal blocks, norm, the vector of a caption's last id projected.

  What stands after a caption's end changes nothing.

  Attributes:
    width, depth, heads, mlp_width: of the blocks.
    activation: inside the MLPs.
    remat: recompute the blocks' activations in the backward pass.
    dtype: compute dtype.
    features, vocabulary, length: see vqjax.embedders.
  """

  width: int = 512
  depth: int = 12
  heads: int = 8
  mlp_width: int = 2_048
  activation: blocks.Activation = "quick_gelu"
  remat: bool = False
  dtype: str = "float32"
  features: int = fields.program(512)
  vocabulary: int = fields.program(49_408)
  length: int = fields.program(77)

  reads = "text"

  def __post_init__(self):
    blocks.check(self)
    super().__post_init__()

  @nn.compact
  def __call__(self, ids_BL: jax.Array) -> jax.Array:
    table = self.param("table", nn.initializers.normal(0.02), (self.vocabulary, self.width))
    places = self.param("positions", nn.initializers.normal(0.01), (self.length, self.width))
    x = table[jnp.maximum(ids_BL, 0)] + places[None, : ids_BL.shape[1]]
    x = blocks.stack(self, x.astype(self.dtype), "causal")
    last = jnp.maximum(jnp.sum(ids_BL >= 0, axis=-1) - 1, 0)
    x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
    return blocks.project(self, blocks.norm(self.dtype, "norm_out")(x))
