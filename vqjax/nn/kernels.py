"""Attention as one kernel for TPUs, in Pallas: its scores stay in on-chip memory, both ways.

A program holds a block of queries and all keys, so that rows of scores are whole: the softmax needs
no running sums (as in FlashAttention, arXiv 2205.14135), and the backward pass makes them again
from queries and keys alone. Heads lie beside each other as the linear layers leave them, as many to
a program as fill whole registers of 128 lanes. One is multiplied within the registers that hold it,
where the others' lanes are zero. Rotary positions are turned here too: outside, the halves of a
head would be cut and joined in memory, three times with a recomputation.
Blocks depend on shapes and chips alone, so that a run computes the same whenever it continues.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vqjax.nn import attention, target

Sees = Callable[[jax.Array, jax.Array], jax.Array]

_LANES = 128
_SCORES = 2**18  # that a program makes of one head: a megabyte of float32
_NEVER = -0.7 * float(jnp.finfo(jnp.float32).max)
_LONGEST = 2048  # of what a program holds of all keys
_HELD = 3 * 2**16  # of one array of keys, so that all fit in the 16 megabytes that XLA allows
_HELD_AT_MOST = 13 * 2**16  # where 48 may be asked for
_OLD = ("TPU v2", "TPU v3", "TPU v4", "TPU v4 lite")  # chips that do not have them


def attend(
  q_BLNH: jax.Array,
  k_BLNH: jax.Array,
  v_BLNH: jax.Array,
  sees: Sequence[Sees] = (),
  kind: jax.Array | int = 0,
  angles_LF: jax.Array | None = None,
  *,
  interpret: bool = False,
) -> jax.Array:
  """Scaled dot-product attention, `[B, L, N, H]`; the softmax is float32.

  Args:
    q_BLNH, k_BLNH, v_BLNH: of a length that `takes` accepts.
    sees: (query, key) -> whether the one sees the other, of int32 positions of one shape; none is
      all of them.
    kind: which of these, int32, may be traced.
    angles_LF: by which queries and keys are turned first, see `attention.rotate`.
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
  turns = None
  if angles_LF is not None:
    if wide * group % _LANES:  # only whole registers are rolled
      q_BLNH, k_BLNH = (attention.rotate(x, angles_LF) for x in (q_BLNH, k_BLNH))
    else:
      turns = _turns(angles_LF, [(0, more), (0, wide - width)], group)
  shape = _Shape(tuple(sees), width, wide, group, interpret)
  alike = jnp.asarray(kind, jnp.int32).reshape(1), turns
  out = _attend(shape, alike, flat(q_BLNH), flat(k_BLNH), flat(v_BLNH))
  return out.reshape(*out.shape[:2], -1, wide)[:, :length, :heads, :width]


class _Shape(NamedTuple):
  """What a kernel is made for; `width` of `wide` lanes of a head are its channels."""

  sees: tuple[Sees, ...]
  width: int
  wide: int
  group: int
  interpret: bool


def _turns(angles_LF, pad, group):
  """Cosines and sines of every lane, by which it and the other of its pair are multiplied."""
  sines = jnp.sin(angles_LF)
  pairs = (jnp.concatenate([jnp.cos(angles_LF)] * 2, 1), jnp.concatenate([-sines, sines], 1))
  return tuple(jnp.tile(jnp.pad(x, pad), (1, group)).astype(jnp.float32) for x in pairs)


def takes(length: int) -> bool:
  """Whether all keys and values fit in a program."""
  return length <= _LONGEST


def _layout(length: int, heads: int, width: int) -> tuple[int, int]:
  """(lanes of a head, heads of a program)."""
  group = _LANES // math.gcd(width, _LANES)
  group = heads if heads % group else group
  if length * group * width <= (_HELD if target.kind() in _OLD else _HELD_AT_MOST):
    return width, group
  wide = width if _LANES % width == 0 else _LANES * -(-width // _LANES)
  return wide, max(1, _LANES // wide)


def _rows(length: int) -> int:
  """Queries of a program."""
  if length * length <= _SCORES:
    return length
  return max(n for n in (128, 256, 512) if length % n == 0 and n * length <= _SCORES)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(shape, alike, q_BLX, k_BLX, v_BLX):
  return _call(_forward, shape, alike, q_BLX, k_BLX, v_BLX)[0]


def _attend_fwd(shape, alike, *qkv):
  return _attend(shape, alike, *qkv), (alike, *qkv)


def _attend_bwd(shape, saved, g_BLX):
  return None, *_call(_backward, shape, *saved, g_BLX)


_attend.defvjp(_attend_fwd, _attend_bwd)


def _call(kernel, shape, alike, q_BLX, k_BLX, v_BLX, *g):
  """Runs a kernel over examples, groups of heads and blocks of queries."""
  (kind_1, turns), wide = alike, shape.wide
  batch, length, total = q_BLX.shape
  rows, lanes = _rows(length), wide * shape.group
  some = pl.BlockSpec((None, rows, lanes), lambda b, n, i, _: (b, i, n))
  every = pl.BlockSpec((None, length, lanes), lambda b, n, i, _: (b, 0, n))
  table = pl.BlockSpec((length, lanes), lambda b, n, i, _: (0, 0))
  turns = () if turns is None else turns
  back = kernel is _backward
  products = 5 if back else 2
  multiplied = total // lanes * sum(w.stop - w.start for _, w in _windows(lanes, wide))
  return pl.pallas_call(
    functools.partial(kernel, shape=shape, turned=bool(turns)),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(batch, total // lanes, length // rows),
      in_specs=[table] * len(turns) + [some, every, every] + [some] * back,
      out_specs=[some, every, every] if back else [some],
      scratch_shapes=[pltpu.VMEM((length, lanes), jnp.float32)] * (2 * back),
    ),
    out_shape=[jax.ShapeDtypeStruct(q_BLX.shape, q_BLX.dtype)] * (3 if back else 1),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary"),
      vmem_limit_bytes=None if length * lanes <= _HELD or target.kind() in _OLD else 48 * 2**20,
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * products * batch * length * length * multiplied,
      transcendentals=batch * length * length * total // wide,
      bytes_accessed=(7 if back else 4) * q_BLX.nbytes,
    ),
    interpret=shape.interpret,
    name=kernel.__name__.strip("_"),
  )(kind_1, *turns, q_BLX, k_BLX, v_BLX, *g)


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


def _turn(x_RX, turns, rows, shape, back=False):
  """Turns queries or keys by the angles of these rows, or back."""
  if turns is None:
    return x_RX
  cos_RX, sin_RX = (ref[rows] for ref in turns)
  half, lanes = shape.width // 2, x_RX.shape[1]
  x_RX, lane = x_RX.astype(jnp.float32), jax.lax.broadcasted_iota(jnp.int32, (1, lanes), 1)
  first = lane % shape.wide < half
  other_RX = jnp.where(first, pltpu.roll(x_RX, lanes - half, 1), pltpu.roll(x_RX, half, 1))
  return x_RX * cos_RX + other_RX * (-sin_RX if back else sin_RX)


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


def _arrive(q_ref, k_ref, turns, shape):
  """Turned queries and keys, and the rows of the queries."""
  rows = pl.ds(pl.program_id(2) * len(q_ref), len(q_ref))
  q_RX = _turn(q_ref[...], turns, rows, shape).astype(q_ref.dtype)
  return q_RX, _turn(k_ref[...], turns, slice(None), shape).astype(k_ref.dtype), rows


def _forward(kind_ref, *refs, shape, turned):
  turns, (q_ref, k_ref, v_ref, o_ref) = (refs[:2], refs[2:]) if turned else (None, refs)
  q_RX, k_LX, _ = _arrive(q_ref, k_ref, turns, shape)
  bias_RL = _bias(kind_ref, shape.sees, (len(q_RX), len(k_LX)))
  for first, window in _windows(q_RX.shape[1], shape.wide):
    own_1X = _own(first, window, shape.wide)
    own_RX = jnp.where(own_1X, q_RX[:, window], 0)
    p_RL = _probabilities(own_RX, k_LX[:, window], bias_RL, shape.width**-0.5)
    out_RX = _dot(p_RL.astype(v_ref.dtype), v_ref[:, window]).astype(o_ref.dtype)
    o_ref[:, window] = jnp.where(own_1X, out_RX, o_ref[:, window])


def _backward(kind_ref, *refs, shape, turned):
  turns, refs = (refs[:2], refs[2:]) if turned else (None, refs)
  q_ref, k_ref, v_ref, g_ref, dq_ref, dk_ref, dv_ref, dk_sum, dv_sum = refs

  @pl.when(pl.program_id(2) == 0)
  def _():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  q_RX, k_LX, rows = _arrive(q_ref, k_ref, turns, shape)
  scale = shape.width**-0.5
  bias_RL = _bias(kind_ref, shape.sees, (len(q_RX), len(k_LX)))
  for first, window in _windows(q_RX.shape[1], shape.wide):
    own_1X = _own(first, window, shape.wide)
    own_RX, g_RX = (jnp.where(own_1X, x, 0) for x in (q_RX[:, window], g_ref[:, window]))
    p_RL = _probabilities(own_RX, k_LX[:, window], bias_RL, scale)
    dv_sum[:, window] += _dot(p_RL.astype(g_RX.dtype), g_RX, ((0,), (0,)))
    dp_RL = _dot(g_RX, v_ref[:, window], ((1,), (1,)))
    ds_RL = p_RL * (dp_RL - jnp.sum(p_RL * dp_RL, axis=1, keepdims=True)) * scale
    ds_RL = ds_RL.astype(q_RX.dtype)
    dq_RX = _dot(ds_RL, k_LX[:, window]).astype(dq_ref.dtype)
    dq_ref[:, window] = jnp.where(own_1X, dq_RX, dq_ref[:, window])
    dk_sum[:, window] += _dot(ds_RL, own_RX, ((0,), (0,)))
  if turned:
    dq_ref[...] = _turn(dq_ref[...], turns, rows, shape, back=True).astype(dq_ref.dtype)

  @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
  def _():
    dk_LX = _turn(dk_sum[...], turns, slice(None), shape, back=True)
    dk_ref[...] = dk_LX.astype(dk_ref.dtype)
    dv_ref[...] = dv_sum[...].astype(dv_ref.dtype)
