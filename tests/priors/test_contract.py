"""Every prior network: what each position sees, by gradient; shapes, types, holes, order of the
batch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from vqjax import build
from vqjax.errors import UserError
from vqjax.latents import Codes

GRID, LENGTH, CODES, VOCAB = (
  (2, 3),
  6,
  6,
  14,
)  # As many codes as places: distinct codes tell the places apart.
COMMON = dict(latent=Codes(GRID, CODES), rows=VOCAB)
SMALL = dict(width=16, heads=2, layers=2, max_prefix=2)
LLAMA = dict(positions="rotary", norm="rmsnorm", mlp="swiglu", bias=False, hidden=24)
VARIANTS = {
  "integer": {  # in integers: test_integer.py
    "float": dict(width=96, layers=1, kernel=5, arithmetic="float"),
    "coarser": dict(width=96, layers=1, kernel=5, arithmetic="float", prefix_grid=(1, 1)),
  },
  "transformer": {
    "mingpt": SMALL,
    "llama": SMALL | LLAMA | dict(qk_norm="rmsnorm"),
    "bidirectional": SMALL | dict(causal=False),
    "timed": SMALL | LLAMA | dict(causal=False, modulation="adaln", remat="block"),
  },
  "dit": {
    "sine": dict(width=16, heads=2, layers=2, patch=1, modulation="none"),
    "tokens": SMALL | dict(patch=(1, 3), condition="both", mlp="swiglu", hidden=24),
    "rotary": SMALL
    | dict(patch=(2, 1), condition="tokens", positions="rotary", qk_norm="rmsnorm", remat="block"),
  },
  "pixelcnn": {
    "plain": dict(width=8, layers=3, kernel=3),
    "coarser": dict(width=8, layers=3, kernel=3, prefix_grid=(1, 1)),
  },
  "pixelsnail": {
    "plain": dict(width=8, heads=2, blocks=1, residuals=1, kernel=3),
    "convolutions": dict(
      width=8, blocks=1, residuals=2, kernel=5, attention="none", prefix_grid=(1, 1)
    ),
  },
}
CASES = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]
IDS = jnp.array([[3, 0, 5, 1, 4, 2], [2, 2, 0, 1, 5, 5]])
PREFIX = jnp.array([[7, 9], [-1, 8]])
TIME = jnp.array([0.25, 0.75])


def test_every_network_has_a_variant():
  assert VARIANTS.keys() == set(build.names("priors"))


def make(name, variant, **fields):
  """(model, params drawn wide, so that nothing is zero by initialisation)."""
  model = build.build("priors", dict(name=name) | VARIANTS[name][variant] | fields, **COMMON)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), IDS, PREFIX, time_B=TIME, train=False)
  )
  return model, weights.drawn(shapes, std=0.3)


@functools.cache
def compiled(model):
  return jax.jit(lambda p, i, c, t: model.apply(p, i, c, time_B=t, train=False))


def logits(model, params, ids=IDS, prefix=PREFIX, time=TIME):
  return compiled(model)(params, ids, prefix, time)


@pytest.mark.parametrize("name, variant", CASES)
def test_what_each_position_sees(name, variant):
  """d logits[i] / d embedding of token j, zero exactly where i may not see j.

  Every token stands for one place.
  """
  model, params = make(name, variant)
  ids, prefix = IDS[:1], PREFIX[:1]

  def per_position(table, params):
    inner = params["params"] | {"embed": params["params"]["embed"] | {"table": table}}
    out = model.apply({"params": inner}, ids, prefix, time_B=TIME[:1], train=False)[0]
    return out @ jnp.linspace(-1.0, 2.0, CODES)

  # Rectifiers and clipped integers of one draw may let nothing of a token through.
  gradient, sees = jax.jit(jax.jacrev(per_position)), 0
  for seed in range(3):
    params = weights.drawn(params, seed, std=0.3)
    found = gradient(params["params"]["embed"]["table"], params)
    sees = np.maximum(sees, np.asarray(jnp.abs(found).sum(-1) > 0).astype(int))
  causal = [[0, 0, 0, 0, 0, 0],
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 1, 0]]  # yapf: disable
  assert sees[:, np.asarray(ids[0])].tolist() == (causal if model.causal else [[1] * 6] * 6)
  assert sees[:, np.asarray(prefix[0])].tolist() == [[1, 1]] * 6


@pytest.mark.parametrize("name, variant", CASES)
def test_shapes_and_order(name, variant):
  model, params = make(name, variant)
  out = logits(model, params)
  assert out.shape == (2, LENGTH, CODES) and out.dtype == jnp.float32
  swapped = logits(model, params, IDS[::-1], PREFIX[::-1], TIME[::-1])
  np.testing.assert_allclose(swapped, out[::-1], atol=1e-5)


@pytest.mark.parametrize("name, variant", CASES)
def test_bfloat16_gives_float32_logits(name, variant):
  model, params = make(name, variant)
  low, _ = make(name, variant, dtype="bfloat16")
  out = logits(low, params)
  assert out.dtype == jnp.float32
  assert (out == out.astype(jnp.bfloat16)).mean() < 0.2  # not rounded on the way
  np.testing.assert_allclose(out, logits(model, params), atol=0.15 * np.abs(out).max() + 0.05)


@pytest.mark.parametrize("name, variant", CASES)
def test_a_hole_reads_the_null_vector(name, variant):
  model, params = make(name, variant)
  embed = params["params"]["embed"]
  params["params"]["embed"] = embed | {"table": embed["table"].at[13].set(embed["null"])}
  holes, token = (logits(model, params, prefix=jnp.array([[x, 7]] * 2)) for x in (-1, 13))
  np.testing.assert_array_equal(holes, token)
  assert np.abs(holes - logits(model, params, prefix=jnp.array([[8, 7]] * 2))).max() > 1e-3


@pytest.mark.parametrize(
  "name, variant", [c for c in CASES if "prefix_grid" not in VARIANTS[c[0]][c[1]]]
)
def test_the_empty_prefix(name, variant):
  """None and a prefix of no tokens agree, with the same parameters."""
  model, params = make(name, variant)
  prefixes = (None, jnp.zeros((2, 0), jnp.int32))
  both = lambda p: [model.apply(p, IDS, c, time_B=TIME, train=False) for c in prefixes]
  out, empty = jax.jit(both)(params)
  np.testing.assert_array_equal(out, empty)
  assert np.isfinite(out).all() and np.abs(out - logits(model, params)).max() > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_dropout_only_in_training(name):
  model, params = make(name, next(iter(VARIANTS[name])), dropout=0.5)
  train = jax.jit(
    lambda seed: model.apply(
      params, IDS, PREFIX, time_B=TIME, train=True, rngs={"dropout": jax.random.key(seed)}
    )
  )
  assert np.abs(train(0) - train(1)).max() > 1e-3
  plain, _ = make(name, next(iter(VARIANTS[name])))
  np.testing.assert_allclose(logits(model, params), logits(plain, params), atol=1e-6)


SIZES = dict(layers=0, width=0, heads=3, hidden=0, kernel=-1, blocks=0, residuals=0)
SIZES |= dict(prefix_layers=-1, dropout=1.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_out_of_range_are_one_line_before_anything_is_traced(name):
  fields = dict(name=name) | next(iter(VARIANTS[name].values()))
  bad = {k: v for k, v in SIZES.items() if k in build.member("priors", name).__dataclass_fields__}
  assert len(bad) > 3
  for field, value in [*bad.items(), ("dropout", -0.1)]:
    with pytest.raises(UserError, match=rf"\({name}\): {field}: {value} ") as e:
      build.build("priors", fields | {field: value}, **COMMON)
    assert "\n" not in str(e.value)
