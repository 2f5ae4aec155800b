"""Mean flows (arXiv 2505.13447): average velocities, by which floats are drawn in one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.latents import Floats
from vqjax.schemes import Draw, Loss, Network, _options, _solvers, flow


@dataclasses.dataclass(frozen=True)
class Scheme:
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
  takes: ClassVar[tuple[str, ...]] = ("floats",)
  times_told: ClassVar[int] = 2
  extra_ids: ClassVar[int] = 0
  causal: ClassVar[bool] = False
  timed: ClassVar[bool] = True
  exact: ClassVar[bool] = False
  options: ClassVar[Mapping[str, type]] = _solvers.OPTIONS

  def __post_init__(self) -> None:
    checks.share(self, "apart")
    checks.within(self, "times_std", above=0)
    checks.within(self, "times_mean")
    checks.within(self, "adaptive", at_least=0)
    checks.positive(self, "likelihood_steps")

  @property
  def outputs(self) -> int:
    return self.latent.width

  def _grid(self, steps: int, average: bool) -> _solvers.Grid:
    """Even times; told with `average` are each stop's and the next one's, else each twice."""
    times = np.linspace(1, 0, steps + 1)
    earlier = np.append(times[1:], 0.0) if average else times
    return _solvers.Grid(times, np.stack([earlier, times], -1), np.ones_like(times), 0.0)

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

  def bound(self, key: jax.Array, network: Network, latent_BLD: jax.Array) -> jax.Array:
    """-log p of the latents before they were normalised, nats [B, L]; see `_solvers.nats`."""
    grid = self._grid(self.likelihood_steps, average=False)
    return _solvers.nats(key, network, latent_BLD, grid, flow.reader(grid), self.latent)

  plan = _options.no_plan

  def sample(
    self,
    key: jax.Array,
    network: Network,
    latent_BLD: jax.Array,
    known_BL: jax.Array,
    draw: Draw = Draw(),
    *,
    steps: int = 1,
    solver: _solvers.Solver = "euler",
    eta: float | None = None,
    resample: int = 1,
    trajectory: bool = False,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Follows average velocities from noise to data; as `flow.Scheme.sample`, but for the solvers:
    "euler", and "ancestral" with fresh noise.

    Raises:
      UserError: an option out of range.
    """
    chosen = _solvers.check(draw, steps, None, solver, eta, resample)
    if chosen.solver != "euler":
      raise UserError(
        f"solver: {solver!r} is for velocities, and this prior has their averages; take euler."
      )
    grid = self._grid(steps, average=True)
    read, heat = flow.reader(grid), draw.temperature
    return _solvers.sample(key, network, latent_BLD, known_BL, grid, read, chosen, heat, trajectory)
