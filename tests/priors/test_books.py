"""Priors over several codebooks in every order: who sees whom, by gradient; the cache; likelihoods
that add up to one; samples that follow them.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import build
from vqjax.latents import Codes
from vqjax.priors import _books
from vqjax.schemes import Draw, Guidance, Network, _guidance, _sampling, autoregressive

ORDERS = ["flattened", "parallel", "delayed"]
NETWORKS = {
  "transformer": dict(layers=1, width=8, heads=2, max_prefix=2),
  "pixelcnn": dict(layers=4, width=8, kernel=3),
  "pixelsnail": dict(blocks=1, residuals=1, width=8, heads=2, kernel=5),
}
K, Q = 3, 2
SEEN = [(name, order) for name in NETWORKS for order in ORDERS]


def make(name, latent, **fields):
  """(model, params drawn wide); one mask row and two prefix rows after the codes."""
  fields = dict(name=name) | NETWORKS[name] | fields
  model = build.build("priors", fields, latent=latent, rows=latent.vocabulary + 3)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), latent.blank(1), train=False))
  rng = np.random.default_rng(1)
  draw = lambda s: jnp.asarray(0.5 * rng.standard_normal(s.shape), s.dtype)
  return model, jax.tree.map(draw, shapes)


def step_of(latent):
  """The step of each code of the sequence."""
  return np.array([np.argwhere(latent.places == i)[0, 0] for i in range(latent.length)])


def check_sees(model, params, latent, wanted):
  """d logits[i] / d embedding of code j is zero exactly where `wanted` is."""
  ids = jnp.arange(latent.length)[None] // latent.books  # distinct codes in every book

  def said(table):
    inner = params["params"] | {"embed": params["params"]["embed"] | {"table": table}}
    return model.apply({"params": inner}, ids, train=False)[0] @ jnp.linspace(-1, 2, latent.size)

  gradient = jax.jit(jax.jacrev(said))(params["params"]["embed"]["table"])
  rows = np.asarray(latent.numbered(ids))[0]
  assert len(set(rows)) == latent.length
  sees = np.asarray(jnp.abs(gradient).sum(-1) > 0)[:, rows]
  np.testing.assert_array_equal(sees, wanted)


@pytest.mark.parametrize("name, order", SEEN)
def test_a_code_sees_those_of_earlier_steps(name, order):
  latent = Codes((4,), 4, Q, order)
  model, params = make(name, latent)
  step = step_of(latent)
  check_sees(model, params, latent, step[None] < step[:, None])


@pytest.mark.parametrize("order", ORDERS)
def test_a_bidirectional_network_sees_all(order):
  latent = Codes((2, 2), 4, Q, order)
  model, params = make("transformer", latent, causal=False)
  check_sees(model, params, latent, np.ones((latent.length,) * 2, bool))
  masks = jax.ShapeDtypeStruct((1, latent.length), "int32")
  out = jax.eval_shape(lambda ids: model.apply(params, ids, train=False), masks)
  assert out.shape == (1, latent.length, latent.size)


@pytest.mark.parametrize("order", ORDERS)
def test_a_position_has_its_books_head_and_no_other(order):
  latent = Codes((3,), 5, Q, order)
  head = _books.Head(latent, jnp.float32)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, latent.steps, 4)), jnp.float32)
  kernel, bias = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, Q * 5), (Q * 5,)))
  params = {"params": dict(kernel=kernel, bias=bias)}
  out = latent.collect(head.apply(params, x))
  for i, step in enumerate(step_of(latent)):
    own = slice(i % Q * 5, i % Q * 5 + 5)
    np.testing.assert_allclose(out[:, i], x[:, step] @ kernel[:, own] + bias[own][None], atol=1e-5)
  flops = jax.jit(head.apply).lower(params, x).cost_analysis()["flops"]
  slots = latent.places.size
  assert flops < 1.5 * 2 * 2 * slots * 4 * 5  # two examples: none of the other books' logits
  for i in range(latent.steps):
    at = jax.jit(head.apply)(params, x[:, i : i + 1], i)
    np.testing.assert_allclose(at[:, 0], head.apply(params, x)[:, i], atol=1e-5)


def test_embeddings_of_a_step_are_summed():
  latent = Codes((2,), 5, 3, "delayed")
  table = jax.random.normal(jax.random.key(0), (16, 4))
  null = jnp.full(4, 7.0)
  embed = lambda ids: jnp.where((ids < 0)[..., None], null, table[jnp.maximum(ids, 0)])
  ids = jnp.array([[1, 2, 3, 4, 0, 5]])  # the last is masked
  x = _books.embedded(embed, latent, ids)
  rows = [[1, -1, -1], [4, 5 + 2, -1], [-1, 5 + 0, 10 + 3], [-1, -1, 15]]
  np.testing.assert_allclose(x[0], embed(jnp.array(rows)).sum(1), rtol=1e-6)
  for i in range(4):
    codes = latent.arrange(ids, fill=2)[:, i]  # what stands in an empty slot is not read
    np.testing.assert_allclose(_books.embedded_step(embed, latent, codes, i), x[:, i : i + 1])


@functools.cache
def tiny(name, order):
  """(latent, network for any batch, all 81 sequences, their probabilities)."""
  latent = Codes((2,), K, Q, order)
  model, params = make(name, latent)
  full = lambda ids, *_: model.apply(params, ids, None, train=False)
  every = jnp.array(list(itertools.product(range(K), repeat=latent.length)))
  nats = jax.jit(lambda ids: autoregressive.Scheme(latent).bound(None, Network(full), ids))(every)
  return latent, model, params, every, np.exp(-np.asarray(nats, np.float64).sum(-1))


def network(model, params, latent, batch):
  full = lambda ids, *_: model.apply(params, ids, None, train=False)
  if not model.cached:
    return Network(full, *_sampling.uncached(full, batch, latent))
  start = lambda: model.apply(params, None, model.init_cache(batch, 0), method="prefill")
  step = lambda ids, index, cache: model.apply(params, ids, index, cache, method="decode")
  return Network(full, start, step)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["transformer", "pixelcnn"])
def test_likelihoods_of_all_codes_add_up_to_one(name, order):
  *_, probabilities = tiny(name, order)
  assert len(probabilities) == K**4
  np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_the_factorisation_is_the_stated_one(order):
  """Codes of one step are independent given the steps before; those of different steps are not."""
  latent, _, _, every, p = tiny("transformer", order)
  grid, step = p.reshape((K,) * 4), step_of(latent)
  for i, j in itertools.combinations(range(4), 2):
    before = tuple(a for a in range(4) if step[a] < max(step[i], step[j]) and a not in (i, j))
    joint = grid.sum(tuple(a for a in range(4) if a not in (i, j, *before)), keepdims=True)
    given = joint.sum((i, j), keepdims=True)
    product = joint.sum(i, keepdims=True) * joint.sum(j, keepdims=True) / given
    assert np.allclose(joint, product, rtol=1e-4) == (step[i] == step[j])


@pytest.mark.parametrize(
  "name, order", [*(("transformer", order) for order in ORDERS), ("pixelcnn", "delayed")]
)
def test_samples_follow_the_likelihood(name, order, chi2):
  """With the cache and without; completions of the first position follow the conditional."""
  latent, model, params, every, p = tiny(name, order)
  n = 3000
  scheme = autoregressive.Scheme(latent)

  def draw(ids, known, key, **options):
    ids, known = (jnp.broadcast_to(jnp.asarray(x), (n, 4)) for x in (ids, known))
    sample = lambda key: scheme.sample(
      key, network(model, params, latent, n), ids, known, Draw(), **options
    )
    return np.asarray(jax.jit(sample)(jax.random.key(key)))

  out = draw(0, False, 0)
  chi2(np.bincount(out @ K ** np.arange(4)[::-1], minlength=K**4), p)
  known = np.arange(4) < Q
  told = np.array([2, 1, 0, 0])
  prompt = scheme.plan(known[None])["prompt"]
  out = draw(told, known, 1, prompt=prompt)
  assert (out[:, :Q] == told[:Q]).all()
  given = p * (np.asarray(every)[:, :Q] == told[:Q]).all(1)
  chi2(np.bincount(out @ K ** np.arange(4)[::-1], minlength=K**4), given / given.sum())


@pytest.mark.parametrize(
  "order, positions", [("flattened", "rotary"), ("parallel", "row_column"), ("delayed", "learned")]
)
def test_cached_logits_equal_uncached(order, positions):
  """With a prefix, step by step; guided ones too, in one order: guidance mixes rows alone."""
  latent = Codes((2, 2), 4, Q, order)
  fields = dict(positions=positions, layers=2, width=24, max_prefix=1)
  model, params = make("transformer", latent, **fields)
  ids = jax.random.randint(jax.random.key(3), (3, latent.length), 0, latent.size)
  prefix = jnp.array([[latent.vocabulary + 1]] * 3)

  def plain(prefix):
    full = jax.jit(lambda ids, *_: model.apply(params, ids, prefix, train=False))
    empty = model.init_cache(*prefix.shape)
    start = jax.jit(lambda: model.apply(params, prefix, empty, method="prefill"))
    step = jax.jit(lambda *given: model.apply(params, *given, method="decode"))
    return Network(full, start, step)

  networks = [plain(prefix)]
  if order == "delayed":
    doubled = plain(_guidance.double(prefix, jnp.full_like(prefix, -1)))
    networks.append(_guidance.guided(doubled, Guidance(3.0), steps=latent.steps))
  for made in networks:
    expected = latent.arrange(made.full(ids, None, 1.0), fill=0)
    codes, there = latent.arrange(ids, fill=1), latent.places >= 0
    logits, cache = made.start()
    for i in range(latent.steps):
      np.testing.assert_allclose(
        logits[:, there[i]], expected[:, i][:, there[i]], atol=1e-3, rtol=1e-4
      )
      if i < latent.steps - 1:
        logits, cache = made.step(codes[:, i], i, cache)
