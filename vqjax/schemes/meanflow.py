"""Mean flows (arXiv 2505.13447): average velocities, by which floats are drawn in one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.latents import Floats
from vqjax.schemes import Loss, Network, _over_floats, _solvers, flow


@dataclasses.dataclass(frozen=True)
class Scheme(_over_floats.OverFloats):
  """The network is told two times r <= t and predicts the average velocity of the straight paths
  between them, u(x_t, r, t) = (x_t - x_r) / (t - r) along the flow; at r = t that is the velocity.

  Trained by the identity u = v - (t - r) du/dt (eq. 6), whose derivative is taken through the
  network in forward mode; cuDNN's attention has none, so on GPUs the network's dtype is float32.

  Fields:
    apart: share of the examples whose r lies before t; the others learn the velocity.
    times_mean, times_std: of the normal logit of times.
    adaptive: the square error of an example counts by the power -adaptive of itself (eq. 22): 0 is
      the plain mean square, 1 the paper's.
    likelihood_steps: of Heun's method, two calls of network and gradient each.
  """

  latent: Floats = fields.program()
  apart: float = 0.25
  times_mean: float = -0.4
  times_std: float = 1.0
  adaptive: float = 1.0
  likelihood_steps: int = 24
  times_told: ClassVar[int] = 2
  usual: ClassVar[tuple[int, str]] = (1, "euler")

  def __post_init__(self) -> None:
    checks.within(self, "apart", at_least=0, at_most=1)
    checks.within(self, "times_std", above=0)
    checks.within(self, "times_mean")
    checks.within(self, "adaptive", at_least=0)
    checks.positive(self, "likelihood_steps")

  def path(self, chosen: _solvers.Chosen) -> tuple[_solvers.Grid, _solvers.Reader]:
    """Even times; what is told are each stop's and the next one's."""
    if chosen.solver != "euler":
      raise UserError(
        f"solver: {chosen.solver!r} is for velocities, and this prior has their averages; take "
        "euler."
      )
    if chosen.eta:
      raise UserError(
        "solver, eta: fresh noise needs velocities, and this prior has their averages; take euler "
        "without eta, or resample=2 for noise."
      )
    return self._path(chosen.steps, lambda times: np.append(times[1:], 0.0))

  def likelihood_path(self) -> tuple[_solvers.Grid, _solvers.Reader]:
    """Of the velocity: each time is told twice."""
    return self._path(self.likelihood_steps, lambda times: times)

  def _path(
    self, steps: int, earlier: Callable[[np.ndarray], np.ndarray]
  ) -> tuple[_solvers.Grid, _solvers.Reader]:
    times = np.linspace(1, 0, steps + 1)
    told = np.stack([earlier(times), times], -1)
    grid = _solvers.Grid(times, told, np.ones_like(times), 0.0)
    return grid, flow.reader(grid)

  def objective(self, key: jax.Array, network: Network, latent_BLD: jax.Array) -> Loss:
    """Square error from the identity's target, which is a constant (algorithm 1); "square" is the
    error as it is, averaged over the example.
    """
    keys = jax.random.split(key, 4)
    batch, normal = latent_BLD.shape[0], (self.times_mean, self.times_std)
    one_B, other_B = (flow.spread_times(k, batch, normal) for k in keys[:2])
    apart_B = jax.random.uniform(keys[2], (batch,)) < self.apart
    t_B = jnp.maximum(one_B, other_B)
    r_B = jnp.where(apart_B, jnp.minimum(one_B, other_B), t_B)
    noise = jax.random.normal(keys[3], latent_BLD.shape)
    t, velocity = t_B[:, None, None], noise - latent_BLD
    x = (1 - t) * latent_BLD + t * noise
    average = lambda x, r_B, t_B: network.full(x, jnp.stack([r_B, t_B], -1))
    zeros, ones = jnp.zeros_like(r_B), jnp.ones_like(t_B)
    said, along = jax.jvp(average, (x, r_B, t_B), (velocity, zeros, ones))
    target = jax.lax.stop_gradient(velocity - (t_B - r_B)[:, None, None] * along)
    square_BL = jnp.mean(jnp.square(said - target), -1)
    square_B = jnp.mean(square_BL, -1, keepdims=True)
    scale = jax.lax.stop_gradient((square_B + 1e-3) ** -self.adaptive)
    whole = jnp.broadcast_to(square_B, square_BL.shape)
    return Loss(scale * square_BL, jnp.ones(square_BL.shape, jnp.float32), {"square": whole})
