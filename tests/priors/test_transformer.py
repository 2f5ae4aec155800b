"""The transformer: cached decoding, LlamaGen's block written out, remat, sizes, and what it
refuses.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.priors import _block, transformer

SMALL = functools.partial(
  transformer.Model, latent=Codes((3, 4), 8), rows=12, layers=2, width=16, heads=2
)
LLAMA = dict(positions="rotary", norm="rmsnorm", mlp="swiglu", bias=False, hidden=24)
DALLE = dict(positions="row_column", attention="dalle", window=3, prefix_rows=4, layers=3)
STYLES = {
  "mingpt": {}, "llama": LLAMA, "llama_qk": LLAMA | dict(qk_norm="rmsnorm"), "dalle": DALLE
}  # fmt: skip
IDS = jnp.asarray(np.random.default_rng(0).integers(0, 8, (3, 12)))


def wide(model, *args, seed=0, **kwargs):
  """Params drawn wide, so that nothing is zero by initialisation."""
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *args, train=False, **kwargs))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes)


def apply(model, params, *args, **kwargs):
  return jax.jit(lambda p: model.apply(p, *args, train=False, **kwargs))(params)


CLASS, HOLES = [[8], [9], [-1]], [[8, 10, -1], [-1, -1, -1], [9, 9, 11]]


@pytest.mark.parametrize(
  "style, layout, prefix",
  [
    ("mingpt", "keys_last", None),
    ("mingpt", "fused", CLASS),
    ("mingpt", "heads", HOLES),
    ("llama", "fused", None),
    ("llama", "heads", CLASS),
    ("llama_qk", "keys_last", HOLES),
    ("dalle", "fused", HOLES),
  ],
)
def test_cached_logits_equal_uncached(style, layout, prefix):
  model = SMALL(max_prefix=3, cache_layout=layout, **STYLES[style])
  prefix = None if prefix is None else jnp.asarray(prefix)
  params = wide(model, IDS, prefix)
  expected = apply(model, params, IDS, prefix)
  empty = model.init_cache(3, 0 if prefix is None else prefix.shape[1])
  logits, cache = jax.jit(functools.partial(model.apply, method="prefill"))(params, prefix, empty)
  np.testing.assert_allclose(logits, expected[:, :1], atol=1e-4)
  decode = jax.jit(functools.partial(model.apply, method="decode"))
  # On CPUs the layers' parameters come with the cache: a loop would copy them for every code.
  lost = {"blocks": jax.tree.map(lambda p: p * jnp.nan, params["params"]["blocks"])}
  params = {"params": params["params"] | lost}
  for i in range(11):
    logits, cache = decode(params, IDS[:, i : i + 1], i, cache)
    np.testing.assert_allclose(logits, expected[:, i + 1 : i + 2], atol=1e-4)


def rms(x, scale):
  return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5) * scale


def llamagen(params, tokens, grid, heads):
  """LlamaGen's network for one sequence in float64: a loop over layers; rotations as complex
  numbers.
  """
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
  x = p["embed"]["table"][tokens]
  h = x.shape[-1] // heads
  rows, columns = np.divmod(np.arange(len(tokens) - 1), grid[1])
  frequencies = 10_000.0 ** -(np.arange(h // 4) / (h // 4))
  phase = np.concatenate([rows[:, None] * frequencies, columns[:, None] * frequencies], axis=1)
  turn = np.exp(
    1j * np.concatenate([np.zeros((1, h // 2)), phase])
  )  # The class token is not turned.

  def rotate(y):
    z = (y[..., : h // 2] + 1j * y[..., h // 2 :]) * turn[:, None]
    return np.concatenate([z.real, z.imag], axis=-1)

  for i in range(len(p["blocks"]["norm_1"]["scale"])):
    b = jax.tree.map(lambda y: y[i], p["blocks"])
    y = rms(x, b["norm_1"]["scale"])
    q, k, v = ((y @ b[n]["kernel"]).reshape(len(x), heads, h) for n in ("query", "key", "value"))
    scores = np.einsum("inh,jnh->nij", rotate(q), rotate(k)) / np.sqrt(h)
    weights = np.exp(np.where(np.tri(len(x)), scores, -np.inf))
    mixed = np.einsum("nij,jnh->inh", weights / weights.sum(-1, keepdims=True), v).reshape(
      len(x), -1
    )
    x = x + mixed @ b["proj"]["kernel"]
    y = rms(x, b["norm_2"]["scale"])
    gate = y @ b["gate"]["kernel"]
    x = x + (gate / (1 + np.exp(-gate)) * (y @ b["up"]["kernel"])) @ b["down"]["kernel"]
  return rms(x, p["norm_out"]["scale"]) @ p["head"]["kernel"]


def test_llamagen_block_written_out():
  model = SMALL(**LLAMA)
  prefix = jnp.array([[8], [9], [11]])
  params = wide(model, IDS, prefix)
  out = apply(model, params, IDS, prefix)
  for b in range(3):
    tokens = np.concatenate([prefix[b], IDS[b, :-1]])
    np.testing.assert_allclose(out[b], llamagen(params, tokens, (3, 4), 2), atol=1e-4)


def test_remat_changes_no_value_or_gradient():
  kept, again = SMALL(), SMALL(remat="block")
  params = wide(kept, IDS)

  def loss(model):
    return jax.jit(
      jax.value_and_grad(lambda p: jnp.square(model.apply(p, IDS, train=False)).mean())
    )(params)

  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), loss(kept), loss(again)
  )


def test_a_code_keeps_its_position_under_a_shorter_prefix():
  """Of two leads, the shorter takes the last places of the table: code 0 stands in row max_prefix
  in both.
  """
  model = SMALL(max_prefix=3)
  params = wide(model, IDS)
  table = params["params"]["position_table"]
  finite = jax.jit(lambda p, c: jnp.isfinite(model.apply(p, IDS, c, train=False)).all())
  for length, first in ((3, 0), (1, 2)):
    for row in range(4):
      params["params"]["position_table"] = table.at[row].set(jnp.nan)
      assert finite(params, jnp.full((3, length), 8)) == (row < first)


def test_text_and_codes_as_one_stream():
  """By gradient: a token of the prefix sees those before it and no code; with the sparse masks of
  three layers, the first code sees the prefix alone and every code all of the prefix.
  """
  model, prefix = SMALL(max_prefix=3, **DALLE), jnp.array([[8, 9, 10]])
  ids = jnp.arange(12)[None] % 8
  params = wide(model, ids, prefix)
  inner = params["params"]

  def said(table):
    seen = {"params": inner | {"embed": inner["embed"] | {"table": table}}}
    codes, text = model.apply(seen, ids, prefix, train=False, method="joint")
    weights = jnp.linspace(-1.0, 2.0, 8)
    return codes[0] @ weights, text[0] @ weights[:4]

  codes, text = jax.jit(jax.jacrev(said))(inner["embed"]["table"])
  sees = lambda gradient: np.asarray(jnp.abs(gradient).sum(-1) > 0).astype(int)
  assert sees(text)[:, :11].tolist() == [[0] * 11, [0] * 8 + [1, 0, 0], [0] * 8 + [1, 1, 0]]
  assert (sees(codes)[:, 8:11] == 1).all() and not sees(codes)[0, :8].any()
  both = apply(model, params, ids, prefix, method="joint")
  assert both[1].shape == (1, 3, 4) and both[1].dtype == jnp.float32
  np.testing.assert_allclose(both[0], apply(model, params, ids, prefix), atol=1e-5)


def test_row_and_column_positions_are_sums():
  model = SMALL(positions="row_column", max_prefix=2)
  params = wide(model, IDS, jnp.asarray(CLASS))
  lead, rows, columns = (params["params"][f"position_table{x}"] for x in ("", "_0", "_1"))
  assert lead.shape == (2, 16) and rows.shape == (3, 16) and columns.shape == (4, 16)
  table = model.bind(params)._positions()
  np.testing.assert_allclose(table[2 + 7], rows[1] + columns[3], rtol=1e-6)
  assert table.shape == (2 + 11, 16)


def test_time_moves_the_logits():
  model = SMALL(causal=False, modulation="adaln")
  params = wide(model, IDS, time_B=jnp.zeros(3))
  at = jax.jit(lambda p, t: model.apply(p, IDS, time_B=t, train=False))
  out = [at(params, jnp.full(3, t)) for t in (0.0, 0.01, 1.0)]
  assert np.abs(out[0] - out[1]).max() > 1e-3 and np.abs(out[0] - out[2]).max() > 1e-3


def test_sizes_of_24_layers():
  """12 * layers * width^2 weights in the blocks, as every GPT; logits for the batch."""
  model = transformer.Model(
    Codes((16, 16), 16_384),
    16_384 + 1_000,
    layers=24,
    width=1024,
    heads=16,
    bias=False,
    dtype="bfloat16",
    remat="block",
  )
  ids = jnp.zeros((2, 256), jnp.int32)
  params = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, train=False))
  leaves = jax.tree_util.tree_leaves_with_path(params["params"]["blocks"])
  kernels = [x.size for path, x in leaves if path[-1].key == "kernel"]
  assert sum(kernels) == 12 * 24 * 1024**2
  out = jax.eval_shape(lambda p: model.apply(p, ids, train=False), params)
  assert out.shape == (2, 256, 16_384) and out.dtype == jnp.float32


@pytest.mark.parametrize(
  "fields, call, message",
  [
    (dict(heads=3), {}, "heads: 3 does not divide width 16"),
    (dict(heads=8, positions="rotary"), {}, "heads: rotary positions"),
    (dict(modulation="adaln"), {}, "modulation: 'adaln'"),
    (dict(modulation="adaln", causal=False), {}, "modulation: 'adaln' needs a scheme"),
    (dict(max_prefix=1), dict(prefix_BP=jnp.zeros((3, 2), int)), "max_prefix: 1 is shorter"),
    (dict(latent=Codes((3, 3), 8)), {}, "grid: "),
    (dict(prefix_rows=4, causal=False), {}, "causal: .* cannot predict its prefix"),
    (dict(attention="dalle", latent=Codes((3, 4), 8, 2)), {}, "attention: 'dalle' is for causal"),
    (dict(window=4), {}, "window: 4 is even"),
  ],
)
def test_refuses_in_one_line(fields, call, message):
  with pytest.raises(UserError, match=message) as e:
    jax.eval_shape(lambda: SMALL(**fields).init(jax.random.key(0), IDS, **call, train=False))
  assert "\n" not in str(e.value)


def test_modulation_is_broadcast_over_the_positions_of_each_example():
  rng = np.random.default_rng(0)
  x, shift, scale = (rng.normal(size=size).astype(np.float32) for size in ((6, 4), (2, 4), (2, 4)))
  spread = lambda a: np.repeat(a, 3, axis=0)
  expected = x * (1 + spread(scale)) + spread(shift)
  np.testing.assert_allclose(_block.modulate(x, shift, scale), expected, rtol=1e-6)
  np.testing.assert_allclose(
    _block.modulate(x.reshape(2, 3, 4), shift, scale), expected.reshape(2, 3, 4), rtol=1e-6
  )
  np.testing.assert_allclose(_block.gate(x, scale), x * spread(scale), rtol=1e-6)
