"""The transformer of both of CLIP's towers."""

from __future__ import annotations

from typing import Any, Literal

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks
from vqjax.nn import layers
from vqjax.nn.attention import attend

Activation = Literal["quick_gelu", "gelu"]

_ACTIVATIONS = {
  # Faster than the exact one; published weights are made with it (github.com/openai/CLIP).
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  "gelu": layers.gelu,
}


def norm(dtype: str, name: str) -> nn.LayerNorm:
  """Layer norm with PyTorch's epsilon."""
  return nn.LayerNorm(epsilon=1e-5, dtype=jnp.dtype(dtype), name=name)


def check(module: Any) -> None:
  """Raises UserError for sizes of which no tower can be made."""
  checks.positive(module, "depth", "mlp_width", "features")
  checks.heads(module)


class Block(nn.Module):
  """Pre-norm attention and MLP of one layer, [B, L, width]."""

  heads: int
  mlp_width: int
  activation: str
  mask: str
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    dense = lambda n, name: nn.Dense(n, dtype=jnp.dtype(self.dtype), name=name)
    qkv = dense(3 * width, "qkv")(norm(self.dtype, "norm1")(x))
    q, k, v = einops.rearrange(qkv, "b l (s n h) -> s b l n h", s=3, n=self.heads)
    h = einops.rearrange(attend(q, k, v, self.mask), "b l n h -> b l (n h)")
    x = x + dense(width, "proj")(h)
    h = dense(self.mlp_width, "mlp_in")(norm(self.dtype, "norm2")(x))
    return x + dense(width, "mlp_out")(_ACTIVATIONS[self.activation](h))


def stack(module: Any, x: jax.Array, mask: str) -> jax.Array:
  """`module.depth` blocks in a row, as the fields of `module` say."""
  block = nn.remat(Block) if module.remat else Block
  for i in range(module.depth):
    fields = (module.heads, module.mlp_width, module.activation, mask, module.dtype)
    x = block(*fields, name=f"block_{i}")(x)
  return x


def project(module: Any, x: jax.Array) -> jax.Array:
  """The vector [B, features] of a pooled one [B, width]."""
  init = nn.initializers.normal(module.width**-0.5)
  return nn.Dense(module.features, use_bias=False, kernel_init=init, name="out")(
    x.astype(jnp.float32)
  )
