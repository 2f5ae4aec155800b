"""Gaussian diffusion of floats: DDPM (arXiv 2006.11239) as improved by arXiv 2102.09672."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.latents import Floats
from vqjax.schemes import Corrupted, Loss, _over_floats, _solvers

_VARIANCE = 1e-3  # weight of the bound beside the simple loss (arXiv 2102.09672, eq. 16)


@dataclasses.dataclass(frozen=True)
class Scheme(_over_floats.OverFloats):
  """The network sees x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε at t of 0 to T - 1, told as t / T.

  Fields:
    timesteps: T.
    schedule: of β: "linear", 1e-4 to 0.02 for T = 1000 (arXiv 2006.11239); "scaled_linear", √β
      linear from 0.00085 to 0.012 (latent diffusion, arXiv 2112.10752); "cosine" (arXiv 2102.09672,
      eq. 17).
    terminal: "zero_snr" rescales it so that nothing is left of the data at T (arXiv 2305.08891,
      algorithm 1); not for `prediction="epsilon"`, which says nothing there.
    prediction: of the noise "epsilon", of "x0", or of "v" = √ᾱ ε - √(1 - ᾱ) x_0 (arXiv 2202.00512).
    variance: of ancestral steps: "small" (the posterior's), "large" (β_t), or "learned" between the
      two, from as many channels again, by the bound (arXiv 2102.09672, eq. 15).
    weighting: "min_snr" counts times by min(SNR, `gamma`), in units of x_0 (arXiv 2303.09556).
    gamma: 5 in the paper.
    guided_channels: guidance moves so many leading channels alone; None all of the prediction but
      its variance. DiT's published sampler has 3.
    likelihood_steps: of Heun's method, two calls of network and gradient each.
  """

  latent: Floats = fields.program()
  timesteps: int = 1_000
  schedule: Literal["linear", "scaled_linear", "cosine"] = "linear"
  terminal: Literal["schedule", "zero_snr"] = "schedule"
  prediction: Literal["epsilon", "v", "x0"] = "epsilon"
  variance: Literal["small", "large", "learned"] = "small"
  weighting: Literal["none", "min_snr"] = "none"
  gamma: float = 5.0
  guided_channels: int | None = None
  likelihood_steps: int = 24
  usual: ClassVar[tuple[int, str]] = (50, "ancestral")

  def __post_init__(self) -> None:
    checks.within(self, "timesteps", at_least=2)
    checks.within(self, "gamma", above=0)
    checks.positive(self, "guided_channels", "likelihood_steps")
    if self.terminal == "zero_snr" and self.prediction == "epsilon":
      raise UserError(
        "terminal: 'zero_snr' leaves pure noise at T, where it says nothing of the data; "
        "set prediction to v or x0."
      )

  @property
  def outputs(self) -> int:
    return self.latent.width * (2 if self.variance == "learned" else 1)

  @property
  def guided(self) -> int:
    """How many leading channels of a prediction guidance moves."""
    return self.guided_channels or self.latent.width

  @property
  def _kept(self) -> np.ndarray:
    """ᾱ_t, float64 [T]."""
    return kept(self.timesteps, self.schedule, self.terminal)

  def _grid(self, times: np.ndarray, end: bool) -> _solvers.Grid:
    """The stops at decreasing timesteps, and with `end` the data."""
    kept = np.append(self._kept[times], [1.0] * end)
    signal, noise = np.sqrt(kept), np.sqrt(1 - kept)
    told = np.append(times, [0] * end) / self.timesteps
    first = self._kept[0]
    least = np.sqrt(1 - first) / (np.sqrt(first) + np.sqrt(1 - first))
    return _solvers.Grid(noise / (signal + noise), told, signal + noise, float(least))

  def corrupt(self, key: jax.Array, latent_BLD: jax.Array) -> Corrupted:
    """x_t at a t of each example, uniform; targets are what is predicted, `extra` is (t, x_0)."""
    time_key, noise_key = jax.random.split(key)
    t_B = jax.random.randint(time_key, latent_BLD.shape[:1], 0, self.timesteps)
    signal, spread = self._levels(t_B)
    noise = jax.random.normal(noise_key, latent_BLD.shape)
    latent_BLD = latent_BLD.astype(jnp.float32)
    target = {"epsilon": noise, "x0": latent_BLD, "v": signal * noise - spread * latent_BLD}[
      self.prediction
    ]
    weights = jnp.ones(latent_BLD.shape[:2], jnp.float32)
    shown = signal * latent_BLD + spread * noise
    return Corrupted(shown, target, weights, t_B / self.timesteps, (t_B, latent_BLD))

  def _levels(self, t_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """√ᾱ and √(1 - ᾱ), [B, 1, 1]."""
    kept = self._kept
    tables = (np.sqrt(kept), np.sqrt(1 - kept))
    return tuple(jnp.asarray(x, jnp.float32)[t_B][:, None, None] for x in tables)

  def loss(self, prediction: jax.Array, corrupted: Corrupted) -> Loss:
    """Mean square over channels, weighted, and of a learned variance its bound in nats."""
    mean = prediction[..., : self.latent.width]
    square = jnp.mean(jnp.square(mean - corrupted.targets), -1)
    t_B, _ = corrupted.extra
    values = jnp.asarray(self._weights(), jnp.float32)[t_B][:, None] * square
    if self.variance != "learned":
      return Loss(values, corrupted.weights, {})
    term = jnp.mean(self._term(prediction, corrupted), -1)
    values = values + _VARIANCE * self.timesteps * term
    return Loss(values, corrupted.weights, {"square": square, "bound": self.timesteps * term})

  def _weights(self) -> np.ndarray:
    if self.weighting == "none":
      return np.ones(self.timesteps)
    snr = self._kept / (1 - self._kept)
    # Of the square of x_0's error; the others' are this many times that.
    times = {"x0": 1, "epsilon": np.maximum(snr, 1e-12), "v": snr + 1}[self.prediction]
    return np.minimum(snr, self.gamma) / times

  def _term(self, prediction: jax.Array, corrupted: Corrupted) -> jax.Array:
    """KL of p(x_{t-1} | x_t) from q(x_{t-1} | x_t, x_0) in nats [B, L, D], the mean's gradient
    stopped; at t = 0 it is -log p(x_0 | x_1) of a normal density.
    """
    t_B, x_0 = corrupted.extra
    at = lambda table: jnp.asarray(table, jnp.float32)[t_B][:, None, None]
    small, large, of_data = posteriors(self._kept)
    mean, share = jnp.split(prediction, [self.latent.width], axis=-1)
    said = self._read(jax.lax.stop_gradient(mean), corrupted.inputs, *self._levels(t_B))
    log_variance = at(np.log(small)) + 0.5 * (share + 1) * at(np.log(large / small))
    gap = at(of_data) * (x_0 - said.data)  # both means lean on x_t alike
    first = (t_B == 0)[:, None, None]
    spread = jnp.where(first, 0.0, jnp.exp(at(np.log(small)) - log_variance))
    constant = jnp.where(first, np.log(2 * np.pi), -1 - at(np.log(small)))
    return 0.5 * (constant + log_variance + spread + jnp.square(gap) * jnp.exp(-log_variance))

  def _read(
    self, mean: jax.Array, x: jax.Array, signal: jax.Array, spread: jax.Array
  ) -> _solvers.Said:
    """(x̂_0, ε̂) of a prediction at √ᾱ and √(1 - ᾱ)."""
    if self.prediction == "epsilon":
      return _solvers.Said((x - spread * mean) / signal, mean)
    if self.prediction == "v":
      return _solvers.Said(signal * x - spread * mean, spread * x + signal * mean)
    return _solvers.Said(mean, (x - signal * mean) / jnp.maximum(spread, 1e-6))

  @property
  def most(self) -> int:
    return self.timesteps

  def path(self, chosen: _solvers.Chosen) -> tuple[_solvers.Grid, _solvers.Reader]:
    """Over evenly spaced timesteps."""
    grid = self._grid(spaced(self.timesteps, chosen.steps), end=True)
    return grid, self._reader(grid)

  def likelihood_path(self) -> tuple[_solvers.Grid, _solvers.Reader]:
    steps = min(self.likelihood_steps, self.timesteps - 1)
    grid = self._grid(spaced(self.timesteps, steps + 1), end=False)
    return grid, self._reader(grid)

  def _reader(self, grid: _solvers.Grid) -> _solvers.Reader:
    levels = [
      x.astype(np.float32) for x in ((1 - grid.noise) * grid.scale, grid.noise * grid.scale)
    ]
    signal, spread = map(jnp.asarray, levels)
    wide = self._widths(grid)

    def read(prediction: jax.Array, x: jax.Array, i: Any) -> _solvers.Said:
      mean, share = jnp.split(prediction, [self.latent.width], axis=-1)
      said = self._read(mean, x, signal[i], spread[i])
      if self.variance == "small":
        return said
      share = 0.5 * (share + 1) if self.variance == "learned" else 1.0
      return said._replace(spread=share * jnp.asarray(wide)[i])

    return read

  def _widths(self, grid: _solvers.Grid) -> np.ndarray:
    """log of the large deviation over the posterior's for the step from each stop, float32 [S + 1];
    0 for the last one, which has no noise.
    """
    u, w = grid.noise[:-1], grid.noise[1:]
    _, _, posterior = _solvers.transition(u, w)
    kept = np.square((1 - grid.noise) * grid.scale)
    beta = 1 - kept[:-1] / kept[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
      log = 0.5 * np.log(beta) - np.log(posterior * grid.scale[1:])
    return np.append(np.where(posterior > 0, log, 0.0), 0.0).astype(np.float32)


def spaced(timesteps: int, steps: int) -> np.ndarray:
  """`steps` timesteps from T - 1 down to 0, as evenly as whole numbers are (arXiv 2102.09672, §4);
  a single one is T - 1.
  """
  checks.whole("steps", steps, 1, timesteps, "the diffusion's timesteps")
  if steps == 1:
    return np.array([timesteps - 1])
  return np.round(np.arange(steps) * ((timesteps - 1) / (steps - 1))).astype(int)[::-1]


def kept(timesteps: int, schedule: str, terminal: str = "schedule") -> np.ndarray:
  """ᾱ_t, the share of the data's variance that is kept, float64 [T]."""
  if schedule == "cosine":
    at = lambda t: np.cos((t / timesteps + 0.008) / 1.008 * np.pi / 2) ** 2
    t = np.arange(timesteps)
    beta = np.minimum(1 - at(t + 1) / at(t), 0.999)
  elif schedule == "linear":
    beta = np.minimum(np.linspace(1e-4, 0.02, timesteps) * (1_000 / timesteps), 0.999)
  else:
    beta = np.linspace(0.00085**0.5, 0.012**0.5, timesteps) ** 2 * (1_000 / timesteps)
    beta = np.minimum(beta, 0.999)
  result = np.cumprod(1 - beta)
  if terminal == "zero_snr":
    root = np.sqrt(result)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    result = np.square(root)
  return result


def posteriors(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Of q(x_{t-1} | x_t, x_0), float64 [T] each: its variance (of the first, which is 0, the next
  one's), β_t, and how much its mean leans on x_0 (arXiv 2006.11239, eq. 7).
  """
  before = np.append(1.0, kept[:-1])
  beta = 1 - kept / before
  small = beta * (1 - before) / (1 - kept)
  small[0] = small[1]
  return small, beta, np.sqrt(before) * beta / (1 - kept)
