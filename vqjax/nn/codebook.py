"""Codebooks as pure functions: tiled search, lookup, statistics, gradient estimators, losses.

Everything is float32. Under `jit` with positions sharded over a mesh, sums are global and the
search stays local.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import einops
import jax
import jax.numpy as jnp

from vqjax import checks
from vqjax.errors import UserError
from vqjax.nn import target

# The most elements that one [positions, codes] tile may hold on a device, and the most positions.
TILE_ELEMENTS = 2**24
TILE_ROWS = {"cpu": 512}
_TILE_ROWS_ACCELERATOR = 4096

# TensorFloat-32 and bfloat16 passes, the accelerators' defaults, change which code is nearest.
dot = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def rows(z: jax.Array, width: int, dtype: jnp.dtype = jnp.float32) -> jax.Array:
  """Latents [B, ..., D] as positions [N, D]. Raises UserError where D is not `width`."""
  if z.shape[-1] != width:
    raise UserError(
      f"dim: the quantizer reads {width} channels, not {z.shape[-1]}; set its width or the "
      "encoder's."
    )
  return z.reshape(-1, width).astype(dtype)


def check_book(module: Any) -> None:
  """Raises UserError where the fields that quantizers with a learned codebook share do not fit."""
  checks.within(module, "codebook_size", at_least=1, at_most=2**30)
  checks.within(module, "dim", at_least=1)
  checks.within(module, "revive", at_least=0, below=1)


def l2_normalize(x: jax.Array, eps: float = 1e-12) -> jax.Array:
  """x over its Euclidean norm along the last axis; zero stays zero, with a finite gradient."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), eps))


def _steps(positions: int, columns: int, tile: int | None) -> int:
  """Into how many tiles to cut `positions`, preferring a number that needs no padding and suits
  every device.
  """
  devices = target.device_count()
  widest = TILE_ROWS.get(target.platform(), _TILE_ROWS_ACCELERATOR)
  limit = tile or max(1, min(widest, TILE_ELEMENTS // columns)) * devices
  steps = -(-positions // limit)
  exact = (
    s for s in range(steps, 2 * steps) if positions % s == 0 and positions // s % devices == 0
  )
  return next(exact, steps)


def scan_tiles(
  body: Callable[..., tuple[Any, Any]],
  carry: Any,
  arrays: Sequence[jax.Array],
  *,
  columns: int,
  tile: int | None = None,
) -> tuple[Any, Any]:
  """lax.scan over tiles of positions: body(carry, valid_T, *tiles) -> (carry, outputs of length T).

  Args:
    body: `valid_T` is 1.0 for positions and 0.0 for the padding of a ragged end.
    carry: initial carry.
    arrays: each [N, ...].
    columns: width of what the body holds per position; the tile shrinks as it grows.
    tile: positions per tile, instead of the default.

  Returns:
    The last carry, and the outputs with leading axis N.
  """
  n = arrays[0].shape[0]
  steps = _steps(n, columns, tile)
  if steps == 1:
    return body(carry, jnp.ones(n, jnp.float32), *arrays)
  padding = -n % steps

  # Position t * steps + s goes to tile s: a batch-sharded N stays sharded as the tile's axis, and
  # the loop runs over an axis that no device owns. Consecutive tiles would make every device fetch
  # every tile.
  def split(x: jax.Array) -> jax.Array:
    x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)) if padding else x
    return einops.rearrange(x, "(t s) ... -> s t ...", s=steps)

  xs = (split(jnp.ones(n, jnp.float32)), *map(split, arrays))
  carry, ys = jax.lax.scan(lambda c, x: body(c, *x), carry, xs)
  return carry, jax.tree.map(lambda y: einops.rearrange(y, "s t ... -> (t s) ...")[:n], ys)


def nearest(
  z_ND: jax.Array,
  codebook_KD: jax.Array,
  *,
  metric: Literal["l2", "dot"] = "l2",
  tile: int | None = None,
) -> jax.Array:
  """Ids [N] (int32) of the codes nearest to each position, or of largest inner product with metric
  "dot".

  Holds at most a tile of the [N, K] distances. Ties go to the lower id. No gradient.
  """
  z_ND, codebook_KD = jax.lax.stop_gradient((z_ND, codebook_KD))
  bias_K = (
    jnp.sum(codebook_KD**2, axis=-1) if metric == "l2" else jnp.zeros(len(codebook_KD), jnp.float32)
  )

  def body(carry, _, z_TD):
    scores_TK = bias_K[None] - 2.0 * dot("td,kd->tk", z_TD, codebook_KD)
    return carry, jnp.argmin(scores_TK, axis=-1).astype(jnp.int32)

  return scan_tiles(body, None, [z_ND], columns=len(codebook_KD), tile=tile)[1]


def _sums_by_scatter(ids_N: jax.Array, x_ND: jax.Array, *, size: int) -> jax.Array:
  return jax.ops.segment_sum(x_ND.astype(jnp.float32), ids_N, size)


def _sums_by_matmul(ids_N: jax.Array, x_ND: jax.Array, *, size: int) -> jax.Array:
  # Zeros and ones times bfloat16 are exact in one pass of the unit, float32 takes six.
  product = partial(jnp.einsum, preferred_element_type=jnp.float32)
  half = x_ND.dtype == jnp.bfloat16
  product = product if half else dot
  if half and target.platform() == "tpu":
    # Whole: XLA compares as it multiplies and stores no ones, and sums that are carried from tile
    # to tile are read and written once for each.
    return product("nk,nd->kd", jax.nn.one_hot(ids_N, size, dtype=x_ND.dtype), x_ND)

  def body(sums_KD, valid_T, ids_T, x_TD):
    one_hot_TK = jax.nn.one_hot(ids_T, size, dtype=x_TD.dtype)
    one_hot_TK *= valid_T[:, None].astype(x_TD.dtype)
    return sums_KD + product("tk,td->kd", one_hot_TK, x_TD), None

  return scan_tiles(
    body, jnp.zeros((size, x_ND.shape[1]), jnp.float32), [ids_N, x_ND], columns=size
  )[0]


def sums(ids_N: jax.Array, x_ND: jax.Array, size: int) -> jax.Array:
  """Per code the sum of its rows of x: float32 [K, D].

  By scatter on the CPU and by one-hot matmul elsewhere: XLA compiles float32 scatter-add on GPUs to
  compare-and-swap loops (jax issue 38806), hundreds of times slower where many rows share a code.
  """
  scatter, matmul = partial(_sums_by_scatter, size=size), partial(_sums_by_matmul, size=size)
  return jax.lax.platform_dependent(ids_N, x_ND, cpu=scatter, default=matmul)


def counts_and_sums(ids_N: jax.Array, z_ND: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
  """Per code the number of its positions [K] and the sum of their latents [K, D], float32."""
  return counts(ids_N, size), sums(ids_N, z_ND, size)


def counts(ids_N: jax.Array, size: int) -> jax.Array:
  """Number of positions per code, float32 [K].

  Integer scatter-add is a hardware atomic on GPUs, unlike float32's.
  """
  return jnp.zeros(size, jnp.int32).at[ids_N].add(1).astype(jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def lookup(codebook_KD: jax.Array, ids: jax.Array, dtype: str = "float32") -> jax.Array:
  """codebook[ids] in `dtype`, [..., D]; its gradient is a sum per code (`sums`) instead of a
  scatter-add.
  """
  return codebook_KD[ids].astype(dtype)


def _lookup_fwd(codebook_KD, ids, dtype):
  return lookup(codebook_KD, ids, dtype), (ids, codebook_KD)


def _lookup_bwd(dtype, saved, g):
  del dtype
  ids, codebook_KD = saved
  size, dim = codebook_KD.shape
  return sums(ids.reshape(-1), g.reshape(-1, dim), size).astype(codebook_KD.dtype), None


lookup.defvjp(_lookup_fwd, _lookup_bwd)


def usage(ids: jax.Array, size: int) -> dict[str, jax.Array]:
  """Of the codes in this batch: `usage`, the fraction of K seen, and `perplexity`, exp of their
  entropy.

  By run lengths of the sorted ids, so that the cost does not depend on K.
  """
  ids_N = jnp.sort(ids.reshape(-1))
  index_N = jnp.arange(ids_N.size)
  change = ids_N[1:] != ids_N[:-1]
  edge = jnp.ones(1, bool)
  first, last = jnp.concatenate([edge, change]), jnp.concatenate([change, edge])
  start_N = jax.lax.cummax(jnp.where(first, index_N, 0))
  p_N = jnp.where(last, (index_N - start_N + 1) / ids_N.size, 1.0)
  return {
    "usage": jnp.sum(last) / size,
    "perplexity": jnp.exp(-jnp.sum(jnp.where(last, p_N * jnp.log(p_N), 0.0))),
  }


def entropy(p: jax.Array) -> jax.Array:
  """Entropy in nats along the last axis."""
  return -jnp.sum(p * jnp.log(jnp.maximum(p, 1e-12)), axis=-1)


def mean_probabilities(
  logits_fn: Callable[[jax.Array], jax.Array], z_ND: jax.Array, size: int
) -> tuple[jax.Array, jax.Array]:
  """Streams p = softmax(logits_fn(z)): returns the mean entropy of p (scalar) and the mean p [K].

  Differentiable; the backward pass recomputes each tile, so [N, K] never exists.
  """

  @jax.checkpoint
  def reduce_tile(z_TD, valid_T):
    log_p_TK = jax.nn.log_softmax(logits_fn(z_TD))
    p_TK = jnp.exp(log_p_TK) * valid_T[:, None]
    return -jnp.sum(p_TK * log_p_TK), jnp.sum(p_TK, axis=0)

  def body(carry, valid_T, z_TD):
    return jax.tree.map(jnp.add, carry, reduce_tile(z_TD, valid_T)), None

  zeros = jnp.zeros((), jnp.float32), jnp.zeros(size, jnp.float32)
  (entropies, p_K), _ = scan_tiles(body, zeros, [z_ND], columns=size)
  return entropies / len(z_ND), p_K / len(z_ND)


def entropy_penalty(
  z_ND: jax.Array, codebook_KD: jax.Array, temperature: float, metric: Literal["l2", "dot"] = "l2"
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Mean entropy of p(code | position) minus entropy of the mean p (arXiv 2202.04200), and the two
  terms.

  p = softmax(-|z - e|² / temperature), or softmax(z·e / temperature) with metric "dot".
  """

  def logits(z_TD):
    dots_TK = dot("td,kd->tk", z_TD, codebook_KD)
    if metric == "dot":
      return dots_TK / temperature
    return (
      2.0 * dots_TK - jnp.sum(codebook_KD**2, axis=-1)[None]
    ) / temperature  # |z|² cancels in the softmax

  per_position, p_K = mean_probabilities(logits, z_ND, len(codebook_KD))
  of_mean = entropy(p_K)
  return per_position - of_mean, {"position_entropy": per_position, "batch_entropy": of_mean}


def weighted_entropies(
  z_ND: jax.Array,
  codebook_KD: jax.Array,
  weight: float,
  temperature: float,
  metric: Literal["l2", "dot"] = "l2",
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`weight` times the entropy penalty, and its terms; zero and none where the weight is zero."""
  if not weight:
    return jnp.zeros((), jnp.float32), {}
  penalty, terms = entropy_penalty(z_ND, codebook_KD, temperature, metric)
  return weight * penalty, terms


def zero_with_gradient(x: jax.Array) -> jax.Array:
  """Exactly zero; its gradient is the identity."""
  return x - jax.lax.stop_gradient(x)


def straight_through(z: jax.Array, q: jax.Array) -> jax.Array:
  """q, bit for bit; the gradient goes to z unchanged (arXiv 1711.00937)."""
  return jax.lax.stop_gradient(q) + zero_with_gradient(z)


def rotate(z: jax.Array, q: jax.Array) -> jax.Array:
  """q, bit for bit; the gradient is that of z rotated and rescaled, both held constant (arXiv
  2410.06424, eq. 4).
  """
  z0, q = jax.lax.stop_gradient((z, q))
  norm = lambda x: jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
  along = lambda a, b: jnp.sum(a * b, axis=-1, keepdims=True) * b
  unit_z, unit_q = z0 / norm(z0), q / norm(q)
  mirror = (unit_z + unit_q) / norm(unit_z + unit_q)
  turned = z - 2.0 * along(z, mirror) + 2.0 * jnp.sum(z * unit_z, axis=-1, keepdims=True) * unit_q
  return straight_through(norm(q) / norm(z0) * turned, q)


NORMALIZATIONS = {"none": lambda x: x, "l2": l2_normalize}
ESTIMATORS = {"straight_through": straight_through, "rotation": rotate}


def squared_error(a: jax.Array, b: jax.Array) -> jax.Array:
  """Mean over all elements of (a - b)²."""
  return jnp.mean(jnp.square(a - b))


def vq_losses(
  z_ND: jax.Array, q_ND: jax.Array, codebook_weight: float, commitment_weight: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The weighted sum, and the terms: `codebook` moves codes only, `commitment` latents only."""
  terms = {
    "codebook": squared_error(q_ND, jax.lax.stop_gradient(z_ND)),
    "commitment": squared_error(jax.lax.stop_gradient(q_ND), z_ND),
  }
  return codebook_weight * terms["codebook"] + commitment_weight * terms["commitment"], terms


def join_ids(parts: Sequence[jax.Array], each: int) -> jax.Array:
  """Ids of several quantizers of `each` codebooks as one array [..., Q]; [...] where that is one
  codebook.
  """
  if each == 1:
    return parts[0] if len(parts) == 1 else jnp.stack(parts, axis=-1)
  return jnp.concatenate(parts, axis=-1)


def split_ids(ids: jax.Array, total: int, each: int) -> list[jax.Array]:
  """The parts that `join_ids` joined; ids may stop after any part.

  `total` is the number of codebooks of all parts.
  """
  if total == 1:
    return [ids]
  if each == 1:
    return [ids[..., i] for i in range(ids.shape[-1])]
  return jnp.split(ids, ids.shape[-1] // each, axis=-1)


def mean_metrics(parts: Sequence[dict[str, jax.Array]]) -> dict[str, jax.Array]:
  """The mean over several quantizers of every metric."""
  return {name: sum(p[name] for p in parts) / len(parts) for name in parts[0]}
