"""Every quantizer keeps the family's contract: the test walks the folder, so a new file is tested
at once.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import build
from vqjax.errors import UserError

# What a quantizer needs beyond its defaults to be small.
SMALL = {
  "identity": dict(dim=6),
  "gaussian": dict(dim=6),
  "vq": dict(codebook_size=16, dim=6, entropy_weight=0.1),
  "ema": dict(codebook_size=16, dim=6),
  "gumbel": dict(codebook_size=16, dim=6),
  "fsq": dict(levels=(4, 3, 5)),
  "lfq": dict(dim=5, temperature=1.0),
  "bsq": dict(dim=5, temperature=1.0),
  "simvq": dict(codebook_size=16, dim=6),
  "ibq": dict(codebook_size=16, dim=6, normalize="l2", codebook_init="data"),
  "projected": dict(
    quantizer=dict(name="vq", codebook_size=16, dim=4, normalize="search", codebook_init="data"),
    outer=6,
    norm="weight",
  ),
  "residual": dict(
    quantizer=dict(name="vq", codebook_size=16, dim=6, codebook_init="data"), depth=2
  ),
  "grouped": dict(
    quantizer=dict(name="vq", codebook_size=16, dim=3, codebook_init="normal"), groups=2
  ),
}
CASES = [(n, SMALL.get(n, {})) for n in build.names("quantizers")] + [
  ("vq", dict(codebook_size=16, dim=6, normalize="l2", estimator="rotation", codebook_init="data")),
  (
    "ema",
    dict(codebook_size=16, dim=6, normalize="l2", estimator="rotation", codebook_init="normal"),
  ),
  ("gumbel", dict(codebook_size=16, dim=6, projection="none", mode="soft")),
  ("gumbel", dict(codebook_size=16, dim=6, mode="max", temperature=(1.0, 0.1, 10, "cosine"))),
  (
    "residual",
    dict(
      quantizer=dict(name="ema", codebook_size=16, dim=6, codebook_init="data"),
      depth=2,
      codebooks="shared",
      dropout=1.0,
    ),
  ),
  (
    "residual",
    dict(quantizer=dict(name="grouped", quantizer=dict(name="fsq", levels=(3, 3))), depth=2),
  ),
  (
    "grouped",
    dict(
      quantizer=dict(name="gumbel", codebook_size=8, dim=2, projection="none"), codebooks="shared"
    ),
  ),
]


def make(name, fields, grid=(3, 4), dtype=jnp.float32):
  q = build.build("quantizers", dict(name=name, **fields))
  z = jax.random.normal(jax.random.key(0), (4, *grid, q.input_width), dtype)
  variables = jax.jit(
    lambda z: q.init({"params": jax.random.key(1), "codes": jax.random.key(2)}, z, train=True)
  )(z)
  return q, z, variables


def call(q, variables, z, train, step=None):
  out, state = q.apply(
    variables,
    z,
    train=train,
    step=step,
    rngs={"codes": jax.random.key(3)} if train else {},
    mutable=["stats"] if train else [],
  )
  return out, {**variables, **state}


@pytest.mark.parametrize("name,fields", CASES)
def test_contract_and_gradients(name, fields):
  q, z, variables = make(name, fields)

  def objective(params, z, variables):
    out, variables = call(q, {**variables, "params": params}, z, True, jnp.int32(1))
    return out.loss + jnp.sum(
      out.z * jnp.sin(jnp.arange(out.z.size, dtype=jnp.float32)).reshape(out.z.shape)
    ), (out, variables)

  train = jax.jit(jax.grad(objective, (0, 1), has_aux=True))
  grads, (out, variables) = train(variables.get("params", {}), z, variables)
  _, (again, variables) = train(variables.get("params", {}), z, variables)
  assert all(np.isfinite(g).all() and np.any(g) for g in jax.tree.leaves(grads))

  @jax.jit
  def evaluated(variables, z):
    out, _ = call(q, variables, z, False)
    return out, q.apply(variables, out.ids, method="embed") if q.codebook_size else None

  final, codes = evaluated(variables, z)
  for o in (out, again, final):
    assert o.z.shape == (4, 3, 4, q.width) and o.z.dtype == z.dtype
    assert o.loss.shape == () and o.loss.dtype == jnp.float32 and np.isfinite(o.loss)
    assert all(
      m.shape == () and m.dtype == jnp.float32 and np.isfinite(m) for m in o.metrics.values()
    )
  if not q.codebook_size:
    assert q.num_codebooks == 0 and final.ids is None
    with pytest.raises(UserError, match="no codes"):
      q.apply(variables, None, method="embed")
    return
  grid = (4, 3, 4) if q.num_codebooks == 1 else (4, 3, 4, q.num_codebooks)
  assert final.ids.shape == grid and final.ids.dtype == jnp.int32
  assert 0 <= final.ids.min() and final.ids.max() < q.codebook_size
  assert (
    0 < final.metrics["usage"] <= 1 and 1 - 1e-5 <= final.metrics["perplexity"] <= q.codebook_size
  )
  np.testing.assert_allclose(codes, final.z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name,fields", CASES)
def test_shapes_for_any_grid_and_dtype(name, fields):
  for grid in [(5,), (2, 2, 3)]:  # two axes are those of the contract
    q = build.build("quantizers", dict(name=name, **fields))
    z = jax.ShapeDtypeStruct((2, *grid, q.input_width), jnp.bfloat16)
    keys = {"params": jax.random.key(0), "codes": jax.random.key(1)}
    variables = jax.eval_shape(lambda z: q.init(keys, z, train=True), z)
    out, state = jax.eval_shape(lambda v, z: call(q, v, z, True, jnp.int32(0)), variables, z)
    assert out.z.shape == (2, *grid, q.width) and out.z.dtype == jnp.bfloat16
    assert out.loss.dtype == jnp.float32 and out.loss.shape == ()
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == jax.tree.map(
      lambda a: (a.shape, a.dtype), variables
    )
    assert all(a.dtype != jnp.bfloat16 for a in jax.tree.leaves(state))
    if q.num_codebooks:
      assert out.ids.shape == (2, *grid) + ((q.num_codebooks,) if q.num_codebooks > 1 else ())


@pytest.mark.parametrize("name", ["vq", "ema", "lfq"])
def test_bfloat16_finds_the_codes_of_float32(name):
  q, z, variables = make(
    name, SMALL[name] | ({"codebook_init": "normal"} if name in ("vq", "ema") else {})
  )
  half = z.astype(jnp.bfloat16)
  quantize = jax.jit(lambda z: call(q, variables, z, False)[0])
  a, b = quantize(half), quantize(half.astype(jnp.float32))
  np.testing.assert_array_equal(a.ids, b.ids)
  np.testing.assert_array_equal(a.z, b.z.astype(jnp.bfloat16))


@pytest.mark.parametrize(
  "name,fields,message",
  [
    ("fsq", dict(levels=(1, 5)), "levels"),
    ("lfq", dict(dim=36), "grouped"),
    ("gumbel", dict(temperature=(1.0, 0.1, 10, "square")), "temperature"),
    ("residual", dict(quantizer=dict(name="gaussian")), "quantizer"),
    ("residual", dict(quantizer=dict(name="vq"), depth=0), "depth: 0"),
    ("residual", dict(quantizer=dict(name="vq"), dropout=1.5), "dropout: 1.5"),
    ("grouped", dict(quantizer=dict(name="vq"), groups=0), "groups: 0"),
    ("vq", dict(codebook_size=0), "codebook_size: 0"),
    ("vq", dict(dim=0), "dim: 0"),
    ("vq", dict(commitment_weight=-0.1), "commitment_weight: -0.1"),
    ("vq", dict(entropy_temperature=0.0), "entropy_temperature: 0.0"),
    ("ema", dict(decay=1.0), "decay: 1.0"),
    ("ema", dict(eps=0.0), "eps: 0.0"),
    ("simvq", dict(revive=1.0), "revive: 1.0"),
    ("ibq", dict(joint_weight=float("nan")), "joint_weight: nan"),
    ("lfq", dict(entropy_weight=float("inf")), "entropy_weight: inf"),
    ("lfq", dict(group_bits=0), "group_bits: 0"),
    ("bsq", dict(temperature=0.0), "temperature: 0.0"),
    ("gaussian", dict(kl_weight=-1.0), "kl_weight: -1.0"),
    ("identity", dict(dim=-1), "dim: -1"),
    ("gumbel", dict(temperature=0.0), "temperature: 0.0"),
    ("gumbel", dict(kl_weight=(0.0, -1.0, 10, "linear")), "kl_weight"),
    ("gumbel", dict(temperature=("a", 1.0, 10, "linear")), "temperature"),
    ("fsq", dict(levels=(1024,) * 4), "2\\^30"),
    ("grouped", dict(quantizer=dict(name="identity")), "quantizer"),
    ("vq", dict(normalize="l1"), "normalize"),
  ],
)
def test_impossible_fields_are_named(name, fields, message):
  with pytest.raises(UserError, match=message):
    build.build("quantizers", dict(name=name, **fields))


@pytest.mark.parametrize("name", [n for n in build.names("quantizers") if n != "identity"])
def test_wrong_width_is_named(name):
  q = build.build("quantizers", dict(name=name, **SMALL.get(name, {})))
  z = jnp.zeros((2, 3, q.input_width + 1))
  with pytest.raises(UserError, match="channels"):
    jax.eval_shape(
      lambda z: q.init({"params": jax.random.key(0), "codes": jax.random.key(0)}, z, train=True), z
    )


def precisions(jaxpr):
  """Of all matrix products of a jaxpr, those of inner ones too."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      yield equation.params["precision"]
    for value in equation.params.values():
      for inner in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          yield from precisions(inner)


@pytest.mark.parametrize("name", build.names("quantizers"))
def test_every_product_runs_at_the_precision_of_the_search(name):
  """TensorFloat-32 and single bfloat16 passes, accelerators' defaults, move codes and logits."""
  q = build.build("quantizers", dict(name=name, **SMALL.get(name, {})))
  z = jnp.zeros((2, 3, q.input_width))
  keys = {"params": jax.random.key(0), "codes": jax.random.key(1)}
  variables = jax.eval_shape(lambda z: q.init(keys, z, train=True), z)

  def objective(params, z, variables):
    out, _ = call(q, {**variables, "params": params}, z, True, jnp.int32(0))
    return out.loss + jnp.sum(out.z)

  grad = jax.make_jaxpr(jax.grad(objective, (0, 1)))(variables.get("params", {}), z, variables)
  highest = jax.lax.Precision.HIGHEST
  assert all(p in (highest, (highest, highest)) for p in precisions(grad.jaxpr))
