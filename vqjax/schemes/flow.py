"""Rectified flow (arXiv 2209.03003): straight paths from noise to floats, and their velocity."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, fields
from vqjax.latents import Floats
from vqjax.schemes import Corrupted, Loss, _over_floats, _solvers


@dataclasses.dataclass(frozen=True)
class Scheme(_over_floats.OverFloats):
  """The network sees x_t = (1 - t) x_0 + t ε and predicts the velocity ε - x_0.

  Fields:
    times: of training: "uniform", or "logit_normal", more often in the middle (arXiv 2403.03206,
      eq. 19).
    times_mean, times_std: of the logit, for "logit_normal".
    shift: moves all times towards noise, t -> s t / (1 + (s - 1) t) (arXiv 2403.03206, eq. 23):
      large grids are still readable under noise that hides a small one. 1 moves nothing.
    shift_length: positions of a grid at which `shift` holds as it is; at others it is multiplied by
      the square root of their ratio. None holds it everywhere.
    likelihood_steps: of Heun's method, two calls of network and gradient each.
  """

  latent: Floats = fields.program()
  times: Literal["uniform", "logit_normal"] = "logit_normal"
  times_mean: float = 0.0
  times_std: float = 1.0
  shift: float = 1.0
  shift_length: int | None = None
  likelihood_steps: int = 24
  usual: ClassVar[tuple[int, str]] = (20, "dpm")

  def __post_init__(self) -> None:
    checks.within(self, "times_std", "shift", above=0)
    checks.within(self, "times_mean")
    checks.positive(self, "shift_length", "likelihood_steps")

  def _shifted(self, times: Any) -> Any:
    ratio = self.latent.length / self.shift_length if self.shift_length else 1.0
    shift = self.shift * math.sqrt(ratio)
    return shift * times / (1 + (shift - 1) * times)

  def path(self, chosen: _solvers.Chosen) -> tuple[_solvers.Grid, _solvers.Reader]:
    return self._path(chosen.steps)

  def likelihood_path(self) -> tuple[_solvers.Grid, _solvers.Reader]:
    return self._path(self.likelihood_steps)

  def _path(self, steps: int) -> tuple[_solvers.Grid, _solvers.Reader]:
    times = self._shifted(np.linspace(1, 0, steps + 1))
    grid = _solvers.Grid(times, times, np.ones_like(times), 0.0)
    return grid, reader(grid)

  def corrupt(self, key: jax.Array, latent_BLD: jax.Array) -> Corrupted:
    """x_t at a time t of each example, spread evenly over the batch; targets are velocities."""
    time_key, noise_key = jax.random.split(key)
    normal = (self.times_mean, self.times_std) if self.times == "logit_normal" else None
    t_B = self._shifted(spread_times(time_key, latent_BLD.shape[0], normal))
    noise = jax.random.normal(noise_key, latent_BLD.shape)
    t = t_B[:, None, None]
    weights = jnp.ones(latent_BLD.shape[:2], jnp.float32)
    return Corrupted((1 - t) * latent_BLD + t * noise, noise - latent_BLD, weights, t_B)

  def loss(self, prediction: jax.Array, corrupted: Corrupted) -> Loss:
    """Mean square over channels."""
    values = jnp.mean(jnp.square(prediction - corrupted.targets), -1)
    return Loss(values, corrupted.weights, {})


def spread_times(key: jax.Array, batch: int, normal: tuple[float, float] | None) -> jax.Array:
  """Times in (0, 1) spread evenly over a batch, float32 [B]: uniform, or with a logit that is
  normal of this mean and deviation.
  """
  shift_key, order_key = jax.random.split(key)
  even_B = (jax.random.uniform(shift_key) + jnp.arange(batch) / batch) % 1
  t_B = jax.random.permutation(order_key, even_B)
  if normal is None:
    return t_B
  inner = jnp.clip(t_B, 1e-5, 1 - 1e-5)
  return jax.nn.sigmoid(normal[0] + normal[1] * jax.scipy.special.ndtri(inner))


def reader(grid: _solvers.Grid) -> _solvers.Reader:
  """(velocity, x, index) -> Said."""
  u = jnp.asarray(grid.noise, jnp.float32)
  return lambda v, x, i: _solvers.Said(x - u[i] * v, x + (1 - u[i]) * v)
