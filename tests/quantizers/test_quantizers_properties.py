"""What single quantizers promise: bijections, frequencies, schedules, gradients, recovery,
sharding, memory.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from vqjax import build
from vqjax.errors import UserError
from vqjax.nn import codebook
from vqjax.quantizers import gumbel, ibq


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def make(name, z, **fields):
  q = build.build("quantizers", dict(name=name, **fields))
  keys = {"params": jax.random.key(0), "codes": jax.random.key(1)}
  return q, jax.jit(lambda z: q.init(keys, z, train=True))(z)


@functools.cache
def compiled(q, **options):
  """Of any test: not for one that patches what is read while tracing, as the size of tiles."""
  return jax.jit(functools.partial(q.apply, **options))


def evaluate(q, variables, z):
  return compiled(q, train=False)(variables, z)


def embed(q, variables, ids):
  return compiled(q, method="embed")(variables, ids)


def embed_first(q, variables, ids, counts):
  """What the first of each position's ids stand for, as many as each of `counts`."""
  each = lambda v, ids: [q.apply(v, ids[..., :n], method="embed") for n in counts]
  return jax.jit(each)(variables, ids)


def train_call(q, variables, z, key=0, step=None):
  out, state = q.apply(
    variables, z, train=True, step=step, mutable=["stats"], rngs={"codes": jax.random.key(key)}
  )
  return out, {**variables, **state}


@pytest.mark.parametrize(
  "name,fields",
  [
    ("fsq", dict(levels=(8, 5, 5, 5))),
    ("fsq", dict(levels=(2, 3, 4))),
    ("lfq", dict(dim=10)),
    ("bsq", dict(dim=9)),
  ],
)
def test_ids_and_codes_are_a_bijection_over_the_whole_book(name, fields):
  q = build.build("quantizers", dict(name=name, **fields))
  ids = jnp.arange(q.codebook_size)
  codes = np.asarray(embed(q, {}, ids))
  assert len(np.unique(codes, axis=0)) == q.codebook_size
  # FSQ bounds its input by tanh: undo it, at the middle of each level's interval.
  z = codes
  if name == "fsq":
    levels = np.array(fields["levels"])[None]
    half, offset = (levels - 1) * 1.001 / 2, np.where(levels % 2 == 0, 0.5, 0.0)
    z = np.arctanh((codes * (levels // 2) + offset) / half) - np.arctanh(offset / half)
  out = evaluate(q, {}, jnp.asarray(z, jnp.float32))
  np.testing.assert_array_equal(out.ids, ids)
  np.testing.assert_allclose(out.z, codes, atol=1e-6)


def test_order_of_bits_and_digits():
  lfq = build.build("quantizers", dict(name="lfq", dim=3))
  np.testing.assert_array_equal(
    lfq.apply({}, jnp.array([4, 1]), method="embed"), [[1, -1, -1], [-1, -1, 1]]
  )
  fsq = build.build("quantizers", dict(name="fsq", levels=(3, 5)))
  np.testing.assert_array_equal(
    fsq.apply({}, jnp.array([0, 1, 3]), method="embed"), [[-1, -1], [0, -1], [-1, -0.5]]
  )


def test_bsq_codes_are_on_the_unit_sphere():
  out = evaluate(build.build("quantizers", dict(name="bsq", dim=18)), {}, normal(0, 50, 18))
  np.testing.assert_allclose(jnp.linalg.norm(out.z, axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("mode", ["soft", "hard", "max"])
def test_gumbel_samples_follow_the_softmax(mode):
  logits = jnp.array([0.0, 1.0, 2.0, -1.0, 0.5])
  z = jnp.broadcast_to(logits[None], (40_000, 5))
  q, variables = make("gumbel", z, codebook_size=5, dim=3, projection="none", mode=mode)
  out, _ = jax.jit(lambda v, z: train_call(q, v, z))(variables, z)
  expected = 40_000 * np.asarray(jax.nn.softmax(logits))
  chi_square = np.sum((np.bincount(np.asarray(out.ids), minlength=5) - expected) ** 2 / expected)
  assert chi_square < 18.5  # 99.9 % of draws with 4 degrees of freedom
  codes = embed(q, variables, out.ids)
  if mode == "soft":
    assert not np.allclose(out.z, codes, atol=0.1)
  else:
    np.testing.assert_allclose(out.z, codes, rtol=1e-6)
  np.testing.assert_array_equal(evaluate(q, variables, z).ids, np.full(40_000, 2))  # no noise


def test_gumbel_hard_has_the_gradient_of_the_one_hot_form():
  z, g = normal(0, 6, 5), normal(1, 6, 3)
  q, variables = make(
    "gumbel", z, codebook_size=5, dim=3, projection="none", mode="hard", temperature=0.5
  )
  key = q.apply({}, rngs={"codes": jax.random.key(0)}, method=lambda m: m.make_rng("codes"))
  noise = jax.random.gumbel(jax.random.fold_in(key, 0), z.shape)

  def by_hand(codes, z):
    p = jax.nn.softmax((z + noise) / 0.5)
    return jnp.sum(
      (jax.nn.one_hot(jnp.argmax(z + noise, -1), 5) + p - jax.lax.stop_gradient(p)) @ codes * g
    )

  def ours(codes, z):
    return jnp.sum(train_call(q, {"params": {"codebook": codes}}, z)[0].z * g)

  codes = variables["params"]["codebook"]
  actual, desired = (jax.jit(jax.grad(f, (0, 1)))(codes, z) for f in (ours, by_hand))
  np.testing.assert_allclose(actual[1], desired[1], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    actual[0], jax.nn.one_hot(jnp.argmax(z + noise, -1), 5).T @ g, rtol=1e-4, atol=1e-5
  )


def test_gumbel_in_tiles_is_the_whole(monkeypatch):
  """Ids, mixtures, KL and all gradients, each tile's noise made once and made again."""
  monkeypatch.setattr(codebook, "TILE_ELEMENTS", 4 * 8 * 24 // 3 // jax.device_count())
  z, g = normal(0, 24, 5), normal(1, 24, 3)
  q, variables = make("gumbel", z, codebook_size=8, dim=5, mode="soft", kl_weight=0.3)
  key = q.apply({}, rngs={"codes": jax.random.key(0)}, method=lambda m: m.make_rng("codes"))
  noise = [jax.random.gumbel(jax.random.fold_in(key, i), (8, 8)) for i in range(3)]
  noise = jnp.stack(noise, 1).reshape(24, 8)  # position 3 t + i is in tile i

  def by_hand(params, z):
    logits = z @ params["proj"]["kernel"] + params["proj"]["bias"][None]
    log_p = jax.nn.log_softmax(logits)
    kl = jnp.sum(jnp.exp(log_p) * (log_p + jnp.log(8)), -1).mean()
    mixed = jax.nn.softmax(logits + noise) @ params["codebook"]
    return jnp.sum(mixed[:, :3] * g) + 0.3 * kl, jnp.argmax(logits + noise, -1)

  def ours(params, z):
    out, _ = train_call(q, {"params": params}, z)
    return jnp.sum(out.z[:, :3] * g) + out.loss, out.ids

  of = lambda f: jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(variables["params"], z)
  for mine, true in zip(*(jax.tree.leaves(of(f)) for f in (ours, by_hand))):
    np.testing.assert_allclose(mine, true, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("projection, most", [("linear", 0), ("none", 1)])
def test_gumbel_keeps_no_array_over_positions_and_codes(monkeypatch, projection, most):
  """For the backward pass, but for an input that is one."""
  monkeypatch.setattr(codebook, "TILE_ELEMENTS", 4 * 64 * 4)
  z = jax.ShapeDtypeStruct((16, 8, 4 if projection == "linear" else 64), "float32")
  q = build.build(
    "quantizers", dict(name="gumbel", codebook_size=64, dim=4, projection=projection, mode="soft")
  )
  key = {"codes": jax.random.key(0)}
  params = jax.eval_shape(lambda z: q.init(key | {"params": key["codes"]}, z, train=True), z)

  def kept(params, z):
    out = lambda params, z: (lambda o: (o.z, o.loss))(q.apply(params, z, train=True, rngs=key))
    return jax.vjp(out, params, z)[1]

  shapes = [x.shape for x in jax.tree.leaves(jax.eval_shape(kept, params, z))]
  assert len([s for s in shapes if math.prod(s) >= 16 * 8 * 64]) == most, shapes


def test_categorical_kl_is_the_sum_over_codes():
  z = 3.0 * normal(0, 4, 7)
  q, variables = make("gumbel", z, codebook_size=7, dim=2, projection="none", kl_weight=0.5)
  out = evaluate(q, variables, z)
  p = np.asarray(jax.nn.softmax(z), np.float64)
  np.testing.assert_allclose(
    out.loss, 0.5 * np.mean([sum(pk * np.log(pk * 7) for pk in row) for row in p]), rtol=1e-5
  )


def test_gaussian_kl_and_samples():
  z = jnp.concatenate([jnp.full((20_000, 1), 0.7), jnp.full((20_000, 1), -1.0)], -1)
  q, variables = make("gaussian", z, dim=1, kl_weight=2.0)
  out, _ = train_call(q, variables, z)
  # KL(N(m, s²) || N(0, 1)) by numerical integration.
  x = np.linspace(-12, 12, 20_001)
  density = lambda m, s: np.exp(-0.5 * ((x - m) / s) ** 2) / (s * np.sqrt(2 * np.pi))
  p, r = density(0.7, np.exp(-0.5)), density(0.0, 1.0)
  np.testing.assert_allclose(out.loss, 2.0 * np.sum(p * np.log(p / r)) * (x[1] - x[0]), rtol=1e-4)
  np.testing.assert_allclose([out.z.mean(), out.z.std()], [0.7, np.exp(-0.5)], atol=0.02)
  np.testing.assert_array_equal(evaluate(q, variables, z).z, z[:, :1])


def test_schedules():
  value = lambda shape, step: float(gumbel.schedule((1.0, 1 / 16, 100, shape), step))
  for shape in ("linear", "cosine", "exponential"):
    assert value(shape, 0) == 1.0
    np.testing.assert_allclose(
      [value(shape, 100), value(shape, 10**6), value(shape, None)], 1 / 16, rtol=1e-5
    )
  np.testing.assert_allclose(
    [value("linear", 50), value("cosine", 50), value("exponential", 50)],
    [17 / 32, 17 / 32, 0.25],
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    value("cosine", 25), 1 / 16 + 15 / 16 * np.cos(np.pi / 8) ** 2, rtol=1e-5
  )
  assert gumbel.schedule(0.3, 5) == jnp.float32(0.3)


def test_ibq_loss_is_the_published_one():
  """IndexPropagationQuantize of TencentARC/SEED-Voken: value, gradients of latents and codes."""
  z, codes = normal(0, 37, 4), normal(1, 9, 4)
  q, _ = make("ibq", z, codebook_size=9, dim=4, entropy_weight=0.0)
  sg = jax.lax.stop_gradient

  def published(z, codes):
    p = jax.nn.softmax(z @ codes.T)
    hard = jax.nn.one_hot(jnp.argmax(p, -1), 9)
    once, twice = (hard + p - sg(p)) @ codes, hard @ codes
    return (
      jnp.mean((once - z) ** 2)
      + jnp.mean((sg(twice) - z) ** 2)
      + 0.25 * jnp.mean((twice - sg(z)) ** 2)
    )

  def ours(z, codes):
    zero = {"offset": jnp.zeros((9, 4)), "used": jnp.ones(9), "initialised": jnp.array(True)}
    return q.apply({"params": {"codebook": codes}, "stats": zero}, z, train=False).loss

  a, b = (jax.jit(jax.value_and_grad(f, (0, 1)))(z, codes) for f in (ours, published))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


def test_ibq_starts_as_published():
  _, variables = make("ibq", normal(0, 4, 64), codebook_size=512, dim=64)
  np.testing.assert_allclose(variables["params"]["codebook"].std(), 1.0, rtol=0.02)


def test_bsq_penalty_does_not_saturate_on_the_sphere():
  """At the published temperature bits are soft; the penalty carries the temperature as a factor."""
  z = normal(0, 512, 18)
  out = evaluate(build.build("quantizers", dict(name="bsq", dim=18)), {}, z)
  assert out.metrics["position_entropy"] > 0.9 * 18 * np.log(2)
  q = build.build(
    "quantizers",
    dict(name="bsq", dim=18, temperature=0.2, commitment_weight=0.0, entropy_weight=1.0),
  )
  out = evaluate(q, {}, z)
  penalty = out.metrics["position_entropy"] - out.metrics["batch_entropy"]
  np.testing.assert_allclose(out.loss, 0.2 * penalty, rtol=1e-5)


def test_index_backprop_is_the_published_algorithm(monkeypatch):
  monkeypatch.setattr(ibq.codebook, "TILE_ELEMENTS", 64)
  z, codes, g = normal(0, 37, 4), normal(1, 9, 4), normal(2, 37, 4)
  ids = jnp.argmax(z @ codes.T, -1)

  def published(z, codes):
    p = jax.nn.softmax(z @ codes.T)
    return jnp.sum((jax.nn.one_hot(ids, 9) + p - jax.lax.stop_gradient(p)) @ codes * g)

  ours = lambda z, codes: jnp.sum(ibq.index_backprop(z, codes, ids) * g)
  for a, b in zip(*(jax.jit(jax.grad(f, (0, 1)))(z, codes) for f in (ours, published))):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name,init", [("vq", "kmeans"), ("ema", "kmeans"), ("simvq", "data")])
def test_first_training_call_places_the_codes_and_uses_them(name, init):
  z = 5.0 + normal(0, 256, 4)
  q, variables = make(name, z, codebook_size=32, dim=4, codebook_init=init)
  assert not variables["stats"]["initialised"]
  train = jax.jit(lambda v, z: train_call(q, v, z))
  first, after = train(variables, z)
  assert after["stats"]["initialised"] and first.metrics["usage"] > 0.9
  assert np.mean((first.z - z) ** 2) < 0.6 * np.var(z)
  imported = {**variables, "stats": {**variables["stats"], "initialised": jnp.array(True)}}
  np.testing.assert_array_equal(evaluate(q, imported, z).ids, train(imported, z)[0].ids)
  codes = embed(q, imported, jnp.arange(32))
  assert np.abs(codes).max() < 3.0 and embed(q, after, jnp.arange(32)).min() > 0.5
  np.testing.assert_allclose(embed(q, variables, jnp.arange(32)), codes)


def usage_after_collapse(name, **fields):
  """Usage at the end of 500 steps of equal latents, and of 500 diverse ones after them."""
  same = jnp.broadcast_to(normal(9, 1, 4), (256, 4))
  q, variables = make(name, same, codebook_size=64, dim=4, **fields)
  variables = {"params": {}, **variables}

  def step(variables, batch_and_key):
    batch, key = batch_and_key

    def loss(params):
      out, new = train_call(q, {**variables, "params": params}, batch, key)
      return out.loss, (new, out.metrics["usage"])

    grads, (new, usage) = jax.grad(loss, has_aux=True)(variables["params"])
    return {
      **new,
      "params": jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads),
    }, usage

  train = jax.jit(
    lambda variables, batches: jax.lax.scan(step, variables, (batches, jnp.arange(500)))
  )
  collapsed, before = train(variables, jnp.broadcast_to(same[None], (500, 256, 4)))
  _, after = train(collapsed, 2.0 + normal(3, 500, 256, 4))
  return before[-1], after[-1]


@pytest.mark.parametrize(
  "name,fields", [("vq", {}), ("ema", {}), ("simvq", {}), ("vq", dict(normalize="l2"))]
)
def test_usage_recovers_from_a_forced_collapse(name, fields):
  collapsed, recovered = usage_after_collapse(name, **fields)
  assert collapsed < 0.1 and recovered > 0.8


def test_without_revival_a_collapse_stays():
  collapsed, later = usage_after_collapse("vq", revive=0.0)
  assert collapsed < 0.1 and later < 0.5


def test_residual_passes_the_gradient_once_and_improves_with_depth():
  z = normal(0, 512, 4)
  q, variables = make(
    "residual", z, quantizer=dict(name="vq", codebook_size=32, dim=4, codebook_init="data"), depth=4
  )
  _, variables = jax.jit(lambda v: train_call(q, v, z))(variables)
  g = normal(1, 512, 4)
  pulled = jax.jit(lambda g: jax.vjp(lambda z: evaluate(q, variables, z).z, z)[1](g)[0])(g)
  np.testing.assert_allclose(pulled, g, rtol=1e-5, atol=1e-6)
  ids = evaluate(q, variables, z).ids
  found = embed_first(q, variables, ids, range(1, 5))
  errors = [float(np.mean((z - codes) ** 2)) for codes in found]
  assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize(
  "inner",
  [
    dict(name="fsq", levels=(5, 5, 5)),
    dict(name="vq", codebook_size=8, dim=3, estimator="rotation"),
    dict(name="vq", codebook_size=8, dim=3, normalize="l2"),
    dict(name="lfq", dim=3),
    dict(name="bsq", dim=3),
  ],
)
def test_residual_passes_the_gradient_once(inner):
  """By the first level's estimator: as many levels as one wants, the gradient is that of one."""
  z, g, shared = normal(0, 16, 3), normal(1, 16, 3), dict(codebooks="shared")
  q, variables = make("residual", z, quantizer=inner, depth=3, **shared)
  one = build.build("quantizers", dict(name="residual", quantizer=inner, depth=1) | shared)
  keys = {"params": jax.random.key(0), "codes": jax.random.key(1)}
  own = jax.eval_shape(lambda z: one.init(keys, z, train=True), z)
  pull = lambda q, variables: jax.jit(
    lambda g: jax.vjp(lambda z: evaluate(q, variables, z).z, z)[1](g)[0]
  )(g)
  assert jax.tree.structure(own) == jax.tree.structure(variables)
  np.testing.assert_allclose(pull(q, variables), pull(one, variables), rtol=1e-5, atol=1e-6)


FIXED = [dict(name="fsq", levels=(8, 5, 3, 2)), dict(name="lfq", dim=4), dict(name="bsq", dim=4)]


@pytest.mark.parametrize(
  "inner", [*FIXED, dict(name="grouped", quantizer=dict(name="fsq", levels=(4, 5)))]
)
def test_residual_over_fixed_codes_refines(inner):
  """Every level divides the error; the first is what the quantizer does alone."""
  z = normal(0, 2048, 4)
  q = build.build("quantizers", dict(name="residual", quantizer=inner, depth=4))
  target = q.apply({}, z, method=lambda m, z: m.quantizer.bounded(z))
  ids = evaluate(q, {}, z).ids
  coarse = jnp.split(ids, 4, axis=-1)[0].squeeze(-1) if inner["name"] != "grouped" else ids[..., :2]
  alone = evaluate(build.build("quantizers", inner), {}, z)
  np.testing.assert_array_equal(coarse, alone.ids)
  each = ids.shape[-1] // 4
  found = embed_first(q, {}, ids, range(each, 4 * each + 1, each))
  errors = [float(np.mean((target - codes) ** 2)) for codes in found]
  assert all(b < 0.8 * a for a, b in zip(errors, errors[1:])) and errors[3] < 0.2 * errors[0], (
    errors
  )


def test_residual_cuts_every_cell_of_fsq_evenly():
  """Levels 3 x 3 of one channel make the nine equal steps; 2 x 2 x 2 make eight."""
  for levels, depth, step in [((3,), 2, 1 / 3), ((2,), 3, 1 / 4)]:
    q = build.build(
      "quantizers", dict(name="residual", quantizer=dict(name="fsq", levels=levels), depth=depth)
    )
    ids = jnp.stack(jnp.meshgrid(*[jnp.arange(levels[0])] * depth), -1).reshape(-1, depth)
    codes = np.sort(np.asarray(embed(q, {}, ids))[:, 0])
    np.testing.assert_allclose(np.diff(codes), step, rtol=1e-5)


@pytest.mark.parametrize("name", ["gumbel", "ibq", "residual"])
def test_residual_refuses_what_cannot_be_a_level(name):
  inner = dict(name=name) | (dict(quantizer=dict(name="vq")) if name == "residual" else {})
  with pytest.raises(UserError, match=f"quantizer: '{name}' cannot be a level"):
    build.build("quantizers", dict(name="residual", quantizer=inner))


def test_residual_dropout_gives_every_example_a_prefix_of_the_levels():
  z = normal(0, 48, 5, 3)
  inner = dict(name="vq", codebook_size=8, dim=3, codebook_init="normal", revive=0.0)
  q, variables = make("residual", z, quantizer=inner, depth=3, dropout=1.0)
  ids = evaluate(q, variables, z).ids
  prefixes = map(np.asarray, embed_first(q, variables, ids, (1, 2, 3)))
  out = np.asarray(jax.jit(lambda v, z: train_call(q, v, z))(variables, z)[0].z)
  fits = np.array([np.isclose(out, p, atol=1e-5).all(axis=(1, 2)) for p in prefixes])
  assert fits.any(0).all() and fits.any(1).all()


@pytest.mark.parametrize("outer", ["residual", "grouped"])
def test_a_shared_codebook_learns_once_from_all_of_its_positions(outer):
  z = np.asarray(normal(0, 40, 6 if outer == "grouped" else 3))
  inner = dict(name="ema", codebook_size=8, dim=3, codebook_init="normal", decay=0.9)
  depth = dict(depth=2) if outer == "residual" else dict(groups=2)
  q, variables = make(outer, z, quantizer=inner | dict(revive=0.0), codebooks="shared", **depth)
  codes = np.asarray(variables["stats"]["quantizer"]["codebook"])
  out, after = jax.jit(lambda v, z: train_call(q, v, z))(variables, z)
  find = lambda x: ((x[:, None] - codes[None]) ** 2).sum(-1).argmin(-1)
  shown = [z[:, :3], z[:, :3] - codes[find(z[:, :3])] if outer == "residual" else z[:, 3:]]
  ids = [find(x) for x in shown]
  np.testing.assert_array_equal(out.ids, np.stack(ids, -1))
  ids, shown = np.concatenate(ids), np.concatenate(shown)
  counts = 0.9 + 0.1 * np.bincount(ids, minlength=8)
  sums = 0.9 * codes
  np.add.at(sums, ids, 0.1 * shown)
  stats = after["stats"]["quantizer"]
  np.testing.assert_allclose(stats["counts"], counts, rtol=1e-5)
  np.testing.assert_allclose(stats["codebook"], sums / counts[:, None], rtol=1e-3, atol=1e-5)
  p = np.bincount(ids, minlength=8) / len(ids)
  entropy = -sum(x * np.log(x) for x in p if x)
  np.testing.assert_allclose(out.metrics["perplexity"], np.exp(entropy), rtol=1e-4)
  np.testing.assert_allclose(out.metrics["usage"], np.mean(p > 0), rtol=1e-5)


@pytest.mark.parametrize("name", ["vq", "ema"])
def test_a_code_is_revived_where_no_level_uses_it(name):
  """A code that the second level alone uses is not dead."""
  z = jnp.concatenate([jnp.full((32, 2), 5.5), jnp.full((32, 2), 5.0)])
  inner = dict(name=name, codebook_size=4, dim=2, codebook_init="normal", revive=0.98)
  q, variables = make("residual", z, quantizer=inner, depth=2, codebooks="shared")
  codes = jnp.array([[5.0, 5.0], [0.0, 0.0], [0.5, 0.5], [99.0, 99.0]])
  stats = dict(variables["stats"]["quantizer"])
  stats |= {"used": jnp.full(4, 0.25)} if name == "vq" else {"counts": jnp.full(4, 10.0)}
  stats |= {} if name == "vq" else {"codebook": codes, "sums": 10.0 * codes}
  params = {"quantizer": {"codebook": codes}} if name == "vq" else {}
  train = jax.jit(lambda v, z: train_call(q, v, z))
  _, after = train({"params": params, "stats": {"quantizer": stats}}, z)
  moved = jnp.abs(embed(q, after, jnp.arange(4)[:, None]) - codes).sum(-1)
  assert (moved[:3] < 0.1).all() and moved[3] > 10


def test_a_revived_average_stays_where_it_was_put():
  z = normal(0, 64, 2) * 0.1
  q, variables = make("ema", z, codebook_size=4, dim=2, codebook_init="normal", decay=0.9)
  far = variables["stats"]["codebook"].at[3].set(100.0)
  counts = jnp.array([16.0, 16.0, 16.0, 0.0])
  stats = variables["stats"] | {"codebook": far, "sums": far * counts[:, None], "counts": counts}
  train = jax.jit(lambda v, z, key: train_call(q, v, z, key))
  _, after = train({"stats": stats}, z, 0)
  revived = after["stats"]["codebook"][3]
  assert jnp.any(jnp.all(z == revived[None], axis=-1))
  elsewhere = jnp.full((64, 2), -50.0)  # no latent comes near: only the decay moves its averages
  _, later = train(after, elsewhere, 1)
  np.testing.assert_allclose(later["stats"]["codebook"][3], revived, rtol=1e-4)


def test_grouped_quantizes_every_group_by_its_own_book():
  z = normal(0, 10, 6)
  inner = dict(codebook_size=8, dim=3, codebook_init="normal")
  q, variables = make("grouped", z, quantizer=dict(name="vq", **inner), groups=2)
  out = evaluate(q, variables, z)
  single = build.build("quantizers", dict(name="vq", **inner))
  for i, part in enumerate(("parts_0", "parts_1")):
    own = {collection: tree[part] for collection, tree in variables.items()}
    expected = evaluate(single, own, z[:, 3 * i : 3 * i + 3])
    np.testing.assert_array_equal(out.ids[..., i], expected.ids)
    np.testing.assert_allclose(out.z[:, 3 * i : 3 * i + 3], expected.z)
  shared, variables = make("grouped", z, quantizer=dict(name="vq", **inner), codebooks="shared")
  assert len(jax.tree.leaves(variables["params"])) == 1


@pytest.mark.parametrize(
  "name,fields",
  [
    ("vq", dict(codebook_size=32, dim=8)),
    ("ema", dict(codebook_size=32, dim=8, codebook_init="data")),
    ("ibq", dict(codebook_size=32, dim=8)),
  ],
)
def test_sharded_batch_computes_what_one_device_computes(name, fields, monkeypatch):
  monkeypatch.setattr(ibq.codebook, "TILE_ELEMENTS", 32 * 16)
  z = normal(0, 16, 4, 4, 8)
  q, variables = make(name, z, **fields)
  mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
  place = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
  step = jax.jit(lambda v, z: train_call(q, v, z))
  one, state_one = step(variables, z)
  many, state_many = step(place(variables, P()), place(z, P("data")))
  np.testing.assert_array_equal(one.ids, many.ids)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  jax.tree.map(
    close, (one.z, one.loss, one.metrics, state_one), (many.z, many.loss, many.metrics, state_many)
  )
  book = place(variables, P())
  if name in ("vq", "ibq"):
    book["params"] = {"codebook": place(variables["params"]["codebook"], P("data"))}
    split, state_split = step(book, place(z, P()))
    np.testing.assert_array_equal(one.ids, split.ids)
    jax.tree.map(close, (one.loss, state_one), (split.loss, state_split))


def memory(name, positions, **fields):
  """Bytes of temporaries of one gradient step."""
  q = build.build("quantizers", dict(name=name, **fields))
  z = jax.ShapeDtypeStruct((positions // 1024, 32, 32, q.input_width), jnp.float32)
  keys = {"params": jax.random.key(0), "codes": jax.random.key(1)}
  variables = jax.eval_shape(lambda z: q.init(keys, z, train=True), z)

  def objective(params, z, variables):
    out, variables = train_call(q, {**variables, "params": params}, z)
    return out.loss + jnp.sum(out.z**2), variables

  step = jax.jit(jax.grad(objective, (0, 1), has_aux=True))
  return (
    step.lower(variables.get("params", {}), z, variables)
    .compile()
    .memory_analysis()
    .temp_size_in_bytes
  )


def test_large_books_never_meet_all_positions():
  positions = 65_536
  lfq = memory("lfq", positions, dim=18)
  assert lfq < 4 * positions * 262_144 / 100
  vq = memory("vq", positions, codebook_size=16_384, dim=256)
  assert vq < 4 * positions * 16_384 / 4
  ibq_bytes = memory("ibq", positions, codebook_size=16_384, dim=32)
  assert ibq_bytes < 4 * positions * 16_384 / 4


@pytest.mark.parametrize("name", ["identity", "gaussian"])
def test_noise_before_the_decoder_in_training_alone(name):
  """Its deviation is uniform in 0 to `noise`, one for each example."""
  q = build.build("quantizers", dict(name=name, dim=3, noise=2.0))
  # A posterior of no width to speak of: what varies is the noise.
  z = jnp.concatenate([jnp.ones((400, 8, 8, 3)), jnp.full((400, 8, 8, 3), -30.0)], -1)
  z = z[..., : q.input_width]
  rngs = {"codes": jax.random.key(0)}
  train = np.asarray(q.apply({}, z, train=True, rngs=rngs).z) - 1
  each = train.reshape(400, -1).std(1)
  assert each.max() < 2.4 and each.min() < 0.05
  np.testing.assert_allclose(np.quantile(each, [0.25, 0.5, 0.75]), [0.5, 1, 1.5], atol=0.15)
  np.testing.assert_array_equal(q.apply({}, z, train=False).z, np.ones((400, 8, 8, 3)))
  with pytest.raises(UserError, match="noise: -1 is out of range"):
    build.build("quantizers", dict(name=name, noise=-1))


def test_a_posterior_is_its_mean_or_a_draw():
  q = build.build("quantizers", dict(name="gaussian", dim=1))
  z = jnp.broadcast_to(jnp.array([2.0, 2 * np.log(3.0)]), (50_000, 1, 2))
  mean = q.apply({}, z, draw=False, method="posterior")
  np.testing.assert_array_equal(mean, np.full((50_000, 1, 1), 2.0, np.float32))
  drawn = q.apply({}, z, draw=True, method="posterior", rngs={"codes": jax.random.key(0)})
  assert float(drawn.mean()) == pytest.approx(2, abs=0.05)
  assert float(drawn.std()) == pytest.approx(3, rel=0.02)
