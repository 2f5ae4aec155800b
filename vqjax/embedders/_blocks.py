"""The transformer of both of CLIP's towers."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks
from vqjax.nn import layers
from vqjax.nn.block import Block

_EPSILON = 1e-5  # PyTorch's

Activation = Literal["quick_gelu", "gelu"]

_ACTIVATIONS = {
  # Faster than the exact one; published weights are made with it (github.com/openai/CLIP).
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  "gelu": layers.gelu,
}


def norm(dtype: str, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=_EPSILON, dtype=jnp.dtype(dtype), name=name)


def check(module: Any) -> None:
  """Raises UserError for sizes of which no tower can be made."""
  checks.positive(module, "depth", "mlp_width", "features")
  checks.heads(module)


def stack(module: Any, x: jax.Array, mask: str) -> jax.Array:
  """`module.depth` blocks in a row, as the fields of `module` say."""
  block = nn.remat(Block) if module.remat else Block
  fields = dict(activation=_ACTIVATIONS[module.activation], epsilon=_EPSILON, mask=mask)
  for i in range(module.depth):
    x = block(module.heads, module.mlp_width, **fields, dtype=module.dtype, name=f"block_{i}")(x)
  return x


def project(module: Any, x: jax.Array) -> jax.Array:
  """The vector [B, features] of a pooled one [B, width]."""
  init = nn.initializers.normal(module.width**-0.5)
  return nn.Dense(module.features, use_bias=False, kernel_init=init, name="out")(
    x.astype(jnp.float32)
  )
