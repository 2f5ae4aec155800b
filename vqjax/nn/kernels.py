"""Attention as one kernel for TPUs, in Pallas: its scores stay in on-chip memory, both ways.

A program holds a block of queries and all keys, so that rows of scores are whole: the softmax needs
no running sums (as in FlashAttention, arXiv 2205.14135), and the backward pass makes them again
from queries and keys alone. Heads lie beside each other as the linear layers leave them, several
narrow ones in the 128 lanes of one program; the others' lanes are zero where one is multiplied.
Blocks depend on the shapes alone, so that a run computes the same whenever it continues.
"""

from __future__ import annotations

import functools
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
  wide = width if _LANES % width == 0 else _LANES * -(-width // _LANES)
  group = min(heads, max(1, _LANES // wide))
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
  products = 2 if not back else 5
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
      flops=2 * products * batch * length * length * total,
      transcendentals=batch * length * length * total // wide,
      bytes_accessed=(7 if back else 4) * q_BLX.nbytes,
    ),
    interpret=interpret,
    name=kernel.__name__.strip("_"),
  )(kind_1, q_BLX, k_BLX, v_BLX, *g)


def _dot(a, b, axes=((1,), (0,))):
  return jax.lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=jnp.float32)


def _heads(x_RX, wide):
  """For each head x with the other heads' lanes zero, and its lanes."""
  lane = jax.lax.broadcasted_iota(jnp.int32, (1, x_RX.shape[1]), 1)
  for first in range(0, x_RX.shape[1], wide):
    own_1X = (lane >= first) & (lane < first + wide)
    yield jnp.where(own_1X, x_RX, 0), own_1X


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
  q_RX, k_LX, v_LX = q_ref[...], k_ref[...], v_ref[...]
  bias_RL = _bias(kind_ref, sees, (len(q_RX), len(k_LX)))
  out_RX = jnp.zeros(q_RX.shape, jnp.float32)
  for own_RX, lanes_1X in _heads(q_RX, wide):
    p_RL = _probabilities(own_RX, k_LX, bias_RL, scale).astype(v_LX.dtype)
    out_RX = jnp.where(lanes_1X, _dot(p_RL, v_LX), out_RX)
  o_ref[...] = out_RX.astype(o_ref.dtype)


def _backward(
  kind_ref, q_ref, k_ref, v_ref, g_ref, dq_ref, dk_ref, dv_ref, dk_sum, dv_sum, *, sees, wide, scale
):
  @pl.when(pl.program_id(2) == 0)
  def _():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  q_RX, k_LX, v_LX, g_RX = q_ref[...], k_ref[...], v_ref[...], g_ref[...]
  bias_RL = _bias(kind_ref, sees, (len(q_RX), len(k_LX)))
  dq_RX = jnp.zeros(q_RX.shape, jnp.float32)
  for (own_RX, lanes_1X), (own_g_RX, _) in zip(_heads(q_RX, wide), _heads(g_RX, wide)):
    p_RL = _probabilities(own_RX, k_LX, bias_RL, scale)
    dv_sum[...] += _dot(p_RL.astype(g_RX.dtype), own_g_RX, ((0,), (0,)))
    dp_RL = _dot(own_g_RX, v_LX, ((1,), (1,)))
    ds_RL = p_RL * (dp_RL - jnp.sum(p_RL * dp_RL, axis=1, keepdims=True)) * scale
    ds_RL = ds_RL.astype(q_RX.dtype)
    dq_RX = jnp.where(lanes_1X, _dot(ds_RL, k_LX), dq_RX)
    dk_sum[...] += _dot(ds_RL, own_RX, ((0,), (0,)))
  dq_ref[...] = dq_RX.astype(dq_ref.dtype)

  @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
  def _():
    dk_ref[...] = dk_sum[...].astype(dk_ref.dtype)
    dv_ref[...] = dv_sum[...].astype(dv_ref.dtype)
