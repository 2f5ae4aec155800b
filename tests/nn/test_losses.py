"""Loss terms against other implementations' values, brute force, and the properties their papers
claim.
"""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vqjax.nn import losses, patches


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def test_adversarial_losses_match_taming(golden):
  values = np.load(golden / "taming_discriminator.npz")
  real, fake = values["logits_real"], values["logits_fake"]
  np.testing.assert_allclose(
    losses.discriminator_loss("hinge", real, fake), values["hinge"], rtol=1e-5
  )
  np.testing.assert_allclose(
    losses.discriminator_loss("vanilla", real, fake), values["vanilla"], rtol=1e-5
  )
  np.testing.assert_allclose(losses.generator_loss("vanilla", fake), values["g_loss"], rtol=1e-5)
  np.testing.assert_allclose(losses.generator_loss("hinge", fake), values["g_loss"], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_log_prob_is_that_of_log_softmax_and_keeps_the_logits_alone(rng, dtype):
  logits = jnp.asarray(3 * rng.normal(size=(2, 5, 64)), dtype)
  ids, weights = jnp.asarray(rng.integers(64, size=(2, 5))), jnp.asarray(rng.normal(size=(2, 5)))
  plain = lambda x: jnp.take_along_axis(
    jax.nn.log_softmax(x.astype(jnp.float32)), ids[..., None], -1
  )[..., 0]
  ours = lambda x: losses.log_prob(x, ids)
  of = lambda f: jax.jit(lambda x: (f(x), jax.grad(lambda x: (weights * f(x)).sum())(x)))(logits)
  for a, b in zip(of(ours), of(plain)):
    assert a.dtype == b.dtype
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-2 if dtype == "bfloat16" else 1e-5)
  kept = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(ours, x)[1], logits))
  assert [x.dtype for x in kept if x.size >= logits.size] == [logits.dtype]


def test_non_saturating_is_cross_entropy(rng):
  real, fake = rng.normal(size=(2, 3, 4, 4, 1)).astype(np.float32) * 3
  sigmoid = lambda v: 1 / (1 + np.exp(-v.astype(np.float64)))
  np.testing.assert_allclose(
    losses.generator_loss("non_saturating", fake), -np.log(sigmoid(fake)).mean(), rtol=1e-5
  )
  expected = -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean()
  np.testing.assert_allclose(
    losses.discriminator_loss("non_saturating", real, fake), expected, rtol=1e-5
  )


def test_pixel_map_and_image_match_dalle(golden):
  values = np.load(golden / "openai_dvae.npz")
  np.testing.assert_allclose(losses.map_pixels(values["x01"]), values["mapped"], rtol=1e-5)
  image = np.clip(losses.logit_laplace_mean(values["stats"]), -1, 1)
  np.testing.assert_allclose((image + 1) / 2, values["recon"], rtol=1e-4, atol=1e-6)


def test_logit_laplace_is_a_density(rng):
  """exp(-loss) integrates to one over (0, 1), whatever mu and b are; the loss is a plain mean of
  such terms.
  """
  mu, log_b = 0.7, -0.4
  mapped = np.linspace(0.1, 0.9, 4001, dtype=np.float32)
  x = (mapped - 0.1) / 0.8 * 2 - 1
  recon = jnp.broadcast_to(jnp.array([mu, log_b]), (4001, 1, 1, 2))
  term = jax.vmap(losses.logit_laplace)
  loss = term(recon[:, None], x[:, None, None, None, None])
  integral = np.trapezoid(np.exp(-np.asarray(loss, np.float64)), mapped.astype(np.float64))
  # The mass outside [0.1, 0.9] is a Laplace tail: half of exp(-distance / b) on either side.
  end, b = np.log(9.0), np.exp(log_b)
  expected = 1 - 0.5 * np.exp(-(end - mu) / b) - 0.5 * np.exp(-(end + mu) / b)
  np.testing.assert_allclose(integral, expected, rtol=1e-4)


def test_no_pixel_of_logit_laplace_is_without_a_gradient():
  """White and black stand at the ends of the mapped range: half of their estimates are beyond."""
  mu = jnp.array([-9.0, -2.3, 0.0, 2.3, 9.0])
  slope = jax.vmap(
    jax.grad(lambda m: losses.logit_laplace_mean(jnp.stack([m, jnp.zeros(())])).sum())
  )
  s = 1 / (1 + np.exp(-np.asarray(mu, np.float64)))
  np.testing.assert_allclose(slope(mu), 2 / 0.8 * s * (1 - s), rtol=1e-3)


def test_plain_reconstruction(rng):
  recon, x = rng.uniform(-1.5, 1.5, size=(2, 2, 3, 4, 3)).astype(np.float32)
  np.testing.assert_allclose(losses.l1(recon, x), np.abs(recon - x).mean(), rtol=1e-6)
  np.testing.assert_allclose(losses.l2(recon, x), ((recon - x) ** 2).mean(), rtol=1e-6)


def test_cross_entropies_are_those_of_optax(rng):
  logits = jnp.asarray(rng.normal(size=(2, 3, 3, 4)) * 20, jnp.float32)
  classes = rng.integers(0, 4, (2, 3, 3))
  x = jax.nn.one_hot(classes, 4)
  np.testing.assert_allclose(
    losses.binary_cross_entropy(logits, x),
    optax.sigmoid_binary_cross_entropy(logits, x).mean(),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    losses.cross_entropy(logits, x),
    optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean(),
    rtol=1e-5,
  )


def test_feature_matching(rng):
  real = [rng.normal(size=s).astype(np.float32) for s in ((2, 4, 4, 3), (2, 2, 2, 5))]
  fake = [r + 0.1 * rng.normal(size=r.shape).astype(np.float32) for r in real]
  expected = np.mean([np.abs(r - f).mean() / np.abs(r).mean() for r, f in zip(real, fake)])
  np.testing.assert_allclose(losses.feature_matching(real, fake), expected, rtol=1e-5)
  rescaled = losses.feature_matching([real[0] * 100, real[1]], [fake[0] * 100, fake[1]])
  np.testing.assert_allclose(rescaled, expected, rtol=1e-5)
  on_real, on_fake = jax.grad(losses.feature_matching, argnums=(0, 1))(real, fake)
  assert all((g == 0).all() for g in on_real) and all((g != 0).any() for g in on_fake)


def test_lecam(rng):
  real, fake = rng.normal(size=(2, 5, 1)).astype(np.float32)
  averages = losses.lecam_averages()
  expected = {"real": 0.0, "fake": 0.0}
  for _ in range(3):
    loss, averages = losses.lecam(averages, real, fake, decay=0.9)
    expected = {
      "real": 0.9 * expected["real"] + 0.1 * real.mean(),
      "fake": 0.9 * expected["fake"] + 0.1 * fake.mean(),
    }
  np.testing.assert_allclose(averages["real"], expected["real"], rtol=1e-5)
  np.testing.assert_allclose(averages["fake"], expected["fake"], rtol=1e-5)
  want = ((real - expected["fake"]) ** 2).mean() + ((fake - expected["real"]) ** 2).mean()
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  # The means act as constants: the gradient is that of a square around the other side's mean.
  gradient = jax.grad(lambda r: losses.lecam(averages, r, fake, decay=1.0)[0])(real)
  np.testing.assert_allclose(gradient, 2 * (real - averages["fake"]) / real.size, rtol=1e-4)


def test_r1_of_a_known_function(rng):
  w = rng.normal(size=(4, 4, 3)).astype(np.float32)
  x = rng.normal(size=(5, 4, 4, 3)).astype(np.float32)
  quadratic = lambda x: 0.5 * (jnp.asarray(w)[None] * x**2).sum(axis=(1, 2, 3))[:, None]
  np.testing.assert_allclose(
    losses.r1(quadratic, x), ((w * x) ** 2).sum(axis=(1, 2, 3)).mean(), rtol=1e-5
  )
  # It trains the discriminator: d/da of the penalty of a * x is 2 a |1|^2.
  slope = jax.grad(lambda a: losses.r1(lambda x: (a * x).sum(axis=(1, 2, 3)), x))(3.0)
  np.testing.assert_allclose(slope, 2 * 3.0 * 48, rtol=1e-5)


def test_adaptive_weight_matches_taming(golden):
  case = json.loads((golden / "meta_models.json").read_text())["adaptive_weight"]
  nll, gan = jnp.full((4,), case["norm_nll"] / 2), jnp.full((4,), case["norm_g"] / 2)
  np.testing.assert_allclose(
    losses.adaptive_weight(nll, gan), case["weight_before_disc_weight"], rtol=1e-5
  )
  assert losses.adaptive_weight(1e6 * nll, 0 * gan) == 1e4
  assert (jax.grad(losses.adaptive_weight)(nll, gan) == 0).all()


LAST_LAYERS = {
  "3": lambda n: nn.Conv(2, (3,) * n, use_bias=False),
  "1": lambda n: nn.Conv(2, (1,) * n, use_bias=False),
  "transposed": lambda n: nn.ConvTranspose(2, (4,) * n, (2,) * n, use_bias=False),
  "stretched": lambda n: nn.ConvTranspose(2, (4,) * n, (2, 1, 3)[:n], use_bias=False),
  "dense": lambda n: nn.Dense(2, use_bias=False),
  "patches": lambda n: nn.Dense(3**n * 2, use_bias=False),
}


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("name", LAST_LAYERS)
def test_last_layer_gradient_is_that_of_the_model(rng, name, axes):
  layer = LAST_LAYERS[name](axes)
  h = jnp.asarray(rng.normal(size=(2, *(6, 8, 4)[:axes], 5)), jnp.float32)
  shape = jax.eval_shape(layer.init, jax.random.key(0), h)["params"]["kernel"].shape
  kernel = jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)

  def output(kernel):
    y = layer.apply({"params": {"kernel": kernel}}, h)
    return patches.join(y, (3,) * axes) if name == "patches" else y

  def loss(y):
    return jnp.sin(y * jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape)).sum()

  @jax.jit  # one program instead of dozens
  def run(h, kernel):
    y, pull = jax.vjp(output, kernel)
    cotangent = jax.grad(loss)(y)
    ours = lambda h: losses.last_layer_gradient(h, kernel, cotangent)
    return pull(cotangent)[0], ours(h), ours(h.astype(jnp.bfloat16)) if axes == 2 else None

  expected, got, half = run(h, kernel)
  size = np.abs(expected).max()
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * size)
  if axes == 2:
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, expected, atol=0.02 * size)
