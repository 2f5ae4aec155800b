"""Codes of several books in and out of a network: each position has the embedding and the logits of
its own book, and a step holds as many positions as the latent's order says.
"""

from __future__ import annotations

from collections.abc import Callable

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from vqjax.latents import Codes


def embedded(embed: nn.Module, latent: Codes, ids_BL: jax.Array) -> jax.Array:
  """The sum of the embeddings of each step's codes, `[B, S, C]` (arXiv 2306.05284, section 2.4)."""
  return embed(latent.arrange(latent.numbered(ids_BL), fill=-1)).sum(2)


def embedded_step(
  embed: nn.Module, latent: Codes, ids_BJ: jax.Array, index: jax.Array | int
) -> jax.Array:
  """The same of step `index` alone, which may be traced, `[B, 1, C]`."""
  places_J = jnp.asarray(latent.places)[index]
  return embed(latent.numbered(ids_BJ, places_J)).sum(1, keepdims=True)


class Head(nn.Module):
  """Logits of each position over the K codes of its own book.

  The columns q * K to (q + 1) * K - 1 of the kernel `[C, Q * K]` are those of book q; no position
  computes another's. Products are in `dtype`, sums and result in float32, so that near equals do
  not become ties.

  Attributes:
    latent: the codes.
    use_bias: whether there is a bias, `[Q * K]`.
    kernel_init: of the kernel.
  """

  latent: Codes
  dtype: jnp.dtype
  use_bias: bool = True
  kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x_BSC: jax.Array, index: jax.Array | int | None = None) -> jax.Array:
    """Logits `[B, S, J, K]`, float32, of the steps from the first on, or of the one at `index`."""
    codes, cycle = self.latent, self.latent.cycle
    # Steps whose books are the same share a matmul.
    shape = (x_BSC.shape[-1], codes.vocabulary)
    by_turn = lambda x: x.reshape(len(x), cycle, -1)
    kernel = by_turn(self.param("kernel", self.kernel_init, shape).astype(self.dtype))
    bias = self.param("bias", nn.initializers.zeros, shape[1:]) if self.use_bias else jnp.zeros(1)
    bias = by_turn(jnp.broadcast_to(bias, shape[1:])[None])
    if index is not None:
      kernel, bias = (jax.lax.dynamic_slice_in_dim(x, index % cycle, 1, 1) for x in (kernel, bias))
    turns = kernel.shape[1]
    whole = jnp.pad(x_BSC.astype(self.dtype), ((0, 0), (0, -x_BSC.shape[1] % turns), (0, 0)))
    x = einops.rearrange(whole, "b (t u) c -> (b t) u c", u=turns)
    out = jnp.einsum("xuc,cuv->xuv", x, kernel, preferred_element_type=jnp.float32)
    out = out + bias
    out = einops.rearrange(out, "(b t) u (j k) -> b (t u) j k", b=len(x_BSC), k=codes.size)
    return out[:, : x_BSC.shape[1]]
