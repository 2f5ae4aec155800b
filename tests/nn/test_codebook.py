"""Codebook search, statistics and placement against brute force; bounded memory; sharded equals
unsharded.
"""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from vqjax.nn import bits, book, codebook, target


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("positions,tile", [(64, None), (61, 16), (64, 16), (5, 16), (1, None)])
def test_nearest_is_the_brute_force_nearest(positions, tile):
  z, codes = np.asarray(normal(0, positions, 5)), np.asarray(normal(1, 23, 5))
  distances = ((z[:, None].astype(np.float64) - codes[None]) ** 2).sum(-1)
  np.testing.assert_array_equal(codebook.nearest(z, codes, tile=tile), distances.argmin(-1))
  np.testing.assert_array_equal(
    codebook.nearest(z, codes, metric="dot", tile=tile), (z @ codes.T).argmax(-1)
  )


def test_ties_go_to_the_lower_id():
  codes = jnp.zeros((4, 2)).at[0].set(9.0)
  assert codebook.nearest(jnp.zeros((1, 2)), codes)[0] == 1


@pytest.mark.parametrize("sums", [codebook._sums_by_scatter, codebook._sums_by_matmul])
def test_both_ways_to_sum_per_code(sums, monkeypatch):
  monkeypatch.setattr(codebook, "TILE_ELEMENTS", 64)  # several tiles, the last one ragged
  ids, x = (
    np.asarray(jax.random.randint(jax.random.key(0), (101,), 0, 7)),
    np.asarray(normal(1, 101, 3)),
  )
  expected = np.zeros((9, 3))
  np.add.at(expected, ids, x)
  np.testing.assert_allclose(sums(ids, x, size=9), expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(codebook.counts(ids, 9), np.bincount(ids, minlength=9))


def test_on_tpus_sums_of_bfloat16_are_one_product(monkeypatch):
  monkeypatch.setattr(target, "platform", lambda: "tpu")
  monkeypatch.setattr(codebook, "TILE_ELEMENTS", 64)
  ids, x = jax.random.randint(jax.random.key(0), (101,), 0, 7), normal(1, 101, 3)
  sums = partial(codebook._sums_by_matmul, size=9)
  traced = lambda dtype: str(jax.make_jaxpr(sums)(ids, x.astype(dtype)))
  assert "scan" in traced("float32") and "scan" not in traced("bfloat16")
  expected = sums(ids, x.astype(jnp.bfloat16).astype(jnp.float32))
  np.testing.assert_allclose(sums(ids, x.astype(jnp.bfloat16)), expected, rtol=1e-6)


def test_gradient_of_lookup_is_that_of_indexing():
  codes, ids, g = normal(0, 6, 3), jnp.array([[1, 1], [5, 0]]), normal(1, 2, 2, 3)
  f = lambda look: jax.grad(lambda c: jnp.sum(look(c) * g))(codes)
  np.testing.assert_allclose(f(lambda c: codebook.lookup(c, ids)), f(lambda c: c[ids]), rtol=1e-6)


def test_usage_counts_codes():
  ids = jnp.array([[3, 3, 0], [7, 3, 0]])
  p = np.array([2, 3, 1]) / 6
  usage = jax.jit(codebook.usage, static_argnums=1)
  m = usage(ids, 8)
  np.testing.assert_allclose(m["usage"], 3 / 8)
  np.testing.assert_allclose(m["perplexity"], np.exp(-(p * np.log(p)).sum()), rtol=1e-5)
  np.testing.assert_allclose(usage(jnp.arange(8), 8)["perplexity"], 8.0, rtol=1e-5)
  np.testing.assert_allclose(usage(jnp.zeros(8, jnp.int32), 8)["perplexity"], 1.0)


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_streamed_entropies_and_their_gradient(metric, monkeypatch):
  monkeypatch.setattr(codebook, "TILE_ELEMENTS", 64)
  z, codes = normal(0, 37, 3), normal(1, 11, 3)

  def whole(z, codes):
    logits = -jnp.sum((z[:, None] - codes[None]) ** 2, -1) if metric == "l2" else z @ codes.T
    p = jax.nn.softmax(logits / 0.7)
    h = lambda p: -jnp.sum(p * jnp.log(p), -1)
    return jnp.mean(h(p)) - h(jnp.mean(p, 0))

  streamed = lambda z, codes: codebook.entropy_penalty(z, codes, 0.7, metric)[0]
  a, da = jax.jit(jax.value_and_grad(streamed, (0, 1)))(z, codes)
  b, db = jax.jit(jax.value_and_grad(whole, (0, 1)))(z, codes)
  np.testing.assert_allclose(a, b, rtol=1e-5)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), da, db)


@pytest.mark.parametrize("group_bits", [5, 3])
def test_bit_entropies_against_all_codes(group_bits):
  z = normal(0, 40, 5)
  signs = np.asarray(bits.signs_from_ids(jnp.arange(32), 5))
  p = jax.nn.softmax(2.0 * 0.4 * (z @ signs.T) / 0.3)
  h = lambda p: -jnp.sum(p * jnp.log(p), -1)
  per_position, of_mean = jax.jit(lambda z: bits.entropy_terms(z, 0.4, 0.3, group_bits))(z)
  np.testing.assert_allclose(per_position, jnp.mean(h(p)), rtol=1e-4)
  if group_bits == 5:
    np.testing.assert_allclose(of_mean, h(jnp.mean(p, 0)), rtol=1e-4)
  else:  # the sum over parts of the code, marginalised by hand
    joint = np.asarray(jnp.mean(p, 0)).reshape(8, 4)
    np.testing.assert_allclose(
      of_mean, h(jnp.asarray(joint.sum(1))) + h(jnp.asarray(joint.sum(0))), rtol=1e-4
    )
    assert of_mean >= h(jnp.mean(p, 0)) - 1e-6


def test_straight_through_is_exact_in_value():
  z, q = normal(0, 64, 4).astype(jnp.bfloat16), normal(1, 64, 4).astype(jnp.bfloat16)
  np.testing.assert_array_equal(codebook.straight_through(z, q), q)


def test_rotation_keeps_angles_of_gradients():
  """And its value is the code, bit for bit."""
  z, q, g = normal(0, 50, 6), normal(1, 50, 6), normal(2, 50, 6)
  out, pull = jax.vjp(lambda z: codebook.rotate(z, q), z)
  np.testing.assert_array_equal(out, q)
  cosine = lambda a, b: jnp.sum(codebook.l2_normalize(a) * codebook.l2_normalize(b), -1)
  np.testing.assert_allclose(cosine(pull(g)[0], z), cosine(g, q), atol=1e-5)


def test_rotation_of_zero_is_the_code_with_a_finite_gradient():
  out, pull = jax.vjp(lambda z: codebook.rotate(z, jnp.ones((1, 3))), jnp.zeros((1, 3)))
  assert (out == 1).all() and np.isfinite(pull(out)[0]).all()


def test_kmeans_finds_separate_clusters():
  centers = 10.0 * normal(0, 8, 4)
  z = (centers[None] + 0.01 * normal(1, 64, 8, 4)).reshape(-1, 4)
  codes = book.kmeans(jax.random.key(2), z, 32)
  gap = jnp.min(jnp.sum((codes[None] - centers[:, None]) ** 2, -1), axis=1)
  assert np.max(gap) < 0.1


def test_first_book_of_fewer_rows_than_codes_is_distinct():
  codes = np.asarray(book.data_book(jax.random.key(0), normal(1, 5, 4), 16))
  assert len(np.unique(codes, axis=0)) == 16


def test_sampled_rows_are_distinct_rows():
  z = np.asarray(normal(0, 50, 2))
  picked = np.asarray(book.sample_rows(jax.random.key(0), z, 50))
  np.testing.assert_array_equal(picked, z)
  for size in (20, 26, 33, 49):  # none divides 50
    some = np.asarray(book.sample_rows(jax.random.key(size), z, size))
    assert len(np.unique(some, axis=0)) == size and all((z == r).all(-1).any() for r in some)
  few = np.asarray(book.sample_rows(jax.random.key(0), z, 120))
  assert len(np.unique(few, axis=0)) == 50
  often = jax.vmap(lambda key: book.sample_rows(key, jnp.arange(5)[:, None], 2)[:, 0])
  picked = often(jax.random.split(jax.random.key(0), 600))
  counts = np.stack([np.bincount(column, minlength=5) for column in np.asarray(picked).T])
  np.testing.assert_allclose(counts, [[300, 300, 0, 0, 0], [0, 0, 200, 200, 200]], atol=60)


def test_revive_replaces_only_dead_codes():
  z = normal(0, 30, 2)
  dead, rows, used = book.revive(jax.random.key(0), jnp.array([2.0, 0.01, 1.0, 0.99]), z, 0.1)
  np.testing.assert_array_equal(dead, [False, True, False, False])
  np.testing.assert_allclose(used, [2.0, 1.0, 1.0, 0.99])
  assert (np.asarray(z) == np.asarray(rows)[1]).all(-1).any()


def compiled(f, *specs):
  return jax.jit(f).lower(*[jax.ShapeDtypeStruct(s, d) for s, d in specs]).compile()


def test_memory_of_a_large_search_and_its_penalty():
  n, k, d = 65_536, 16_384, 256
  full = 4 * n * k
  z, codes = ((n, d), jnp.float32), ((k, d), jnp.float32)
  search = compiled(codebook.nearest, z, codes).memory_analysis().temp_size_in_bytes
  # One tile per faked device, and z laid out tile by tile.
  allowed = 4 * codebook.TILE_ELEMENTS * jax.device_count() + 2 * 4 * n * d
  assert search < allowed < full / 10
  penalty = jax.grad(lambda z, c: codebook.entropy_penalty(z, c, 0.01)[0], (0, 1))
  # Beside tiles: z and its gradient by tiles, and three times the codebook.
  assert compiled(penalty, z, codes).memory_analysis().temp_size_in_bytes < 3 * allowed < full / 3


def test_sums_by_matmul_of_a_large_book_stay_bounded():
  n, k, d = 65_536, 16_384, 64
  f = lambda ids, x: codebook._sums_by_matmul(ids, x, size=k)
  memory = (
    compiled(f, ((n,), jnp.int32), ((n, d), jnp.float32)).memory_analysis().temp_size_in_bytes
  )
  assert memory < 2 * 4 * codebook.TILE_ELEMENTS * jax.device_count() < 4 * n * k / 4


def collectives(executable):
  """(operation, elements of the largest result) of the collectives of a compiled function."""
  found = re.findall(
    r"= \(?(.*?)\)? (all-gather|all-reduce|all-to-all|collective-permute)\(", executable.as_text()
  )
  size = lambda text: max(
    math.prod(map(int, filter(None, s.split(",")))) for s in re.findall(r"\[([\d,]*)\]", text)
  )
  return [(op, size(shapes)) for shapes, op in found]


def on_mesh(spec, x):
  mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
  return jax.device_put(x, NamedSharding(mesh, spec))


def test_search_of_sharded_positions_stays_on_the_device(monkeypatch):
  monkeypatch.setattr(codebook, "TILE_ELEMENTS", 32 * 16)
  z, codes = normal(0, 512, 8), normal(1, 32, 8)
  run = jax.jit(codebook.nearest).lower(on_mesh(P("data"), z), on_mesh(P(), codes)).compile()
  assert "while" in run.as_text() and collectives(run) == []
  np.testing.assert_array_equal(
    run(on_mesh(P("data"), z), on_mesh(P(), codes)), codebook.nearest(z, codes)
  )


def test_search_in_a_sharded_codebook_does_not_gather_it(monkeypatch):
  monkeypatch.setattr(codebook, "TILE_ELEMENTS", 64 * 16)
  z, codes = normal(0, 256, 32), normal(1, 64, 32)

  def f(z, codes):
    ids = codebook.nearest(z, codes)
    return ids, codebook.lookup(codes, ids)

  run = jax.jit(f).lower(on_mesh(P(), z), on_mesh(P("data"), codes)).compile()
  assert all(size < codes.size for op, size in collectives(run) if op == "all-gather")
  ids, q = run(on_mesh(P(), z), on_mesh(P("data"), codes))
  np.testing.assert_array_equal(ids, codebook.nearest(z, codes))
  np.testing.assert_array_equal(q, codes[ids])
