"""Attention over sequences, rotary positions on grids, and key-value caches whose layout suits the
backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vqjax.nn import sparse, target

# A score of what is not seen: far below all others, and its difference to itself is still a number.
_UNSEEN = -1e30

Layout = Literal["fused", "heads", "keys_last"]

# Axes in memory of the cached keys and values. "fused" keeps heads of 64 from being padded to a
# TPU's 128 lanes; the other two give the CPU contiguous rows per head.
_AXES = {
  "fused": (("b", "l", "(n h)"), ("b", "l", "(n h)")),
  "heads": (("b", "n", "l", "h"), ("b", "n", "l", "h")),
  "keys_last": (("b", "n", "h", "l"), ("b", "n", "l", "h")),
}


def implementation(dtype: jnp.dtype, head_width: int) -> Literal["cudnn", "kernels", "xla"]:
  """cuDNN on GPUs where it takes such heads, our kernels on TPUs, else XLA's products."""
  half = jnp.dtype(dtype).itemsize == 2
  fits = {"gpu": head_width % 8 == 0 and head_width <= 128, "tpu": True}
  name = {"gpu": "cudnn", "tpu": "kernels"}.get(target.platform(), "xla")
  return name if half and fits.get(target.platform()) else "xla"


def attend(
  q_BLNH: jax.Array,
  k_BSNH: jax.Array,
  v_BSNH: jax.Array,
  mask: Literal["causal", "full"] | sparse.Masks | jax.Array = "full",
  kind: jax.Array | int = 0,
  angles_LF: jax.Array | None = None,
) -> jax.Array:
  """Scaled dot-product attention (arXiv 1706.03762, eq. 1), `[B, L, N, H]`; the softmax is float32.

  Args:
    q_BLNH: queries.
    k_BSNH: keys.
    v_BSNH: values.
    mask: "full"; "causal" (query i sees keys 0 .. i); masks of several kinds; or bool, true where a
      query sees a key: `[L, S]` or `[B, L, S]`.
    kind: which of several masks, may be traced.
    angles_LF: by which queries and keys are turned first, see `rotate`; of one length then.
  """
  chosen = implementation(q_BLNH.dtype, q_BLNH.shape[-1])
  if chosen == "kernels":
    if fused := _on_each_device(q_BLNH, k_BSNH, mask):
      return fused((jnp.asarray(kind), angles_LF), q_BLNH, k_BSNH, v_BSNH)
    chosen = "xla"
  if angles_LF is not None:
    q_BLNH, k_BSNH = rotate(q_BLNH, angles_LF), rotate(k_BSNH, angles_LF)
  causal = isinstance(mask, str) and mask == "causal"
  ahead = not causal and not isinstance(mask, sparse.Masks)
  if isinstance(mask, sparse.Masks):
    mask = jnp.asarray(mask.arrays)[kind]
  elif isinstance(mask, str):
    mask = np.tri(q_BLNH.shape[1], k_BSNH.shape[1], dtype=bool) if causal else None
  if mask is not None:
    mask = mask[None, None] if mask.ndim == 2 else mask[:, None]
  if chosen == "xla":
    return _in_blocks(q_BLNH, k_BSNH, v_BSNH, mask, ahead)
  options = dict(is_causal=True) if causal else dict(mask=mask)
  return jax.nn.dot_product_attention(q_BLNH, k_BSNH, v_BSNH, implementation=chosen, **options)


def _in_blocks(
  q_BLNH: jax.Array, k_BSNH: jax.Array, v_BSNH: jax.Array, mask: Any, ahead: bool
) -> jax.Array:
  """Products of XLA's, for at most eight blocks of queries, one after the other.

  A block's scores stay in a CPU's cache, and keys that lie behind all of its queries are left out
  unless they may see `ahead`.
  """
  length, scale = q_BLNH.shape[1], q_BLNH.shape[-1] ** -0.5
  # Heads are moved by hand: XLA's CPU products are three times slower where they lie between.
  q_BNLH, k_BNSH, v_BNSH = (jnp.swapaxes(x, 1, 2) for x in (q_BLNH, k_BSNH, v_BSNH))
  size, outs = max(64, -(-length // 8)), []
  for start in range(0, length, size):
    end = min(start + size, length)
    keys = k_BSNH.shape[1] if ahead else end
    scores = scale * jnp.einsum(
      "bnlh,bnsh->bnls", q_BNLH[:, :, start:end], k_BNSH[:, :, :keys],
      preferred_element_type=jnp.float32,
    )  # fmt: skip
    if mask is not None:
      scores = jnp.where(mask[:, :, start:end, :keys], scores, _UNSEEN)
    most = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - most)
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum("bnls,bnsh->bnlh", weights.astype(v_BNSH.dtype), v_BNSH[:, :, :keys])
    outs.append((out / total).astype(v_BNSH.dtype))
  return jnp.swapaxes(jnp.concatenate(outs, axis=2), 1, 2)


def _on_each_device(
  q_BLNH: jax.Array, k_BSNH: jax.Array, mask: Any
) -> Callable[..., jax.Array] | None:
  """`kernels.attend` on what each device has, as fn((kind, angles), q, k, v); None where that
  is not for it: outside of training, where prefixes of a cache and single queries are read, too.
  """
  from vqjax.nn import kernels  # Pallas takes a while to import, and other platforms never ask

  batch, length, heads = q_BLNH.shape[:3]
  spread = target.on_each_device(heads, batch)
  known = isinstance(mask, (str, sparse.Masks))
  if spread is None or not known or length != k_BSNH.shape[1] or not kernels.takes(length):
    return None
  sees = {"full": (), "causal": (lambda query, key: key <= query,)}
  sees = mask.sees if isinstance(mask, sparse.Masks) else sees[mask]
  return spread(lambda alike, q, k, v: kernels.attend(q, k, v, sees, *alike))


def rotary_table(grid: tuple[int, ...], head_width: int, base: float = 10_000.0) -> np.ndarray:
  """Angles of rotary positions (arXiv 2104.09864) on a grid, `[prod(grid), head_width / 2]`, in
  raster order.

  The head's channels are shared equally among the grid's axes, rows first (LlamaGen, arXiv
  2406.06525): a head of 64 on an image turns 32 channels by the row and 32 by the column.
  `head_width` must be a multiple of `2 * len(grid)`.
  """
  pairs = head_width // (2 * len(grid))
  frequencies = base ** (-np.arange(pairs) / pairs)
  positions = np.stack(np.meshgrid(*(np.arange(n) for n in grid), indexing="ij"), axis=-1)
  angles = positions[..., None] * frequencies
  return angles.reshape(-1, len(grid) * pairs).astype(np.float32)


def sine_table(grid: tuple[int, ...], width: int, base: float = 10_000.0) -> np.ndarray:
  """Sines and cosines of the places on a grid, float32 `[prod(grid), width]`, in raster order.

  The channels are shared equally among the axes, the last axis first, as DiT has them (arXiv
  2212.09748); `width` must be a multiple of `2 * len(grid)`.
  """
  pairs = width // (2 * len(grid))
  frequencies = base ** (-np.arange(pairs) / pairs)
  positions = np.stack(np.meshgrid(*(np.arange(n) for n in grid), indexing="ij"), axis=-1)
  angles = positions.reshape(-1, len(grid), 1)[:, ::-1] * frequencies
  waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
  return waves.reshape(-1, width).astype(np.float32)


def waves(time_B: jax.Array, channels: int = 256, base: float = 10_000.0) -> jax.Array:
  """Cosines, then sines, of a number at `channels / 2` frequencies, float32 `[B, channels]`."""
  half = channels // 2
  frequencies = jnp.exp(-math.log(base) * jnp.arange(half) / half)
  angles = time_B.astype(jnp.float32)[:, None] * frequencies[None]
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def rotate(x_BLNH: jax.Array, angles_LF: jax.Array) -> jax.Array:
  """Turns the channel pairs (j, j + H/2) of every head by the angles `[L, H/2]` of its position."""
  cos, sin = jnp.cos(angles_LF)[None, :, None], jnp.sin(angles_LF)[None, :, None]
  a, b = jnp.split(x_BLNH.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x_BLNH.dtype)


@struct.dataclass
class Cache:
  """Keys and values of one layer.

  `layout` names their order in memory; the length is fixed when it is made.
  """

  keys: jax.Array
  values: jax.Array
  layout: Layout = struct.field(pytree_node=False)


def default_layout() -> Layout:
  """The layout that decodes fastest on the devices that the program is for."""
  return "keys_last" if target.platform() == "cpu" else "fused"


def init_cache(
  batch: int,
  length: int,
  heads: int,
  head_width: int,
  dtype: str = "float32",
  layout: Literal["auto"] | Layout = "auto",
) -> Cache:
  """An empty cache for `length` positions."""
  layout = default_layout() if layout == "auto" else layout
  sizes = dict(b=batch, l=length, n=heads, h=head_width) | {"(n h)": heads * head_width}
  keys, values = (jnp.zeros([sizes[a] for a in axes], dtype) for axes in _AXES[layout])
  return Cache(keys, values, layout)


def update_cache(
  cache: Cache, k_BLNH: jax.Array, v_BLNH: jax.Array, index: jax.Array | int
) -> Cache:
  """Writes L positions from `index` on, which may be traced."""

  def write(old, new, axes):
    new = einops.rearrange(new.astype(old.dtype), f"b l n h -> {' '.join(axes)}")
    return jax.lax.dynamic_update_slice_in_dim(old, new, index, axes.index("l"))

  keys_axes, values_axes = _AXES[cache.layout]
  return cache.replace(
    keys=write(cache.keys, k_BLNH, keys_axes), values=write(cache.values, v_BLNH, values_axes)
  )


def attend_cache(
  q_BNH: jax.Array, cache: Cache, filled: jax.Array | int, seen_S: jax.Array | None = None
) -> jax.Array:
  """Attention of one query per sequence over the first `filled` positions of the cache, `[B, N,
  H]`; of these over those alone where the bool `seen_S` is true, if it is given.
  """
  keys, values = cache.keys, cache.values
  if cache.layout == "fused":
    keys, values = (
      einops.rearrange(x, "b l (n h) -> b l n h", n=q_BNH.shape[1]) for x in (keys, values)
    )
  k, v = ("blnh", "blnh") if cache.layout == "fused" else map("".join, _AXES[cache.layout])
  scores = (
    jnp.einsum(f"bnh,{k}->bnl", q_BNH, keys, preferred_element_type=jnp.float32)
    * q_BNH.shape[-1] ** -0.5
  )
  visible = jnp.arange(scores.shape[-1]) < filled
  visible = visible if seen_S is None else visible & seen_S
  weights = jax.nn.softmax(jnp.where(visible[None, None], scores, -jnp.inf), axis=-1).astype(
    values.dtype
  )
  return jnp.einsum(f"bnl,{v}->bnh", weights, values)
