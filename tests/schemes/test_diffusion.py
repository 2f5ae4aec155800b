"""Discrete diffusion against matrices written out: kernels, posteriors, the bound, and the
sampler's own Markov chain.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.schemes import Draw, Network, _kernels, diffusion

K, M = 3, 3  # codes, and the mask's id
LATENT = Codes((4,), K)
KERNELS = ["uniform", "absorbing", "mask_and_replace"]


def one_step(kernel, schedule, t, timesteps):
  """q(x_t | x_{t-1}) as a matrix [from, to], by the papers' own formulas for one step."""
  kept = lambda t: 1 - t / timesteps if schedule == "linear" else np.cos(np.pi * t / timesteps / 2)
  alpha = kept(t) / kept(t - 1) if t < timesteps else 0.0
  matrix = np.zeros((K + 1, K + 1))
  if kernel == "uniform":
    matrix[:K, :K] = alpha * np.eye(K) + (1 - alpha) / K
  elif kernel == "absorbing":
    matrix[:K, :K], matrix[:K, M] = alpha * np.eye(K), 1 - alpha
  else:
    masked = lambda t: 0.9 * (1 - kept(t) * (t < timesteps))
    gamma = 1 - (1 - masked(t)) / (1 - masked(t - 1))
    matrix[:K, :K], matrix[:K, M] = alpha * np.eye(K) + (1 - alpha - gamma) / K, gamma
  matrix[M, M] = 1
  return matrix


def between(kernel, schedule, s, t, timesteps):
  """q(x_t | x_s) as a product of matrices."""
  steps = [one_step(kernel, schedule, u, timesteps) for u in range(s + 1, t + 1)]
  return functools.reduce(np.matmul, steps, np.eye(K + 1))


def reverse(kernel, schedule, s, t, timesteps):
  """q(x_s | x_t, x_0) as [x_t, x_0, x_s]; zero where x_t cannot come from x_0."""
  from_0, step = (
    between(kernel, schedule, 0, s, timesteps),
    between(kernel, schedule, s, t, timesteps),
  )
  joint = from_0[:K].T[:, :, None] * step[:, None, :]  # [x_s, x_0, x_t]
  total = joint.sum(0, keepdims=True)
  return np.where(total > 0, joint / np.maximum(total, 1e-300), 0).transpose(2, 1, 0)


def as_matrix(rates, i):
  keep, noise, mask = (float(x[i]) for x in rates)
  matrix = np.zeros((K + 1, K + 1))
  matrix[:K, :K], matrix[:K, M], matrix[M, M] = keep * np.eye(K) + noise / K, mask, 1
  return matrix


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("times", [range(9), [0, 3, 4, 8]])
def test_rates_are_products_of_matrices(kernel, schedule, times):
  scheme, times = diffusion.Scheme(LATENT, kernel, schedule, 8), np.asarray(times)
  table = scheme._transitions(times)
  for i, (s, t) in enumerate(zip(times, times[1:])):
    np.testing.assert_allclose(
      as_matrix(table.early, i), between(kernel, schedule, 0, s, 8), atol=1e-6
    )
    np.testing.assert_allclose(
      as_matrix(table.step, i), between(kernel, schedule, s, t, 8), atol=1e-6
    )
    np.testing.assert_allclose(
      as_matrix(table.late, i), between(kernel, schedule, 0, t, 8), atol=1e-6
    )
  np.testing.assert_allclose(
    _kernels.prior(scheme._mask_share, LATENT.size),
    between(kernel, schedule, 0, 8, 8)[0],
    atol=1e-6,
  )


def test_absorbing_linear_is_the_papers_schedule():
  step = diffusion.Scheme(LATENT, "absorbing", timesteps=10)._transitions(np.arange(11)).step
  np.testing.assert_allclose(step.mask, 1 / (10 - np.arange(1, 11) + 1), rtol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_posteriors_are_those_of_the_matrices(kernel, schedule):
  scheme, times = diffusion.Scheme(LATENT, kernel, schedule, 6), np.array([0, 1, 3, 5, 6])
  beliefs = np.random.default_rng(0).dirichlet(np.ones(K), size=K + 1)
  posterior = jax.jit(
    lambda x_t, p, table: jax.nn.softmax(_kernels.reverse(jnp.log(p), x_t, table))
  )
  for i, (s, t) in enumerate(zip(times, times[1:])):
    exact = reverse(kernel, schedule, s, t, 6)
    table = jax.tree.map(lambda x: x[i : i + 1], scheme._transitions(times))
    x_t, x_0 = np.nonzero(exact.any(-1))
    ours = posterior(jnp.asarray(x_t)[None], jnp.eye(K)[x_0][None], table)[0]
    np.testing.assert_allclose(ours, exact[x_t, x_0], atol=1e-5)
    mixed = np.einsum("wuv,wu->wv", exact, beliefs)
    mixed = mixed / np.maximum(mixed.sum(-1, keepdims=True), 1e-30)
    possible = mixed.sum(-1) > 0
    ours = posterior(jnp.arange(K + 1)[None], jnp.asarray(beliefs, jnp.float32)[None], table)[0]
    np.testing.assert_allclose(ours[possible], mixed[possible], atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_noise_has_the_marginals_of_the_matrices(kernel, chi2):
  scheme, n = diffusion.Scheme(LATENT, kernel, timesteps=5), 50_000
  ids = jnp.tile(jnp.asarray([[0, 2]]), (n, 1))
  out = jax.jit(scheme.corrupt)(jax.random.key(0), ids)
  times = np.asarray(out.extra)
  chi2(np.bincount(times, minlength=6), np.arange(6).astype(bool) / 5)
  np.testing.assert_allclose(out.time_B, times / 5, rtol=1e-6)
  for t, place in itertools.product((1, 3, 5), (0, 1)):
    drawn = np.asarray(out.inputs)[times == t, place]
    chi2(np.bincount(drawn, minlength=K + 1), between(kernel, "linear", 0, t, 5)[ids[0, place]])


@pytest.mark.parametrize("kernel", KERNELS)
def test_bound_and_loss_are_those_of_enumeration(kernel):
  timesteps, grid, n = 4, np.array([0, 2]), 20_000
  states = np.array(list(itertools.product(range(K + 1), repeat=2)))
  beliefs = np.random.default_rng(1).dirichlet(np.ones(K), size=(timesteps, len(states), 2))
  if kernel == "absorbing":  # what is visible is certain
    beliefs = np.where(states[None, :, :, None] < K, np.eye(K + 1)[states][None, :, :, :K], beliefs)
  terms = np.zeros((timesteps, 2))
  for t in range(1, timesteps + 1):
    noise, back = (
      between(kernel, "linear", 0, t, timesteps),
      reverse(kernel, "linear", t - 1, t, timesteps),
    )
    for state, belief in zip(states, beliefs[t - 1]):
      weight = noise[grid, state].prod()
      if weight > 0:
        for i in range(2):
          true, model = back[state[i], grid[i]], belief[i] @ back[state[i]]
          some = true > 0
          terms[t - 1, i] += weight * np.sum(true[some] * np.log(true[some] / model[some]))

  logs = jnp.asarray(np.log(np.maximum(beliefs, 1e-37)), jnp.float32)
  full = lambda ids, time: logs[
    jnp.round(time * timesteps).astype(int) - 1, ids[:, 0] * (K + 1) + ids[:, 1]
  ]
  scheme = diffusion.Scheme(LATENT, kernel, timesteps=timesteps, auxiliary=0.0)
  ids = jnp.tile(jnp.asarray(grid)[None], (n, 1))
  near = lambda x, exact: np.testing.assert_array_less(
    np.abs(x.mean(0) - exact), 5 * x.std(0) / n**0.5 + 1e-5
  )
  near(
    np.asarray(jax.jit(lambda key: scheme.bound(key, Network(full), ids))(jax.random.key(0))),
    terms.sum(0),
  )

  def train(key):
    corrupted = scheme.corrupt(key, ids)
    nats, weights, _ = scheme.loss(full(corrupted.inputs, corrupted.time_B), corrupted)
    return nats * weights

  near(np.asarray(jax.jit(train)(jax.random.key(1))), terms.sum(0))


@pytest.mark.parametrize("kernel", KERNELS)
def test_auxiliary_is_the_cross_entropy_and_gradients_are_finite(kernel):
  ids = jnp.asarray(np.random.default_rng(0).integers(K, size=(64, 5)))
  logits = 30 * jax.random.normal(jax.random.key(0), (64, 5, K))
  plain, more = (diffusion.Scheme(LATENT, kernel, timesteps=50, auxiliary=a) for a in (0.0, 0.5))
  corrupted = jax.jit(plain.corrupt)(jax.random.key(1), ids)
  extra = jax.jit(more.loss)(logits, corrupted)[0] - jax.jit(plain.loss)(logits, corrupted)[0]
  cross_entropy = -np.take_along_axis(
    np.asarray(jax.nn.log_softmax(logits)), np.asarray(ids)[..., None], -1
  )[..., 0]
  np.testing.assert_allclose(extra, 0.5 * cross_entropy, atol=1e-2)
  assert np.isfinite(jax.jit(jax.grad(lambda x: plain.loss(x, corrupted)[0].sum()))(logits)).all()


def true_beliefs(world, kernel, t, timesteps):
  """p(x_0,i | x_t) for all states, [256, 4, 3], by enumeration."""
  noise = between(kernel, "linear", 0, t, timesteps)
  return world.conditionals(lambda i, state: noise[world.grids, state[None]].prod(1))


def enumerated_chain(world, kernel, beliefs, times, values, pinned):
  """Distribution [81] of x_0 from stepping back through `times` with every code drawn apart."""
  timesteps = times[-1]
  prior = between(kernel, "linear", 0, timesteps, timesteps)[0]
  place = [np.eye(K + 1)[values[i]] if pinned[i] else prior for i in range(4)]
  now = functools.reduce(np.kron, place)
  for s, t in reversed(list(zip(times, times[1:]))):
    back, after = reverse(kernel, "linear", s, t, timesteps), np.zeros_like(now)
    for x in np.flatnonzero(now):
      rows = [beliefs[t - 1, x, i] @ back[world.states[x, i]] for i in range(4)]
      rows = [np.eye(K + 1)[values[i]] if pinned[i] else rows[i] for i in range(4)]
      after += now[x] * functools.reduce(np.kron, rows)
    now = after
  expected = now[world.index(world.grids)]
  np.testing.assert_allclose(expected.sum(), 1, rtol=1e-6)
  return expected


@pytest.mark.parametrize("times", [[0, 1, 2, 3, 4], [0, 2, 4]])
@pytest.mark.parametrize("kernel", KERNELS)
def test_sampler_is_the_enumerated_chain(world, kernel, times):
  timesteps, n, values = 4, 20_000, np.array([0, 2, 1, 1])
  beliefs = np.stack([true_beliefs(world, kernel, t, timesteps) for t in range(1, timesteps + 1)])
  scheme, network = (
    diffusion.Scheme(LATENT, kernel, timesteps=timesteps),
    Network(world.lookup(beliefs)),
  )
  ids = jnp.tile(jnp.asarray(values)[None], (n, 1))
  sample = jax.jit(
    lambda known: scheme.sample(jax.random.key(3), network, ids, known, steps=len(times) - 1)
  )
  for pinned in (np.zeros(4, bool), np.array([False, True, False, True])):
    world.check(
      sample(jnp.tile(jnp.asarray(pinned)[None], (n, 1))),
      enumerated_chain(world, kernel, beliefs, times, values, pinned),
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_code_is_exact_in_few_steps(kernel, chi2):
  data, timesteps, n = np.array([0.5, 0.15, 0.35]), 12, 20_000
  beliefs = []
  for t in range(1, timesteps + 1):
    joint = data[:, None] * between(kernel, "linear", 0, t, timesteps)[:K]
    beliefs.append((joint / np.maximum(joint.sum(0), 1e-30)).T)
  logs = jnp.asarray(np.log(np.maximum(beliefs, 1e-37)), jnp.float32)
  network = Network(
    lambda ids, time, done: logs[jnp.round(time * timesteps).astype(int)[:, None] - 1, ids]
  )
  scheme, ids = diffusion.Scheme(LATENT, kernel, timesteps=timesteps), jnp.zeros((n, 1), int)
  out = jax.jit(lambda key: scheme.sample(key, network, ids, ids > 0, steps=5))(jax.random.key(0))
  chi2(np.bincount(np.asarray(out)[:, 0], minlength=K), data)


def test_truncation_and_greedy_act_on_the_beliefs():
  network = Network(
    lambda ids, time, done: jnp.log(
      jnp.tile(jnp.asarray([0.5, 0.3, 0.2])[None, None], (*ids.shape, 1))
    )
  )
  scheme, ids = diffusion.Scheme(LATENT, "absorbing", timesteps=5), jnp.zeros((300, 4), int)

  def drawn(**options):
    sample = jax.jit(lambda key: scheme.sample(key, network, ids, ids > 0, Draw(**options)))
    return np.unique(sample(jax.random.key(0))).tolist()

  assert drawn(top_p=0.7) == [0, 1]
  assert drawn(temperature=0.0) == [0]


def test_errors():
  ids = jnp.zeros((1, 4), int)
  for options in (dict(timesteps=0), dict(mask_share=1.0)):
    with pytest.raises(UserError, match=next(iter(options))):
      diffusion.Scheme(LATENT, **options)
  with pytest.raises(UserError, match="steps: 9"):
    diffusion.Scheme(LATENT, timesteps=8).sample(jax.random.key(0), None, ids, ids > 0, steps=9)
  with pytest.raises(UserError, match="steps: 2.5 is no whole number"):
    diffusion.Scheme(LATENT).sample(jax.random.key(0), None, ids, ids > 0, steps=2.5)


@pytest.mark.parametrize("timesteps", [41, 110])
def test_the_bound_asks_once_for_every_time(timesteps):
  """Also where T and 1/T round in float32."""
  scheme, asked = diffusion.Scheme(LATENT, timesteps=timesteps), []

  def full(ids, time):
    jax.debug.callback(lambda t: asked.append(round(float(t) * timesteps)), time[0], ordered=True)
    return jnp.zeros((*ids.shape, K))

  nats = jax.jit(lambda key: scheme.bound(key, Network(full), jnp.zeros((1, 2), int)))
  jax.block_until_ready(nats(jax.random.key(0)))
  jax.effects_barrier()
  assert asked == list(range(1, timesteps + 1))
