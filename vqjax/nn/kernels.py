"""Attention as one kernel for TPUs, in Pallas: its scores stay in on-chip memory, both ways.

A program holds a block of queries and all keys, so that rows of scores are whole: the softmax needs
no running sums (as in FlashAttention, arXiv 2205.14135), and the backward pass makes them again
from queries and keys alone. Heads lie beside each other as the linear layers leave them, as many to
a program as fill whole registers of 128 lanes. One is multiplied within the registers that hold it,
where the others' lanes are zero.
Blocks depend on the shapes alone, so that a run computes the same whenever it continues.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

Sees = Callable[[jax.Array, jax.Array], jax.Array]

_LANES = 128
_SCORES = 2**18  # that a program makes of one head: a megabyte of float32
_NEVER = -0.7 * float(jnp.finfo(jnp.float32).max)
_LONGEST = 2048  # of what a program holds of all keys
_HELD = 5 * 2**16  # of one array of keys, so that all fit in 16 megabytes


def attend(
  q_BLNH: jax.Array,
  k_BLNH: jax.Array,
  v_BLNH: jax.Array,
  sees: Sequence[Sees] = (),
  kind: jax.Array | int = 0,
  *,
  interpret: bool = False,
) -> jax.Array:
  """Scaled dot-product attention, `[B, L, N, H]`; the softmax is float32.

  Args:
    q_BLNH, k_BLNH, v_BLNH: of a length that `takes` accepts.
    sees: (query, key) -> whether the one sees the other, of int32 positions of one shape; none is
      all of them.
    kind: which of these, int32, may be traced.
    interpret: run on any backend, slowly, for tests.
  """
  length, heads, width = q_BLNH.shape[1:]
  wide, group = _layout(length, heads, width)
  more = -length % _LANES if length * length > _SCORES else 0
  pad = [(0, 0), (0, more), (0, -heads % group), (0, wide - width)]
  flat = lambda x: jnp.pad(x, pad).reshape(len(x), length + more, -1)
  if more:
    there = lambda _, key: key < length
    sees = [lambda q, k, f=f: f(q, k) & there(q, k) for f in sees] or [there]
  shape = (tuple(sees), wide, group, width**-0.5, interpret)
  kind_1 = jnp.asarray(kind, jnp.int32).reshape(1)
  out = _attend(shape, kind_1, flat(q_BLNH), flat(k_BLNH), flat(v_BLNH))
  return out.reshape(*out.shape[:2], -1, wide)[:, :length, :heads, :width]


def takes(length: int) -> bool:
  """Whether all keys and values fit in a program."""
  return length <= _LONGEST


def _layout(length: int, heads: int, width: int) -> tuple[int, int]:
  """(lanes of a head, heads of a program)."""
  group = _LANES // math.gcd(width, _LANES)
  group = heads if heads % group else group
  if length * group * width <= _HELD:
    return width, group
  wide = width if _LANES % width == 0 else _LANES * -(-width // _LANES)
  return wide, max(1, _LANES // wide)


def _rows(length: int) -> int:
  """Queries of a program."""
  if length * length <= _SCORES:
    return length
  return max(n for n in (128, 256, 512) if length % n == 0 and n * length <= _SCORES)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(shape, kind_1, q_BLX, k_BLX, v_BLX):
  return _call(_forward, shape, kind_1, q_BLX, k_BLX, v_BLX)[0]


def _attend_fwd(shape, kind_1, *qkv):
  return _attend(shape, kind_1, *qkv), (kind_1, *qkv)


def _attend_bwd(shape, saved, g_BLX):
  return None, *_call(_backward, shape, *saved, g_BLX)


_attend.defvjp(_attend_fwd, _attend_bwd)


def _call(kernel, shape, kind_1, q_BLX, k_BLX, v_BLX, *g):
  """Runs a kernel over examples, groups of heads and blocks of queries."""
  sees, wide, group, scale, interpret = shape
  batch, length, total = q_BLX.shape
  rows, lanes = _rows(length), wide * group
  some = pl.BlockSpec((None, rows, lanes), lambda b, n, i, _: (b, i, n))
  every = pl.BlockSpec((None, length, lanes), lambda b, n, i, _: (b, 0, n))
  back = kernel is _backward
  products = 5 if back else 2
  multiplied = total // lanes * sum(w.stop - w.start for _, w in _windows(lanes, wide))
  return pl.pallas_call(
    functools.partial(kernel, sees=sees, wide=wide, scale=scale),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(batch, total // lanes, length // rows),
      in_specs=[some, every, every] + [some] * back,
      out_specs=[some, every, every] if back else [some],
      scratch_shapes=[pltpu.VMEM((length, lanes), jnp.float32)] * (2 * back),
    ),
    out_shape=[jax.ShapeDtypeStruct(q_BLX.shape, q_BLX.dtype)] * (3 if back else 1),
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
    cost_estimate=pl.CostEstimate(
      flops=2 * products * batch * length * length * multiplied,
      transcendentals=batch * length * length * total // wide,
      bytes_accessed=(7 if back else 4) * q_BLX.nbytes,
    ),
    interpret=interpret,
    name=kernel.__name__.strip("_"),
  )(kind_1, q_BLX, k_BLX, v_BLX, *g)


def _dot(a, b, axes=((1,), (0,))):
  return jax.lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=jnp.float32)


def _windows(lanes, wide):
  """(a head's first lane, the registers that hold it), for each head."""
  for first in range(0, lanes, wide):
    start, end = first // _LANES * _LANES, -(-(first + wide) // _LANES) * _LANES
    yield first, slice(start, min(end, lanes))


def _own(first, window, wide):
  """Which lanes of a window are the head's own."""
  lane = window.start + jax.lax.broadcasted_iota(jnp.int32, (1, window.stop - window.start), 1)
  return (lane >= first) & (lane < first + wide)


def _probabilities(q_RX, k_LX, bias_RL, scale):
  scores_RL = _dot(q_RX, k_LX, ((1,), (1,))) * scale + bias_RL
  e_RL = jnp.exp(scores_RL - jnp.max(scores_RL, axis=1, keepdims=True))
  return e_RL / jnp.sum(e_RL, axis=1, keepdims=True)


def _bias(kind_ref, sees, shape):
  """0 where a query sees a key, else so little that its probability is 0."""
  if not sees:
    return 0.0
  query = pl.program_id(2) * shape[0] + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
  key = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
  ways = [lambda f=f: jnp.where(f(query, key), 0.0, _NEVER) for f in sees]
  return jax.lax.switch(kind_ref[0], ways) if len(ways) > 1 else ways[0]()


def _forward(kind_ref, q_ref, k_ref, v_ref, o_ref, *, sees, wide, scale):
  (rows, lanes), length = q_ref.shape, len(k_ref)
  bias_RL = _bias(kind_ref, sees, (rows, length))
  for first, window in _windows(lanes, wide):
    own_1X = _own(first, window, wide)
    q_RX = jnp.where(own_1X, q_ref[:, window], 0)
    p_RL = _probabilities(q_RX, k_ref[:, window], bias_RL, scale).astype(v_ref.dtype)
    out_RX = _dot(p_RL, v_ref[:, window]).astype(o_ref.dtype)
    o_ref[:, window] = jnp.where(own_1X, out_RX, o_ref[:, window])


def _backward(
  kind_ref, q_ref, k_ref, v_ref, g_ref, dq_ref, dk_ref, dv_ref, dk_sum, dv_sum, *, sees, wide, scale
):
  @pl.when(pl.program_id(2) == 0)
  def _():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  (rows, lanes), length = q_ref.shape, len(k_ref)
  bias_RL = _bias(kind_ref, sees, (rows, length))
  for first, window in _windows(lanes, wide):
    own_1X = _own(first, window, wide)
    q_RX, g_RX = (jnp.where(own_1X, ref[:, window], 0) for ref in (q_ref, g_ref))
    p_RL = _probabilities(q_RX, k_ref[:, window], bias_RL, scale)
    dv_sum[:, window] += _dot(p_RL.astype(g_RX.dtype), g_RX, ((0,), (0,)))
    dp_RL = _dot(g_RX, v_ref[:, window], ((1,), (1,)))
    ds_RL = p_RL * (dp_RL - jnp.sum(p_RL * dp_RL, axis=1, keepdims=True)) * scale
    ds_RL = ds_RL.astype(q_RX.dtype)
    dq_RX = _dot(ds_RL, k_ref[:, window]).astype(dq_ref.dtype)
    dq_ref[:, window] = jnp.where(own_1X, dq_RX, dq_ref[:, window])
    dk_sum[:, window] += _dot(ds_RL, q_RX, ((0,), (0,)))

  @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
  def _():
    dk_ref[...] = dk_sum[...].astype(dk_ref.dtype)
    dv_ref[...] = dv_sum[...].astype(dv_ref.dtype)
