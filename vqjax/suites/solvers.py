"""Solvers of priors over floats, on a mixture whose score is known: python -m vqjax.bench
--suite=solvers

Prints how far each solver ends from the exact end of the probability flow (the median over samples,
from the same noise, by a flow), and the order of convergence between each two numbers of steps;
then for every scheme how far its likelihood is from the true one, in nats for each of the mixture's
values. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import build, cli
from vqjax.latents import Floats
from vqjax.schemes import Network

STEPS = (8, 16, 32, 64, 128)
LATENT = Floats((3,), 2)
SCHEMES = {
  "flow": dict(name="flow"),
  "ddpm": dict(name="ddpm"),
  "ddpm, cosine, v": dict(name="ddpm", schedule="cosine", prediction="v"),
  "ddpm, zero SNR, x0": dict(name="ddpm", terminal="zero_snr", prediction="x0"),
}


class Mixture:
  """Gaussians over all values of a small latent, normalised, and what a perfect network says of
  them to a scheme.

  Args:
    latent: Floats; the mixture is over its length times its width values.
    kinds: how many Gaussians, at most three; a single one stands around 0.
  """

  def __init__(self, latent: Floats, kinds: int = 3):
    self.latent, self.size = latent, latent.length * latent.width
    rng = np.random.default_rng(0)
    self.weights = np.array([0.5, 0.3, 0.2])[:kinds] / sum([0.5, 0.3, 0.2][:kinds])
    self.means = 0.9 * rng.normal(size=(kinds, self.size)) * (kinds > 1)
    roots = rng.normal(size=(kinds, self.size, self.size)) / 4
    self.covariances = roots @ roots.transpose(0, 2, 1) + 0.15 * np.eye(self.size)

  @property
  def mean(self) -> np.ndarray:
    return self.weights @ self.means

  @property
  def covariance(self) -> np.ndarray:
    second = self.covariances + self.means[:, :, None] * self.means[:, None]
    return np.einsum("k,kij->ij", self.weights, second) - np.outer(self.mean, self.mean)

  def log_prob(self, x: np.ndarray) -> np.ndarray:
    """Of normalised values [..., X]."""
    each = []
    for weight, mean, spread in zip(self.weights, self.means, self.covariances):
      gap = x - mean
      square = np.einsum("...i,ij,...j->...", gap, np.linalg.inv(spread), gap)
      size = self.size * np.log(2 * np.pi) + np.linalg.slogdet(spread)[1]
      each.append(np.log(weight) - 0.5 * (square + size))
    return np.logaddexp.reduce(each)

  def expected(self, x_BX: jax.Array, signal: jax.Array, noise: jax.Array) -> jax.Array:
    """E[x_0 | x = signal · x_0 + noise · ε], `[B, X]`; both are `[B]`."""

    def one(x: jax.Array, a: jax.Array, s: jax.Array) -> jax.Array:
      spread = a**2 * jnp.asarray(self.covariances) + s**2 * jnp.eye(self.size)[None]
      gap = x[None] - a * jnp.asarray(self.means)
      solved = jnp.linalg.solve(spread, gap[..., None])[..., 0]
      fits = jnp.log(jnp.asarray(self.weights)) - 0.5 * (
        jnp.sum(gap * solved, -1) + jnp.linalg.slogdet(spread)[1]
      )
      means = self.means + a * jnp.einsum("kij,kj->ki", jnp.asarray(self.covariances), solved)
      return jax.nn.softmax(fits) @ means

    return jax.vmap(one)(x_BX, signal, noise)

  def average(self, x_BX: jax.Array, r_B: jax.Array, t_B: jax.Array) -> jax.Array:
    """(x_t - x_r) / (t - r) along the flow of one Gaussian, whose map is a matrix at each time; its
    limit, the velocity, where the times are one.
    """
    values, vectors = (jnp.asarray(a, jnp.float32) for a in np.linalg.eigh(self.covariances[0]))
    scale = lambda t: jnp.sqrt(jnp.square(1 - t)[:, None] * values[None] + jnp.square(t)[:, None])
    own = x_BX @ vectors
    rate = (t_B[:, None] - (1 - t_B)[:, None] * values[None]) / jnp.square(scale(t_B))
    gap = (t_B - r_B)[:, None]
    share = (1 - scale(r_B) / scale(t_B)) / jnp.where(gap > 1e-3, gap, 1.0)
    return (own * jnp.where(gap > 1e-3, share, rate)) @ vectors.T

  def network(self, scheme: Any) -> Network:
    """What a perfect network says to a scheme."""
    parts = type(scheme).__module__.rpartition(".")[2]

    def full(x_BLD: jax.Array, time_B: jax.Array, done: Any = None) -> jax.Array:
      x = x_BLD.reshape(len(x_BLD), -1)
      if parts == "ddpm":
        kept = jnp.asarray(scheme._kept)[jnp.round(time_B * scheme.timesteps).astype(int)]
        signal, noise = jnp.sqrt(kept), jnp.sqrt(1 - kept)
      elif time_B.ndim == 2:  # the average velocity from the later of two times to the earlier
        return self.average(x, time_B[:, 0], time_B[:, 1]).reshape(x_BLD.shape)
      else:
        signal, noise = 1 - time_B, time_B
      a, s = signal[:, None], noise[:, None]
      data = self.expected(x, signal, noise)
      # At no noise, where x is the data, the noise that is expected is none.
      eps = jnp.where(s > 1e-4, (x - a * data) / jnp.maximum(s, 1e-4), 0.0)
      kind = getattr(scheme, "prediction", "velocity")
      said = {"epsilon": eps, "x0": data, "v": a * eps - s * data, "velocity": eps - data}[kind]
      out = said.reshape(x_BLD.shape).astype(jnp.float32)
      return jnp.concatenate([out, -jnp.ones_like(out)][: scheme.outputs // self.latent.width], -1)

    return Network(full)


def distances(batch: int = 256) -> dict[str, list[float]]:
  """{solver: median distances from the exact end for each of STEPS}.

  The median, since a few samples start between two Gaussians, and few steps lead them to the other.
  """
  mixture, scheme = Mixture(LATENT), build.build("schemes", dict(name="flow"), latent=LATENT)
  network, blank = mixture.network(scheme), LATENT.blank(batch)

  def end(solver: str, steps: int) -> np.ndarray:
    known = blank[..., 0] > 0
    sample = lambda key: scheme.sample(key, network, blank, known, steps=steps, solver=solver)
    return np.asarray(jax.jit(sample)(jax.random.key(0)))

  exact = end("heun", 1_024)
  length = lambda x: np.sqrt(np.square(x).sum((1, 2)))
  gap = lambda solver, steps: float(np.median(length(end(solver, steps) - exact)))
  return {solver: [gap(solver, n) for n in STEPS] for solver in ("euler", "heun", "dpm")}


def likelihood(config: dict[str, Any], rows: int = 64, probes: int = 16) -> tuple[float, float]:
  """(mean of the estimate less the truth, its standard error), in nats per value."""
  mixture = Mixture(LATENT)
  scheme = build.build("schemes", config | dict(likelihood_steps=64), latent=LATENT)
  rng, shape = np.random.default_rng(1), (rows * probes, LATENT.length, LATENT.width)
  kinds = rng.choice(len(mixture.weights), rows, p=mixture.weights)
  x = np.stack([rng.multivariate_normal(mixture.means[k], mixture.covariances[k]) for k in kinds])
  given = jnp.asarray(np.repeat(x, probes, 0).reshape(shape), jnp.float32)
  network = mixture.network(scheme)
  nats = jax.jit(lambda key: scheme.bound(key, network, given))(jax.random.key(2))
  each = np.asarray(nats).sum(-1).reshape(rows, probes).mean(1) + mixture.log_prob(x)
  return float(each.mean() / mixture.size), float(each.std() / np.sqrt(rows) / mixture.size)


def main(argv: Sequence[str]) -> None:
  cli.parser(__doc__).parse_args(argv)
  from vqjax import writers

  rows = []
  for solver, gaps in distances().items():
    orders = [f"{np.log2(a / b):.2f}" for a, b in zip(gaps, gaps[1:])]
    rows.append([solver, *(f"{gap:.2e}" for gap in gaps), " ".join(orders)])
  print(writers.table(["solver", *(f"{n} steps" for n in STEPS), "orders"], rows))
  found = [[name, *likelihood(config)] for name, config in SCHEMES.items()]
  rows = [[name, f"{gap:+.4f}", f"{error:.4f}"] for name, gap, error in found]
  print(writers.table(["scheme", "nats per value off", "standard error"], rows))
