"""Loss terms as pure functions: reconstruction, adversarial, their regularisers.

All compute in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from vqjax.nn import layers, patches

# DALL-E keeps pixels off the ends of (0, 1), where the logit is infinite (arXiv 2102.12092,
# appendix A.3).
_PIXEL_MARGIN = 0.1


def l1(recon: jax.Array, x: jax.Array) -> jax.Array:
  """Mean absolute difference of float32 [B, ..., C]."""
  return jnp.abs(recon.astype(jnp.float32) - x.astype(jnp.float32)).mean()


def l2(recon: jax.Array, x: jax.Array) -> jax.Array:
  """Mean squared difference of float32 [B, ..., C]."""
  return jnp.square(recon.astype(jnp.float32) - x.astype(jnp.float32)).mean()


def logit_laplace(output: jax.Array, x: jax.Array) -> jax.Array:
  """DALL-E's negative log likelihood, mean nats per element (arXiv 2102.12092, equation 2).

  It is -ln f(x | mu, b) with f = exp(-|logit(x) - mu| / b) / (2 b x (1 - x)).

  Args:
    output: [B, ..., 2C], mu first, then ln b.
    x: [B, ..., C] in [-1, 1].
  """
  mu, log_b = jnp.split(output.astype(jnp.float32), 2, axis=-1)
  pixel = map_pixels((x.astype(jnp.float32) + 1) / 2)
  logit = jnp.log(pixel) - jnp.log1p(-pixel)
  normaliser = jnp.log(2.0) + log_b + jnp.log(pixel) + jnp.log1p(-pixel)
  return (normaliser + jnp.abs(logit - mu) * jnp.exp(-log_b)).mean()


def logit_laplace_mean(output: jax.Array) -> jax.Array:
  """The image, float32 [B, ..., C], that the parameters of `logit_laplace` stand for. In [-1, 1] as
  pixels are, and up to 1.25 beyond; not clipped, so that all pixels keep a gradient.
  """
  mu, _ = jnp.split(output.astype(jnp.float32), 2, axis=-1)
  return 2 * unmap_pixels(jax.nn.sigmoid(mu)) - 1


def binary_cross_entropy(logits: jax.Array, x: jax.Array) -> jax.Array:
  """Each class of each position on its own, mean nats per element (taming-transformers' loss for
  segmentation maps, arXiv 2012.09841); logits and one-hot x are [B, ..., N].
  """
  logits = logits.astype(jnp.float32)
  return (jax.nn.softplus(logits) - x.astype(jnp.float32) * logits).mean()


def cross_entropy(logits: jax.Array, x: jax.Array) -> jax.Array:
  """One class of N at each position, mean nats per position; logits and one-hot x [B, ..., N]."""
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -(x.astype(jnp.float32) * log_p).sum(-1).mean()


@jax.custom_vjp
def log_prob(logits: jax.Array, ids: jax.Array) -> jax.Array:
  """Log-probability in nats of the codes `ids`, float32 [...], under logits [..., V].

  Nothing as large as the logits is kept beside them, and no gradient is scattered.
  """
  return _log_prob_fwd(logits, ids)[0]


def _log_prob_fwd(logits, ids):
  total = jax.nn.logsumexp(logits.astype(jnp.float32), -1)
  taken = jnp.where(is_code(ids, logits), logits.astype(jnp.float32), 0).sum(-1)
  return taken - total, (logits, ids, total)


def _log_prob_bwd(saved, g):
  logits, ids, total = saved
  p = jnp.exp(logits.astype(jnp.float32) - total[..., None])
  grad = g[..., None] * (is_code(ids, logits) - p)
  return grad.astype(logits.dtype), None


def is_code(ids: jax.Array, logits: jax.Array) -> jax.Array:
  """Whether an entry [..., V] is that of the code `ids`; none is where this is no code of V."""
  entries = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
  return entries == ids[..., None]


log_prob.defvjp(_log_prob_fwd, _log_prob_bwd)


def map_pixels(x01: jax.Array) -> jax.Array:
  """[0, 1] -> [0.1, 0.9], DALL-E's pixels for the logit-Laplace likelihood."""
  return (1 - 2 * _PIXEL_MARGIN) * x01 + _PIXEL_MARGIN


def unmap_pixels(mapped: jax.Array) -> jax.Array:
  """The inverse of `map_pixels`; DALL-E's code clips it to [0, 1]."""
  return (mapped - _PIXEL_MARGIN) / (1 - 2 * _PIXEL_MARGIN)


Logits = jax.Array | tuple[jax.Array, ...]


def over_judges(fn: Callable[..., jax.Array], *logits: Logits) -> jax.Array:
  """`fn` of the logits, float32; where a discriminator is several judges, the mean over them."""
  if not isinstance(logits[0], tuple):
    return fn(*(x.astype(jnp.float32) for x in logits))
  parts = [fn(*(x.astype(jnp.float32) for x in each)) for each in zip(*logits, strict=True)]
  return sum(parts) / len(parts)


def generator_loss(name: str, logits_fake: Logits) -> jax.Array:
  """What the autoencoder minimises: -mean(fake) for "hinge" and "vanilla", as VQGAN; mean
  softplus(-fake) for "non_saturating"; mean (1 - fake)² for "least_squares".
  """
  if name == "least_squares":
    return over_judges(lambda fake: jnp.square(1 - fake).mean(), logits_fake)
  if name == "non_saturating":
    return over_judges(lambda fake: jax.nn.softplus(-fake).mean(), logits_fake)
  return over_judges(lambda fake: -fake.mean(), logits_fake)


def discriminator_loss(name: str, logits_real: Logits, logits_fake: Logits) -> jax.Array:
  """What the discriminator minimises; logits of any shape.

  "hinge": half of E relu(1 - real) + E relu(1 + fake) (arXiv 1705.02894).
  "vanilla": half of E softplus(-real) + E softplus(fake), as VQGAN; "non_saturating" is the same
    without the half (arXiv 1406.2661, StyleGAN2's).
  "least_squares": E (1 - real)² + E fake² (arXiv 1611.04076).
  """

  def loss(real: jax.Array, fake: jax.Array) -> jax.Array:
    if name == "hinge":
      return 0.5 * (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean())
    if name == "least_squares":
      return jnp.square(1 - real).mean() + jnp.square(fake).mean()
    both = jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()
    return 0.5 * both if name == "vanilla" else both

  return over_judges(loss, logits_real, logits_fake)


def feature_matching(
  features_real: Sequence[jax.Array], features_fake: Sequence[jax.Array]
) -> jax.Array:
  """Mean over layers of the mean |real - fake| relative to the layer's mean |real| (after arXiv
  1711.11585, eq. 4).

  The division lets layers of any scale count alike, however the discriminator's activations grow in
  training. No gradient reaches `features_real`.
  """
  terms = []
  for real, fake in zip(features_real, features_fake, strict=True):
    real, fake = jax.lax.stop_gradient(real.astype(jnp.float32)), fake.astype(jnp.float32)
    terms.append(jnp.abs(real - fake).mean() / (jnp.abs(real).mean() + 1e-6))
  return jnp.stack(terms).mean()


def lecam_averages() -> dict[str, jax.Array]:
  """The state that `lecam` starts from: running means of the logits on real images and on
  reconstructions.
  """
  return {"real": jnp.zeros((), jnp.float32), "fake": jnp.zeros((), jnp.float32)}


def lecam(
  averages: dict[str, jax.Array], logits_real: Logits, logits_fake: Logits, decay: float = 0.99
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """LeCAM regulariser R_LC (arXiv 2104.03310): E (real - mean_fake)^2 + E (fake - mean_real)^2.

  As in the paper; its released PyTorch code drops the terms where real < mean_fake or fake >
  mean_real.

  Args:
    averages: {"real", "fake"} float32 scalars, see `lecam_averages`.
    logits_real, logits_fake: of any shape.
    decay: of the running means, which take this batch in before they are used.

  Returns:
    The unweighted loss and the new averages, which carry no gradient.
  """
  means = {"real": over_judges(jnp.mean, logits_real), "fake": over_judges(jnp.mean, logits_fake)}
  batch = jax.lax.stop_gradient(means)
  averages = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, averages, batch)

  def penalty(real: jax.Array, fake: jax.Array) -> jax.Array:
    return jnp.square(real - averages["fake"]).mean() + jnp.square(fake - averages["real"]).mean()

  return over_judges(penalty, logits_real, logits_fake), averages


def r1(disc_fn: Callable[[jax.Array], Logits], x: jax.Array) -> jax.Array:
  """R1 gradient penalty on real examples (arXiv 1801.04406, equation 9) without its gamma / 2:
  E ||d disc_fn(x) / dx||^2.

  Args:
    disc_fn: from examples [B, ..., C] to logits, one or many per example; the many are summed,
      several judges averaged. With batch norm in training mode the examples are not independent,
      and the penalty mixes them.
    x: real examples [B, ..., C], on a grid of any number of axes.
  """
  gradient = jax.grad(lambda x: over_judges(jnp.sum, disc_fn(x)))(x.astype(jnp.float32))
  return jnp.square(gradient).sum(axis=tuple(range(1, x.ndim))).mean()


def adaptive_weight(
  grad_nll: jax.Array, grad_gan: jax.Array, limit: float = 1e4, eps: float = 1e-4
) -> jax.Array:
  """VQGAN's lambda (arXiv 2012.09841, equation 7): ||grad_nll|| / (||grad_gan|| + eps) in [0,
  limit], no gradient.

  Both are gradients at the decoder's last kernel, see `last_layer_gradient`: of the distortion with
  its terms' weights, and of the generator's adversarial loss without its weight.
  """
  return jax.lax.stop_gradient(jnp.clip(_norm(grad_nll) / (_norm(grad_gan) + eps), 0.0, limit))


def last_layer_gradient(h: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
  """The gradient at one layer's kernel, given that at the output it makes: no pass through the rest
  of the model.

  Args:
    h: the layer's input, [B, ..., D] on a grid of 1, 2 or 3 axes.
    kernel: [size, ..., D, C] of a convolution, a transposed one where the output's grid is larger
      than `h`'s, with as many times as stride; [D, P C] of a dense layer that makes patches of P
      positions (`patches.join`).
    cotangent: d loss / d output, [B, ..., C] on the output's grid.

  Returns:
    d loss / d kernel, float32, in the kernel's shape.
  """
  cotangent = cotangent.astype(h.dtype)
  times = tuple(max(1, n // m) for n, m in zip(cotangent.shape[1:-1], h.shape[1:-1], strict=True))
  if kernel.ndim == 2:
    g = patches.cut(cotangent, times)
    h_BLD, g_BLC = (a.reshape(a.shape[0], -1, a.shape[-1]) for a in (h, g))
    return jnp.einsum("bld,blc->dc", h_BLD, g_BLC, preferred_element_type=jnp.float32)
  layout = layers.layout(len(times))

  def layer(kernel: jax.Array) -> jax.Array:
    if max(times) > 1:
      return jax.lax.conv_transpose(h, kernel, times, "SAME", dimension_numbers=layout)
    return jax.lax.conv_general_dilated(h, kernel, times, "SAME", dimension_numbers=layout)

  _, pull = jax.vjp(layer, kernel.astype(h.dtype))
  return pull(cotangent)[0].astype(jnp.float32)


def _norm(x: jax.Array) -> jax.Array:
  return jnp.sqrt(jnp.square(x.astype(jnp.float32)).sum())
