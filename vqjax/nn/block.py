"""One layer of a transformer over a whole input at once: ViT-VQGAN's and CLIP's."""

from __future__ import annotations

from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax.nn.attention import attend


class Block(nn.Module):
  """Pre-norm attention and MLP, [B, L, width].

  Attributes:
    heads, mlp_width: how many, and how wide within.
    activation: of the MLP.
    epsilon: of both layer norms.
    mask: "full" or "causal".
    dropout: after attention and MLP.
    dtype: compute dtype.
  """

  heads: int
  mlp_width: int
  activation: Callable[[jax.Array], jax.Array]
  epsilon: float
  mask: str = "full"
  dropout: float = 0.0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    width, dtype = x.shape[-1], jnp.dtype(self.dtype)
    dense = lambda features, name: nn.Dense(features, dtype=dtype, name=name)
    norm = lambda name: nn.LayerNorm(epsilon=self.epsilon, dtype=dtype, name=name)
    drop = nn.Dropout(self.dropout, deterministic=not train)
    qkv = dense(3 * width, "qkv")(norm("norm1")(x))
    q, k, v = einops.rearrange(qkv, "b l (s n h) -> s b l n h", s=3, n=self.heads)
    h = einops.rearrange(attend(q, k, v, self.mask), "b l n h -> b l (n h)")
    x = x + drop(dense(width, "proj")(h))
    h = self.activation(dense(self.mlp_width, "mlp_in")(norm("norm2")(x)))
    return x + drop(dense(width, "mlp_out")(h))
