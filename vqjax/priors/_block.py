"""The transformers' block: attention and MLP, minGPT's, LlamaGen's or DiT's by name."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from vqjax.nn import attention, layers, sparse, target


def norm(kind: str, bias: bool, dtype: jnp.dtype, name: str | None = None) -> nn.Module:
  if kind == "plain":  # what modulates it has the parameters
    return nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=dtype, name=name)
  if kind == "rmsnorm":
    return nn.RMSNorm(epsilon=1e-5, dtype=dtype, name=name)
  return nn.LayerNorm(epsilon=1e-5, use_bias=bias, dtype=dtype, name=name)


def modulate(x: jax.Array, shift_BC: jax.Array, scale_BC: jax.Array) -> jax.Array:
  """One shift and scale for all positions of an example; x [B, L, C] or [B L, C].

  Broadcast: spread over the positions first, they and their gradients would take the room of six
  activations.
  """
  x_BLC = x.reshape(len(scale_BC), -1, x.shape[-1])
  return (x_BLC * (1 + scale_BC[:, None]) + shift_BC[:, None]).reshape(x.shape)


def gate(x: jax.Array, gate_BC: jax.Array) -> jax.Array:
  """As `modulate`, of what a branch adds."""
  x_BLC = x.reshape(len(gate_BC), -1, x.shape[-1])
  return (x_BLC * gate_BC[:, None]).reshape(x.shape)


def hidden_width(hidden: int | None, width: int, mlp: str) -> int:
  """Of the MLP: `hidden`, or four times the width; of SwiGLU as many parameters as that has, in
  steps of 256.
  """
  if hidden is not None:
    return hidden
  return 256 * math.ceil(8 * width / 3 / 256) if mlp == "swiglu" else 4 * width


def stacked(layers: int, remat: str) -> Callable[..., nn.Module]:
  """Makes `layers` blocks of the same fields, each with parameters of its own, one after the other;
  it takes `Block`'s inputs, with a cache and a kind for every layer. `remat`: "block" computes a
  block anew for its gradient.
  """
  block = nn.remat(Block, prevent_cse=False, static_argnums=(4, 5)) if remat == "block" else Block
  # On a CPU a loop stacks and copies what the backward pass needs; without it a step takes about
  # two thirds of the time.
  unroll = layers if target.platform() == "cpu" and layers <= 8 else 1
  return nn.scan(
    block,
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=(nn.broadcast,) * 4 + (0,),
    length=layers,
    unroll=unroll,
  )


class Block(nn.Module):
  """Attention and MLP with residuals, normalised before each.

  `scale`: initial deviation of the outputs' kernels.
  """

  heads: int
  hidden: int
  causal: bool
  norm: str
  mlp: str
  qk_norm: str
  modulation: str
  bias: bool
  dropout: float
  scale: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self,
    x_BLC: jax.Array,
    cond_BC: jax.Array | None,
    angles_LF: jax.Array | None,
    train: bool,
    masks: sparse.Masks | None = None,
    kind: jax.Array | int = 0,
    cache: attention.Cache | None = None,
    index: jax.Array | None = None,
  ) -> tuple[jax.Array, attention.Cache | None]:
    """Returns the next activations and the cache.

    Without `index` the sequence starts at 0, and a cache is filled from there; with it, x is the
    one position `index`, which attends to what the cache holds. `masks` says of every `kind` who
    sees whom, over all positions of the cache if there is one; None is plain causal or full
    attention.
    """
    b, _, width = x_BLC.shape
    # Two axes: XLA's CPU matmul is a third slower on three.
    x = einops.rearrange(target.by_example(x_BLC), "b l c -> (b l) c")
    dense = functools.partial(
      nn.Dense, use_bias=self.bias, dtype=self.dtype, kernel_init=nn.initializers.normal(0.02)
    )
    out = functools.partial(dense, width, kernel_init=nn.initializers.normal(self.scale))
    drop = nn.Dropout(self.dropout, deterministic=not train)
    if self.modulation == "adaln":
      m = nn.Dense(6 * width, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="modulate")(
        cond_BC
      )
      shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(m, 6, axis=-1)

    h = norm(self.norm, self.bias, self.dtype, "norm_1")(x)
    h = modulate(h, shift_1, scale_1) if self.modulation == "adaln" else h
    q, k, v = (
      einops.rearrange(dense(width, name=name)(h), "(b l) (n h) -> b l n h", b=b, n=self.heads)
      for name in ("query", "key", "value")
    )
    if self.qk_norm == "rmsnorm":
      q = nn.RMSNorm(epsilon=1e-5, dtype=self.dtype, name="query_norm")(q)
      k = nn.RMSNorm(epsilon=1e-5, dtype=self.dtype, name="key_norm")(k)
    if cache is not None:
      if angles_LF is not None:
        q, k, angles_LF = attention.rotate(q, angles_LF), attention.rotate(k, angles_LF), None
      cache = attention.update_cache(cache, k, v, 0 if index is None else index)
    if index is None:
      h = attention.attend(q, k, v, masks or ("causal" if self.causal else "full"), kind, angles_LF)
    else:
      seen = None if masks is None else jnp.asarray(masks.arrays)[kind][index]
      h = attention.attend_cache(q[:, 0], cache, index + 1, seen)[:, None]
    h = drop(out(name="proj")(einops.rearrange(h, "b l n h -> (b l) (n h)")))
    x = x + (gate(h, gate_1) if self.modulation == "adaln" else h)

    h = norm(self.norm, self.bias, self.dtype, "norm_2")(x)
    h = modulate(h, shift_2, scale_2) if self.modulation == "adaln" else h
    if self.mlp == "swiglu":  # arXiv 2002.05202
      h = nn.silu(dense(self.hidden, name="gate")(h)) * dense(self.hidden, name="up")(h)
    else:
      curve = nn.gelu if self.mlp == "gelu_tanh" else layers.gelu
      h = curve(dense(self.hidden, name="up")(h))
    h = drop(out(name="down")(h))
    x = x + (gate(h, gate_2) if self.modulation == "adaln" else h)
    return target.by_example(einops.rearrange(x, "(b l) c -> b l c", b=b)), cache
