"""Schemes over floats: their contract, and on a Gaussian mixture whose score is known the moments
of samples, the likelihood, completions and the solvers' orders of convergence.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import build
from vqjax.errors import UserError
from vqjax.latents import Floats
from vqjax.schemes import Draw, Guidance, Network, _guidance, ddpm
from vqjax.suites.solvers import Mixture

SCHEMES = [
  name
  for name in build.names("schemes")
  if "floats" in getattr(build.member("schemes", name), "takes", ("codes",))
]
L, D = 3, 2
STD = (2.0, 0.5)
LATENT = Floats((L,), D, (1.0, -1.0), STD)
STEPS = 40


def make(name, **fields):
  return build.build("schemes", dict(name=name) | fields, latent=LATENT)


MIXTURE = Mixture(LATENT)
VARIANTS = {
  "flow": dict(),
  "flow-shifted": dict(shift=3.0),
  "ddpm": dict(),
  "ddpm-v-cosine": dict(prediction="v", schedule="cosine"),
  "ddpm-x0-zero": dict(prediction="x0", schedule="scaled_linear", terminal="zero_snr"),
  "ddpm-learned": dict(variance="learned"),
}
SOLVERS = ("euler", "heun", "dpm", "ancestral")


def variant(name):
  return make(name.partition("-")[0], **VARIANTS[name])


def test_every_scheme_over_floats_has_a_variant():
  # A mean flow's exact network is known for one Gaussian alone; it has tests of its own.
  assert {name.partition("-")[0] for name in VARIANTS} | {"meanflow"} == set(SCHEMES)


@functools.cache
def drawn(name, solver, batch=3_000):
  scheme = variant(name)
  network, blank = MIXTURE.network(scheme), LATENT.blank(batch)
  steps = 100 if solver == "ancestral" else STEPS
  run = lambda key: scheme.sample(
    key, network, blank, blank[..., 0] > 0, steps=steps, solver=solver
  )
  return np.asarray(jax.jit(run)(jax.random.key(0))).reshape(batch, -1)


PAIRS = [(name, "dpm") for name in VARIANTS] + [
  (name, solver) for name in ("flow", "ddpm") for solver in SOLVERS if solver != "dpm"
]


@pytest.mark.parametrize("name, solver", PAIRS)
def test_samples_have_the_moments_of_the_mixture(name, solver):
  x = drawn(name, solver)
  error = np.sqrt(np.diag(MIXTURE.covariance) / len(x))
  # Four standard errors, and what the steps lose.
  assert (np.abs(x.mean(0) - MIXTURE.mean) < 4 * error + 0.02).all()
  scale = np.sqrt(np.diag(MIXTURE.covariance))
  gap = np.abs(np.cov(x.T) - MIXTURE.covariance) / np.outer(scale, scale)
  assert gap.max() < 0.13, gap.max()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_likelihood_is_that_of_the_mixture(name):
  scheme = variant(name)
  object.__setattr__(scheme, "likelihood_steps", 64)
  rng = np.random.default_rng(1)
  x = np.stack(
    [rng.multivariate_normal(MIXTURE.means[k], MIXTURE.covariances[k]) for k in (0, 1, 2)]
  )
  probes = 256
  rows = jnp.repeat(jnp.asarray(x, jnp.float32).reshape(3, L, D), probes, 0)
  network = MIXTURE.network(scheme)
  nats = jax.jit(lambda key: scheme.bound(key, network, rows))(jax.random.key(3))
  assert nats.shape == (3 * probes, L)
  totals = np.asarray(nats).sum(-1).reshape(3, probes)
  true = np.array([-MIXTURE.log_prob(row) for row in x]) + L * np.log(STD).sum()
  error = totals.std(1) / np.sqrt(probes)
  assert (np.abs(totals.mean(1) - true) < 4 * error + 0.05).all(), (totals.mean(1), true, error)


@pytest.mark.parametrize(
  "solver, steps, low, high",
  [
    ("euler", (16, 32, 64), 0.9, 1.1),
    ("heun", (16, 32, 64), 1.85, 2.2),
    # Of second order in log α/σ, whose steps are uneven at both ends: it gets there from below.
    ("dpm", (64, 128, 256), 1.6, 2.1),
  ],
)
def test_orders_of_convergence(solver, steps, low, high):
  scheme, batch = make("flow"), 64
  network, blank = MIXTURE.network(scheme), LATENT.blank(batch)

  def run(steps, solver):
    sample = lambda key: scheme.sample(
      key, network, blank, blank[..., 0] > 0, steps=steps, solver=solver
    )
    return np.asarray(jax.jit(sample)(jax.random.key(5)))

  exact = run(512, "heun")
  errors = np.array([np.sqrt(np.square(run(n, solver) - exact).mean()) for n in steps])
  found = np.log2(errors[:-1] / errors[1:])
  assert ((low < found) & (found < high)).all(), (found, errors)


def test_learned_variance_is_the_posteriors_at_minus_one_and_beta_at_one():
  """Between the two the samples of a perfect mean differ hardly: the table is checked instead."""
  scheme = make("ddpm", variance="learned", timesteps=50)
  grid = scheme._grid(ddpm.spaced(50, 50), end=True)
  small, beta, _ = ddpm.posteriors(scheme._kept)
  wide = scheme._widths(grid)[:-2]  # neither the last step nor the stop after it has any noise
  np.testing.assert_allclose(np.exp(2 * wide), (beta / small)[:0:-1], rtol=1e-4)


def test_the_bound_of_a_learned_variance_by_hand():
  """Against the KL of two normal densities written out in NumPy."""
  scheme = make("ddpm", variance="learned", timesteps=20)
  x_0 = jax.random.normal(jax.random.key(0), (20, L, D))
  corrupted = scheme.corrupt(jax.random.key(1), x_0)
  prediction = jax.random.normal(jax.random.key(2), (20, L, 2 * D))
  _, _, metrics = jax.jit(scheme.loss)(prediction, corrupted)
  kept = np.cumprod(1 - np.minimum(np.linspace(1e-4, 0.02, 20) * 50, 0.999))
  x, x_0, prediction = (np.asarray(a, np.float64) for a in (corrupted.inputs, x_0, prediction))
  for b, t in enumerate(np.asarray(corrupted.extra[0])):
    before = kept[t - 1] if t else 1.0
    beta = 1 - kept[t] / before
    mean = lambda data: (
      (np.sqrt(before) * beta * data + np.sqrt(kept[t] / before) * (1 - before) * x[b])
      / (1 - kept[t])
    )
    data = (x[b] - np.sqrt(1 - kept[t]) * prediction[b, :, :D]) / np.sqrt(kept[t])
    small = beta * (1 - before) / (1 - kept[t])
    if t == 0:
      second = 1 - kept[1] / kept[0]
      small = second * (1 - kept[0]) / (1 - kept[1])
    share = (prediction[b, :, D:] + 1) / 2
    log = share * np.log(beta) + (1 - share) * np.log(small)
    gap = np.square(mean(x_0[b]) - mean(data)) / np.exp(log)
    if t:
      term = 0.5 * (log - np.log(small) + small / np.exp(log) - 1 + gap)
    else:
      term = 0.5 * (np.log(2 * np.pi) + log + gap)
    np.testing.assert_allclose(metrics["bound"][b], 20 * term.mean(-1), rtol=2e-3)


def test_weights_in_units_of_the_data_are_the_same_for_every_prediction():
  """min-SNR: an error of x_0 costs min(SNR, γ) however it is predicted."""
  x_0, key = jax.random.normal(jax.random.key(0), (64, L, D)), jax.random.key(1)
  costs = []
  for kind in ("x0", "epsilon", "v"):
    scheme = make("ddpm", prediction=kind, weighting="min_snr", gamma=2.0, timesteps=100)
    corrupted = scheme.corrupt(key, x_0)
    t_B = corrupted.extra[0]
    kept = jnp.asarray(scheme._kept)[t_B][:, None, None]
    off = {"x0": 1.0, "epsilon": -jnp.sqrt(kept / (1 - kept)), "v": -1 / jnp.sqrt(1 - kept)}[kind]
    costs.append(scheme.loss(corrupted.targets + 0.1 * off, corrupted).values_BL)
  snr = np.asarray(scheme._kept / (1 - scheme._kept))[t_B]
  for cost in costs:
    np.testing.assert_allclose(cost, np.tile(0.01 * np.minimum(snr, 2)[:, None], L), rtol=1e-3)


def test_schedules():
  plain, zero = (ddpm.kept(100, "scaled_linear", end) for end in ("schedule", "zero_snr"))
  assert zero[-1] == 0 and zero[0] == pytest.approx(plain[0]) and (np.diff(zero) < 0).all()
  cosine = ddpm.kept(1000, "cosine")
  t = (np.arange(1, 1000) / 1000 + 0.008) / 1.008
  expected = np.cos(t * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
  np.testing.assert_allclose(cosine[:999], expected, rtol=1e-3)
  assert ddpm.spaced(1000, 4).tolist() == [999, 666, 333, 0] and ddpm.spaced(9, 1).tolist() == [8]
  with pytest.raises(UserError, match="terminal: 'zero_snr' leaves pure noise"):
    make("ddpm", terminal="zero_snr")


def test_flow_times_move_with_the_grid():
  times = lambda **fields: np.asarray(
    make("flow", **fields).corrupt(jax.random.key(0), LATENT.blank(4096)).time_B
  )
  uniform = times(times="uniform")
  np.testing.assert_allclose(np.sort(uniform), (np.arange(4096) + 0.5) / 4096, atol=3e-4)
  np.testing.assert_allclose(
    times(times="uniform", shift=2.0), 2 * uniform / (1 + uniform), rtol=1e-5
  )
  # A grid four times as long as the one of `shift_length` is shifted by two.
  longer = make("flow", shift_length=1)._shifted(0.5)
  assert longer == pytest.approx(np.sqrt(L) * 0.5 / (1 + (np.sqrt(L) - 1) * 0.5))
  logits = np.log(times(times_mean=0.5, times_std=2.0)) - np.log1p(
    -times(times_mean=0.5, times_std=2.0)
  )
  assert logits.mean() == pytest.approx(0.5, abs=0.02) and logits.std() == pytest.approx(
    2, rel=0.02
  )


ONE = Mixture(LATENT, kinds=1)


@pytest.mark.parametrize("name", ["flow", "ddpm"])
def test_completions_agree_with_what_is_known(name):
  """The mean of a Gaussian given some of it; steps done again come nearer to it."""
  scheme, batch = make(name), 1_500
  known = jnp.arange(L)[None] < 2
  covariance, seen = ONE.covariances[0], 2 * D
  given = 3 * covariance[:, seen] / np.sqrt(covariance[seen, seen])  # leans to one side
  latent = jnp.tile(jnp.asarray(given, jnp.float32).reshape(1, L, D), (batch, 1, 1))
  true = covariance[seen:, :seen] @ np.linalg.solve(covariance[:seen, :seen], given[:seen])

  def gap(resample):
    run = lambda key: scheme.sample(
      key, ONE.network(scheme), latent, jnp.tile(known, (batch, 1)),
      steps=STEPS, solver="ancestral", resample=resample, trajectory=True,
    )  # fmt: skip
    out, path = jax.jit(run)(jax.random.key(4))
    np.testing.assert_array_equal(out[:, :2], latent[:, :2])
    assert path.shape == (STEPS, batch, L, D)
    return np.abs(np.asarray(out)[:, 2].mean(0) - true).max()

  assert np.abs(true).max() > 0.3  # what is known matters
  once, again = gap(1), gap(4)
  # Replacement alone is biased; to undo and repeat steps takes a good part of that away.
  assert again < 0.15 and again < 0.8 * once, (once, again)


@pytest.mark.parametrize("solver, looks", [("euler", 4), ("heun", 8), ("dpm", 4)])
def test_what_is_known_is_on_its_path_in_every_look(solver, looks):
  """Also in the one that Heun takes from the end of a step."""
  scheme, inner, seen = make("flow"), ONE.network(make("flow")), []
  latent, known = jnp.arange(L * D, dtype=jnp.float32).reshape(1, L, D), jnp.arange(L)[None] < 2

  def full(x, time, done=None):
    u = float(jnp.ravel(time)[0])
    seen.append((np.asarray(x)[known] - (1 - u) * np.asarray(latent)[known]) / u if u else None)
    return inner.full(x, time, done)

  with jax.disable_jit():
    scheme.sample(jax.random.key(0), Network(full), latent, known, steps=4, solver=solver)
  noise = [x for x in seen if x is not None]
  assert len(seen) == looks and len(noise) >= looks - 1
  for each in noise:
    np.testing.assert_allclose(each, noise[0], atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_mean_flow_draws_the_gaussian_in_any_number_of_steps(steps):
  scheme, batch = make("meanflow"), 4_000
  blank = LATENT.blank(batch)
  run = lambda key: scheme.sample(key, ONE.network(scheme), blank, blank[..., 0] > 0, steps=steps)
  x = np.asarray(jax.jit(run)(jax.random.key(0))).reshape(batch, -1)
  scale = np.sqrt(np.diag(ONE.covariance))
  gap = np.abs(np.cov(x.T) - ONE.covariance) / np.outer(scale, scale)
  assert gap.max() < 0.08 and np.abs(x.mean(0) / scale).max() < 0.07
  with pytest.raises(UserError, match="solver: 'heun' is for velocities"):
    scheme.sample(jax.random.key(0), ONE.network(scheme), blank, blank[..., 0] > 0, solver="heun")


def test_a_mean_flow_has_the_likelihood_of_its_velocities():
  scheme = make("meanflow", likelihood_steps=48)
  x = np.random.default_rng(0).multivariate_normal(np.zeros(L * D), ONE.covariances[0])
  rows = jnp.tile(jnp.asarray(x, jnp.float32).reshape(1, L, D), (256, 1, 1))
  nats = jax.jit(lambda key: scheme.bound(key, ONE.network(scheme), rows))(jax.random.key(3))
  totals, true = np.asarray(nats).sum(-1), -ONE.log_prob(x) + L * np.log(STD).sum()
  assert abs(totals.mean() - true) < 4 * totals.std() / 16 + 0.05


def test_a_mean_flows_objective_has_its_least_at_the_average_velocity():
  """The gradient along a scale of the output is none at 1, and points there from both sides."""
  scheme, batch = make("meanflow", adaptive=0.0, apart=1.0), 8_192
  rng = np.random.default_rng(0)
  x_0 = rng.multivariate_normal(np.zeros(L * D), ONE.covariances[0], batch).reshape(batch, L, D)
  x_0 = jnp.asarray(x_0, jnp.float32)

  def loss(scale, key):
    said = lambda x, t, done=None: scale * ONE.network(scheme).full(x, t)
    values, weights, metrics = scheme.objective(key, Network(said), x_0)
    assert values.shape == weights.shape == metrics["square"].shape == (batch, L)
    return values.mean()

  slope = jax.jit(jax.grad(loss))
  at = {s: np.mean([slope(s, jax.random.key(k)) for k in range(4)]) for s in (0.8, 1.0, 1.2)}
  assert at[0.8] < -0.05 and at[1.2] > 0.05 and abs(at[1.0]) < 0.02, at


def network(condition_B, calls=None):
  mix = jax.random.normal(jax.random.key(0), (L * D, L * D)) / 4

  def full(x_BLD, time_B=None, done=None):
    if calls is not None:
      calls.append(1)
    flat = x_BLD.reshape(len(x_BLD), -1) @ mix
    return jnp.tanh(flat.reshape(x_BLD.shape) + condition_B[:, None, None])

  return Network(full)


B = 6


@pytest.mark.parametrize("name", SCHEMES)
def test_known_vectors_stay_and_unknown_ones_are_never_looked_at(name):
  sample = jax.jit(
    lambda z, known: make(name).sample(
      jax.random.key(2), network(jnp.arange(B)), z, known, steps=4, trajectory=True
    )
  )
  z, other = (jax.random.normal(jax.random.key(k), (B, L, D)) for k in (1, 5))
  some = jax.random.bernoulli(jax.random.key(4), 0.4, (B, L))
  for known in (some & False, some, some | True):
    out, path = sample(z, known)
    assert out.shape == (B, L, D) and out.dtype == jnp.float32 and path.shape == (4, B, L, D)
    np.testing.assert_array_equal(np.asarray(out)[known], np.asarray(z)[known])
    np.testing.assert_array_equal(path[-1], out)
    for stop in np.asarray(path):
      np.testing.assert_array_equal(stop[known], np.asarray(z)[known])
    np.testing.assert_array_equal(out, sample(jnp.where(known[..., None], z, other), known)[0])


@pytest.mark.parametrize("name", SCHEMES)
def test_batches_permute_and_may_have_any_size(name):
  order, keys = jnp.asarray([3, 0, 5, 1, 4, 2]), jax.random.split(jax.random.key(3), B)
  blank, condition = LATENT.blank(B), jnp.arange(B)
  run = jax.jit(
    lambda at: make(name).sample(
      keys[at], network(condition[at]), blank[at], blank[at][..., 0] > 0, steps=3
    )
  )
  plain = np.asarray(run(jnp.arange(B)))
  np.testing.assert_allclose(plain[order], run(order), atol=1e-6)
  assert len(np.unique(plain.reshape(B, -1), axis=0)) == B
  one = lambda n: jax.jit(
    lambda z: make(name).sample(jax.random.key(2), network(jnp.zeros(n)), z, z[..., 0] > 0, steps=3)
  )(LATENT.blank(n))
  np.testing.assert_allclose(one(B)[:2], one(2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SCHEMES)
def test_sampling_is_one_loop_and_starts_from_the_same_noise_whatever_its_steps(name):
  calls, scheme, blank = [], make(name), LATENT.blank(B)
  run = lambda key: scheme.sample(
    key, network(jnp.zeros(B), calls), blank, blank[..., 0] > 0,
    steps=30, solver="euler", trajectory=True,
  )  # fmt: skip
  jax.eval_shape(run, jax.random.key(0))
  assert len(calls) <= 3  # once per trace of the loop's body
  still = Network(lambda x, *_: jnp.zeros((len(x), L, scheme.outputs)))
  sample = lambda key, steps: scheme.sample(
    key, still, blank, blank[..., 0] > 0, steps=steps, solver="euler"
  )
  seven, three = jax.jit(lambda key: [sample(key, 7), sample(key, 3)])(jax.random.key(0))
  np.testing.assert_allclose(seven, three, rtol=1e-3, atol=1e-5)


BAD = [
  (dict(steps=0), "steps: 0 is no whole number"),
  (dict(steps=2.0), "steps: 2.0 is no whole number"),
  (dict(solver="rk4"), "solver: 'rk4' is no solver; take euler, heun, dpm, ancestral"),
  (dict(eta=1.5, solver="euler"), "eta: 1.5 is no number from 0 to 1"),
  (dict(eta=0.5, solver="heun"), "eta: 0.5 is no option of the solver 'heun'"),
  (dict(resample=0), "resample: 0 is no whole number"),
  (dict(draw=Draw(top_k=3)), "top_k: chooses among codes, and this prior draws floats"),
]


@pytest.mark.parametrize("options, message", BAD)
@pytest.mark.parametrize("name", SCHEMES)
def test_options_are_checked(name, options, message):
  scheme, blank = make(name), LATENT.blank(1)
  with pytest.raises(UserError, match=message) as e:
    scheme.sample(jax.random.key(0), network(jnp.zeros(1)), blank, blank[..., 0] > 0, **options)
  assert "\n" not in str(e.value) and set(options) - {"draw"} <= scheme.options.keys()


def test_averages_take_no_fresh_noise():
  scheme, blank = make("meanflow"), LATENT.blank(1)
  for options in (dict(solver="ancestral"), dict(solver="euler", eta=0.5)):
    with pytest.raises(UserError, match="fresh noise needs velocities.*take euler"):
      scheme.sample(jax.random.key(0), network(jnp.zeros(1)), blank, blank[..., 0] > 0, **options)


def test_a_ddpm_has_no_more_steps_than_timesteps():
  with pytest.raises(UserError, match="steps: 21 is no whole number from 1 to 20"):
    blank = LATENT.blank(1)
    make("ddpm", timesteps=20).sample(
      jax.random.key(0), network(jnp.zeros(1)), blank, blank[..., 0] > 0, steps=21
    )


def test_guidance_within_an_interval_and_of_some_channels():
  guidance = Guidance(3.0, first=0.25, last=0.5)
  np.testing.assert_allclose(guidance.at(np.array([0.0, 0.25, 0.5, 0.75, 1.0])), [1, 3, 3, 1, 1])
  for first, last in ((0.6, 0.5), (-0.1, 1.0), (0.0, 1.1)):
    with pytest.raises(UserError, match="guidance_first, guidance_last: .* is no stretch"):
      Guidance(2.0, first=first, last=last)
  said = jnp.arange(24.0).reshape(4, 2, 3)
  moved = _guidance.guide(said, 2.0, channels=1)
  np.testing.assert_array_equal(moved[..., 1:], said[::2][..., 1:])
  np.testing.assert_array_equal(moved[..., :1], _guidance.guide(said, 2.0)[..., :1])
  assert make("ddpm", variance="learned").guided == D
