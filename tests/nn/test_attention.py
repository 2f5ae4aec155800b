"""Attention against a sum written out; rotary positions by their property; caches against the
uncached result.
"""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import pulled

from vqjax.nn import attention, codebook, sparse, target

LAYOUTS = ["fused", "heads", "keys_last"]


def arrays(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def written_out(q, k, v, mask):
  """Attention one query at a time, in float64."""
  out = np.zeros(q.shape)
  for b, i, n in np.ndindex(q.shape[:3]):
    seen = [j for j in range(k.shape[1]) if mask[i][j]]
    scores = np.array([q[b, i, n].astype(np.float64) @ k[b, j, n] for j in seen]) / np.sqrt(
      q.shape[-1]
    )
    weights = np.exp(scores - scores.max())
    out[b, i, n] = weights / weights.sum() @ v[b, seen, n]
  return out


@pytest.mark.parametrize("mask, seen", [
    ("full", [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
    ("causal", [[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
    (jnp.array([[0, 1, 0], [1, 1, 0], [1, 0, 1]], bool), [[0, 1, 0], [1, 1, 0], [1, 0, 1]]),
    (jnp.array([[[0, 1, 0], [1, 1, 0], [1, 0, 1]]] * 2, bool), [[0, 1, 0], [1, 1, 0], [1, 0, 1]]),
])  # yapf: disable
def test_masks(mask, seen):
  q, k, v = arrays(0, *[(2, 3, 2, 4)] * 3)
  np.testing.assert_allclose(attention.attend(q, k, v, mask), written_out(q, k, v, seen), atol=1e-5)


@pytest.mark.parametrize("mask", ["full", "causal", "sparse", "per example"])
def test_blocks_of_queries_are_what_they_are_together(mask):
  """Also where the last block is short, and their gradients."""
  length = 150
  q, k, v, g = arrays(0, *[(2, length, 2, 4)] * 4)
  seen = {"causal": np.tri(length, dtype=bool), "full": np.ones((length, length), bool)}
  kind = 0
  if mask == "sparse":
    mask, kind = sparse.Masks(("row", "column"), 6, 12, 3, length), 1
    seen = np.array(mask.arrays)[kind]
  elif mask == "per example":
    mask = seen = np.random.default_rng(1).random((2, length, length)) < 0.5
    seen[1, 3], g[1, 3] = False, 0  # who sees nothing has the mean of all, not NaN
  else:
    seen = seen[mask]
  seen = np.broadcast_to(seen, (2, length, length))[:, None]

  def plain(q, k, v):
    scores = np.where(seen, 0.0, -1e30) + jnp.einsum("blnh,bsnh->bnls", q, k) / 2
    return jnp.einsum("bnls,bsnh->blnh", jax.nn.softmax(scores), v)

  ours = pulled(lambda *qkv: attention.attend(*qkv, mask, kind), q, k, v, g)
  for mine, other in zip(ours, pulled(plain, q, k, v, g), strict=True):
    np.testing.assert_allclose(mine, other, atol=1e-5)


def test_causal_blocks_leave_out_the_keys_behind_them():
  q = jnp.zeros((1, 512, 1, 8))
  flops = lambda mask: jax.jit(attention.attend, static_argnums=3).lower(q, q, q, mask)
  full, causal = (flops(m).cost_analysis()["flops"] for m in ("full", "causal"))
  assert causal < 0.65 * full


def test_softmax_is_float32_in_bfloat16():
  q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in arrays(0, *[(1, 4, 2, 8)] * 3))
  cache = attention.init_cache(1, 4, 2, 8, "bfloat16", "fused")
  for text in (
    jax.make_jaxpr(attention.attend)(q, k, v),
    jax.make_jaxpr(attention.attend_cache)(q[:, 0], cache, 2),
  ):
    kinds = re.findall(r":(\w+)\[[\d,]*\] = exp ", str(text))
    assert kinds and set(kinds) == {"f32"}


def test_rotary_angles_on_a_grid():
  """Rows turn the first half of the pairs, columns the second."""
  assert attention.rotary_table((2, 3), 4).tolist() == [
    [0, 0],
    [0, 1],
    [0, 2],
    [1, 0],
    [1, 1],
    [1, 2],
  ]
  np.testing.assert_allclose(
    attention.rotary_table((3,), 4, base=100.0), [[0, 0], [1, 0.1], [2, 0.2]], rtol=1e-6
  )


def test_rotary_scores_depend_on_the_offset_alone():
  q, k = arrays(1, (1, 1, 1, 16), (1, 1, 1, 16))
  table = attention.rotary_table((5, 6), 16)
  turned_q, turned_k = (attention.rotate(np.repeat(x, 30, axis=1), table)[0, :, 0] for x in (q, k))
  scores = np.asarray(turned_q @ turned_k.T).reshape(5, 6, 5, 6)
  np.testing.assert_allclose(np.linalg.norm(turned_q, axis=-1), np.linalg.norm(q), rtol=1e-5)
  np.testing.assert_allclose(scores[0, 1, 2, 3], scores[2, 3, 4, 5], rtol=1e-4)
  np.testing.assert_allclose(scores[4, 0, 1, 2], scores[3, 3, 0, 5], rtol=1e-4)
  assert (
    abs(scores[0, 0, 0, 1] - scores[0, 0, 1, 0]) > 1e-3
    and abs(scores[0, 0, 0, 1] - scores[0, 1, 0, 0]) > 1e-3
  )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cache_equals_causal_attention(layout):
  """Two positions at once, then one by one at a traced index; what lies beyond is never read."""
  q, k, v = arrays(2, *[(2, 6, 3, 4)] * 3)
  expected = written_out(q, k, v, np.tri(6))
  cache = jax.tree.map(
    lambda x: jnp.full_like(x, 9.0), attention.init_cache(2, 6, 3, 4, layout=layout)
  )
  cache = attention.update_cache(cache, k[:, :2], v[:, :2], 0)

  @jax.jit
  def step(cache, q, k, v, index):
    cache = attention.update_cache(cache, k, v, index)
    return attention.attend_cache(q[:, 0], cache, index + 1), cache

  for i in range(2, 6):
    out, cache = step(cache, q[:, i : i + 1], k[:, i : i + 1], v[:, i : i + 1], i)
    np.testing.assert_allclose(out, expected[:, i], atol=1e-5)


def test_layouts_in_memory():
  shape = lambda layout: attention.init_cache(2, 7, 3, 4, layout=layout).keys.shape
  assert [shape(x) for x in LAYOUTS] == [(2, 7, 12), (2, 3, 7, 4), (2, 3, 4, 7)]
  assert attention.init_cache(2, 7, 3, 4, "bfloat16", "fused").values.dtype == jnp.bfloat16


@pytest.mark.parametrize("backend, dtype, head_width, expected", [
    ("gpu", "bfloat16", 64, "cudnn"), ("gpu", "float16", 8, "cudnn"), ("gpu", "float32", 64, "xla"),
    ("gpu", "bfloat16", 36, "xla"), ("gpu", "bfloat16", 256, "xla"),
    ("tpu", "bfloat16", 64, "kernels"), ("tpu", "float32", 64, "xla"),
    ("cpu", "bfloat16", 64, "xla"),
])  # yapf: disable
def test_kernel_by_backend(monkeypatch, backend, dtype, head_width, expected):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  assert attention.implementation(dtype, head_width) == expected


def test_choices_follow_the_devices_that_a_program_is_compiled_for():
  """Not those of the machine that compiles it."""
  tpus = [types.SimpleNamespace(platform="tpu")] * 16
  z = jax.ShapeDtypeStruct((2**16, 4), "float32")
  tiles = lambda: codebook._steps(2**16, 64, None)
  here = tiles()
  with target.tracing_for(tpus):
    assert (target.platform(), target.device_count()) == ("tpu", 16)
    assert attention.default_layout() == "fused" and tiles() == 1
    jaxpr = jax.make_jaxpr(lambda z: codebook.nearest(z, z[:64]))(z)
    assert "scan" not in str(jaxpr)
  assert (
    tiles() == here == 2**16 // (512 * jax.device_count())
    and attention.default_layout() == "keys_last"
  )
