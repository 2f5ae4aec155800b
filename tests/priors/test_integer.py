"""The network in integers: what NumPy finds in int64, whole and stepped, in any batch and type."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.nn import integers
from vqjax.priors import integer

FIELDS = dict(layers=2, width=6, kernel=3)
LATENTS = {
  "picture": (Codes((3, 4), 10), ()),
  "sound": (Codes((5,), 10), ()),
  "video": (Codes((2, 2, 3), 10), ()),
  "books": (Codes((2, 3), 5, books=2), ()),
  "coarser": (Codes((2, 4), 10), (1, 2)),
}


def make(name, **fields):
  """(model, params that reach far into what is clipped, codes, prefix)."""
  latent, prefix_grid = LATENTS[name]
  model = integer.Model(latent, 14, prefix_grid=prefix_grid, **FIELDS | fields)
  rng = np.random.default_rng(0)
  ids = latent.flatten(rng.integers(latent.size, size=(3, *latent.grid)))
  prefix = jnp.array([[10, 13], [-1, -1], [12, 11]])
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, prefix, train=False))
  draw = lambda x: jnp.asarray(0.4 * rng.standard_normal(x.shape), x.dtype)
  return model, jax.tree.map(draw, shapes), ids, prefix


@functools.cache
def compiled(model):
  return jax.jit(lambda *a: model.apply(*a, train=False))


def whole(model, params, ids, prefix):
  return np.asarray(compiled(model)(params, ids, prefix))


def reference(model, params, ids, prefix):
  """The logits in int64, a position at a time, written from the README: units of 1/32."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
  shifted = lambda x, bits: np.rint(x / 2.0**bits).astype(np.int64)  # to even, as a shift rounds
  operand = lambda x: np.clip(shifted(x, 2), -127, 127)  # of the stream, 2^-8 to 2^-6
  relu = lambda x: np.maximum(x, 0)

  def layer(name, x, unit=8):
    kernel, bias = p[name]["kernel"], p[name]["bias"]
    exponents = np.clip(np.floor(np.log2(np.abs(kernel).max(0))).astype(int) - 6, -14, 2)
    weights = np.clip(np.rint(kernel / 2.0**exponents), -127, 127).astype(np.int64)
    total = [shifted(s, -int(e) + 6 - unit) for s, e in zip(x @ weights, exponents)]
    bias = np.clip(np.rint(bias * 2**unit), -(2**16), 2**16).astype(np.int64)
    return np.clip(total, -(2**16), 2**16) + bias

  rows = np.vstack([p["embed"]["table"], p["embed"]["null"]])
  rows, edge = (np.clip(np.rint(8 * v * 64), -127, 127).astype(int) for v in (rows, p["edge"]))
  clip = lambda x: np.clip(x, -(2**15), 2**15)
  grid, books = model.latent.grid, model.latent.books
  reach = [1] * len(model.latent.shape) + ([books - 1] if books > 1 else [])
  steps = [s for s in itertools.product(*(range(-r, r + 1) for r in reach)) if s < (0,) * len(grid)]
  out = []
  numbers, k = np.asarray(model.latent.numbered(ids)), model.latent.size
  for codes, tokens in zip(numbers.reshape(-1, *grid), np.asarray(prefix)):
    coarse = np.asarray(tokens[-2:]).reshape(model.prefix_grid or (2, 1))
    said, features = {}, [{} for _ in range(model.layers)]
    for place in np.ndindex(*grid):
      near = [tuple(np.add(place, s)) for s in steps]
      near = [n if all(0 <= i < m for i, m in zip(n, grid)) else None for n in near]
      x = np.concatenate([edge if n is None else rows[codes[n]] for n in near])
      if model.prefix_grid:
        told = [coarse[place[0] * 1 // 2, place[1] * 2 // 4]]
      else:
        told = tokens
      h = clip(layer("first", x) + 4 * sum(rows[t] for t in told))
      for i, own in enumerate(features):
        own[place] = operand(relu(layer(f"blocks_{i}_0", operand(relu(h)))))
        zero = np.zeros_like(own[place])
        x = np.concatenate([*(zero if n is None else own[n] for n in near), own[place]])
        h = clip(h + layer(f"blocks_{i}_1", x))
      every = layer("head", operand(relu(layer("out", operand(relu(h))))), 5)
      said[place] = every[(place[-1] if books > 1 else 0) * k :][:k]
    out.append(list(said.values()))
  return np.array(out) / 32


@pytest.mark.parametrize("name", LATENTS)
def test_the_logits_are_those_of_int64(name):
  model, params, ids, prefix = make(name)
  got, expected = whole(model, params, ids, prefix), reference(model, params, ids, prefix)
  assert model.resolution == 32 and len(np.unique(got)) > 50
  np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", LATENTS)
def test_steps_rows_and_types_change_nothing(name):
  model, params, ids, prefix = make(name)
  expected = whole(model, params, ids, prefix)
  np.testing.assert_array_equal(whole(model, params, ids[1:2], prefix[1:2]), expected[1:2])
  low = make(name, dtype="bfloat16")[0]
  np.testing.assert_array_equal(whole(low, params, ids, prefix), expected)
  if name == "picture":  # one operation at a time compiles hundreds, of layers that all have
    with jax.disable_jit():
      some = model.apply(params, ids[:1], prefix[:1], train=False)
    np.testing.assert_array_equal(some, expected[:1])

  def stepwise(params, ids, prefix):
    call = lambda name, *a: model.apply(params, *a, method=name)
    logits, cache = call("prefill", prefix, model.init_cache(len(ids), prefix.shape[1]))

    def step(cache, index):
      logits, cache = call("decode", ids[:, index][:, None], index, cache)
      return cache, logits

    _, more = jax.lax.scan(step, cache, jnp.arange(ids.shape[1] - 1))
    return jnp.concatenate([logits[None], more])[:, :, 0]

  got = np.moveaxis(np.asarray(jax.jit(stepwise)(params, ids, prefix)), 0, 1)
  np.testing.assert_array_equal(got, expected)


def test_wide_layers_are_summed_in_exact_parts():
  """More products than one float32 sum holds, all of them as large as can be."""
  layer = integers.Dense(2, 2.0**-8, "integer", jnp.dtype("float32"))
  width = 2 * integers.FAN_IN + 5
  x = jnp.full((1, width), 127 / 64)
  kernel = jnp.stack([jnp.full(width, 127 / 2**14), jnp.full(width, -126 / 2**14)], 1)
  out = layer.apply({"params": {"kernel": kernel, "bias": jnp.zeros(2)}}, x)
  sums = [[-(-n * 127 * w // 2**12) for n in (integers.FAN_IN,) * 2 + (5,)] for w in (127, -126)]
  assert np.abs(np.asarray(out)[0] * 256 - [sum(s) for s in sums]).max() <= 3
  assert (np.asarray(out) * 256 % 1 == 0).all()
  assert integers.FAN_IN * 127**2 < 2**24 <= (integers.FAN_IN + 1) * 127**2


def test_units_are_powers_of_two_just_below_the_largest_weight():
  largest = np.array([1.0, 0.999, 0.0078, 1e-9, 0.0, 600.0, 2.0**-7])
  found = np.asarray(integers.units(jnp.asarray([largest, -largest / 2], jnp.float32)))
  expected = 2.0 ** np.clip(np.floor(np.log2(np.maximum(largest, 1e-30))) - 6, -14, 2)
  np.testing.assert_array_equal(found, expected)


def test_gradients_pass_through_the_rounding():
  model, params, ids, prefix = make("picture")
  plain, *_ = make("picture", arithmetic="float")
  small = jax.tree.map(lambda x: x / 4, params)
  loss = lambda model: lambda p: jnp.square(model.apply(p, ids, prefix, train=False)).mean()
  ours, theirs = (jax.tree.leaves(jax.jit(jax.grad(loss(m)))(small)) for m in (model, plain))
  ours, theirs = (np.concatenate([x.ravel() for x in xs]) for xs in (ours, theirs))
  cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
  assert cosine > 0.9 and plain.resolution is None


def test_a_kernel_that_sees_nothing_is_refused():
  for kernel in (1, 4):
    with pytest.raises(UserError, match=f"kernel: {kernel} is"):
      integer.Model(Codes((3, 4), 10), 14, kernel=kernel)
