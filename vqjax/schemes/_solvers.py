"""Solvers of Gaussian diffusions, all in one pair of coordinates: every Gaussian path
x_t = α x_0 + σ ε is, divided by α + σ, the straight one x = (1 - u) x_0 + u ε at u = σ / (α + σ).

There an Euler step is DDIM's (arXiv 2010.02502, eq. 12) and a flow's (arXiv 2209.03003) alike, and
the probability flow is dx/du = ε̂ - x̂_0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vqjax import checks
from vqjax.errors import UserError
from vqjax.latents import Floats
from vqjax.schemes import _sampling
from vqjax.schemes._draw import Draw
from vqjax.schemes._records import Network

Solver = Literal["euler", "heun", "dpm", "ancestral"]
OPTIONS = {"steps": int, "solver": str, "eta": float, "resample": int}


class Grid(NamedTuple):
  """Where a solver stops, float64 [S + 1] from noise to data.

  noise: u, decreasing; the last is 0 for sampling.
  times: what the network is told at each stop, [S + 1] or of several numbers [S + 1, n].
  scale: α + σ, by which the network's input is this one's x times.
  least: the smallest noise at which the network was trained.
  """

  noise: np.ndarray
  times: np.ndarray
  scale: np.ndarray
  least: float


class Said(NamedTuple):
  """What a prediction means, [B, L, D] each.

  data, noise: x̂_0 and ε̂.
  spread: of ancestral steps, log of the deviation over the posterior's own; None is 0.
  """

  data: jax.Array
  noise: jax.Array
  spread: jax.Array | None = None


# (prediction, x in the network's scale, index of the grid, which may be traced) -> what it means.
Reader = Callable[[jax.Array, jax.Array, Any], Said]


class Chosen(NamedTuple):
  """Options of sampling, checked; see `check`."""

  steps: int
  solver: str
  eta: float
  resample: int


def check(
  draw: Draw, steps: int, most: int | None, solver: str, eta: float | None, resample: int
) -> Chosen:
  """Raises UserError for an option out of range, or one that draws codes.

  Args:
    most: steps at most.
    eta: share of an ancestral step's noise, 0 to 1; None is 1 for the solver "ancestral", else 0.
  """
  checks.whole("steps", steps, 1, most, "the diffusion's timesteps")
  if solver not in get_args(Solver):
    raise UserError(f"solver: {solver!r} is no solver; take {', '.join(get_args(Solver))}.")
  if eta is not None and not (checks.is_real(eta) and 0 <= eta <= 1):
    raise UserError(f"eta: {eta!r} is no number from 0 to 1, the share of fresh noise.")
  if eta and solver not in ("euler", "ancestral"):
    raise UserError(f"eta: {eta!r} is no option of the solver {solver!r}; take euler.")
  checks.whole("resample", resample, 1)
  for name in ("top_k", "top_p"):
    if getattr(draw, name) is not None:
      raise UserError(f"{name}: chooses among codes, and this prior draws floats; leave it out.")
  eta = float(solver == "ancestral") if eta is None else float(eta)
  return Chosen(steps, "euler" if solver == "ancestral" else solver, eta, resample)


def follow(
  key: jax.Array,
  network: Network,
  latent_BLD: jax.Array,
  known_BL: jax.Array,
  grid: Grid,
  read: Reader,
  chosen: Chosen,
  temperature: float,
  trajectory: bool = False,
) -> Any:
  """Draws what is not known by following the grid.

  Known vectors are shown at every noise as the path has them, with noise of their own. With
  `resample` above 1 each step is undone by fresh noise and done again so often, which lets what is
  drawn agree with what is known (arXiv 2201.09865).

  Args:
    temperature: of all noise.
  """
  batch, keys_B = latent_BLD.shape[0], _sampling.example_keys(key, latent_BLD.shape[0])
  latent_BLD, known = latent_BLD.astype(jnp.float32), known_BL[..., None]
  noise = lambda index: (
    temperature * _sampling.normal(_sampling.fold(keys_B, index), latent_BLD.shape[1:])
  )
  table = _Steps.of(grid, chosen)
  u, scale, times = (jnp.asarray(x, jnp.float32) for x in (grid.noise, grid.scale, grid.times))
  own = noise(0)

  def hold(x: jax.Array, i: Any, fresh: Any = None) -> jax.Array:
    held = own if fresh is None else fresh
    return jnp.where(known, (1 - u[i]) * latent_BLD + u[i] * held, x)

  def look(x: jax.Array, i: Any) -> Said:
    done = _sampling.done(i, chosen.steps)
    inputs = scale[i] * x
    return read(network.full(inputs, _told(times, i, batch), done), inputs, i)

  def advance(carry: tuple, i: jax.Array) -> tuple[tuple, jax.Array | None]:
    at = jax.tree.map(lambda column: column[i], table)
    x, before = carry
    for again in range(chosen.resample):
      index = 1 + 3 * (i * chosen.resample + again)
      fresh = noise(index) if chosen.resample > 1 else None
      x = hold(x, i, fresh)
      told = lambda x, i: look(hold(x, i, fresh), i)
      said = told(x, i)
      after = _step(chosen, x, said, before, at, noise(index + 1), told, i)
      if again + 1 < chosen.resample:
        x = at.back * after + at.back_noise * noise(index + 2)
    shown = lambda x: jnp.where(known, latent_BLD, x)
    return (shown(after), said.data), shown(scale[i + 1] * after) if trajectory else None

  # The first stop of a path that does not end in pure noise holds standard noise all the same. It
  # is the same for any number of steps.
  start = hold(own / scale[0], 0)
  (out, _), path = lax.scan(advance, (start, jnp.zeros_like(start)), jnp.arange(chosen.steps))
  return (out, path) if trajectory else out


def _told(times: jax.Array, i: Any, batch: int) -> jax.Array:
  """What the network is told at stop i, the same for all examples."""
  return jnp.broadcast_to(times[i][None], (batch, *times.shape[1:]))


def _step(
  chosen: Chosen,
  x: jax.Array,
  said: Said,
  before: jax.Array,
  at: _Steps,
  noise: jax.Array,
  look: Callable[[jax.Array, Any], Said],
  i: jax.Array,
) -> jax.Array:
  """x at the next stop of the grid."""
  if chosen.solver == "dpm":  # DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2)
    return at.keep * x + at.gain * (said.data + at.extrapolate * (said.data - before))
  out = at.data * said.data + at.direction * said.noise
  if chosen.solver == "heun":
    there = look(out, i + 1)
    slope = 0.5 * (said.noise - said.data + there.noise - there.data)
    return jnp.where(at.correct, x + at.data_gap * slope, out)
  if not chosen.eta:
    return out
  spread = 1.0 if said.spread is None else jnp.exp(said.spread)
  return out + at.fresh * spread * noise


class _Steps(NamedTuple):
  """Coefficients of the step from each stop to the next, float32 [S]."""

  data: Any
  direction: Any
  fresh: Any
  data_gap: Any
  correct: Any
  keep: Any
  gain: Any
  extrapolate: Any
  back: Any
  back_noise: Any

  @classmethod
  def of(cls, grid: Grid, chosen: Chosen) -> _Steps:
    u, w = grid.noise[:-1], grid.noise[1:]
    forward, added, posterior = transition(u, w)
    fresh = chosen.eta * posterior
    with np.errstate(divide="ignore", invalid="ignore"):
      half_logsnr = np.log1p(-grid.noise) - np.log(grid.noise)  # λ = log α/σ
      h = np.diff(half_logsnr)
      ratio = np.concatenate([[np.inf], h[:-1] / h[1:]])
      # Of first order at the ends, where λ is infinite.
      extrapolate = np.where(np.isfinite(h) & np.isfinite(ratio), 0.5 / ratio, 0.0)
    columns = cls(
      data=1 - w,
      direction=np.sqrt(np.maximum(w**2 - fresh**2, 0)),
      fresh=fresh,
      data_gap=w - u,
      correct=w >= grid.least,
      keep=w / u,
      gain=(1 - w) * -np.expm1(-h),
      extrapolate=extrapolate,
      back=forward,
      back_noise=added,
    )
    dtype = lambda x: x if x.dtype == bool else x.astype(np.float32)
    return cls(*(jnp.asarray(dtype(np.asarray(x))) for x in columns))


def transition(u: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """From noise w to more noise u on the straight path: what is kept, the deviation of what is
  added, and that of the posterior of x_w given x_u and x_0 (DDIM's σ at η = 1).
  """
  kept = (1 - u) / (1 - w)
  added = np.sqrt(np.maximum(u**2 - (kept * w) ** 2, 0))
  return kept, added, added * w / u


def nats(
  key: jax.Array,
  network: Network,
  latent_BLD: jax.Array,
  grid: Grid,
  read: Callable[[jax.Array, jax.Array, Any], Said],
  latent: Floats,
) -> jax.Array:
  """-log p per position, of the latents before they were normalised, float32 [B, L], by the
  probability-flow ODE (arXiv 2011.13456, eq. 39) with Heun's method; the divergence is estimated by
  Hutchinson's trick with one probe of ±1.

  The grid runs from noise to data, as for sampling; a last stop of noise u > 0 takes the data for
  x at that noise.
  """
  batch, _, width = latent_BLD.shape
  probe = jax.random.rademacher(key, latent_BLD.shape, jnp.float32)
  u, scale, times = (
    jnp.asarray(np.ascontiguousarray(x[::-1]), jnp.float32)
    for x in (grid.noise, grid.scale, grid.times)
  )
  last = len(grid.noise) - 1

  def slope(x: jax.Array, i: Any) -> tuple[jax.Array, jax.Array]:
    def velocity(x: jax.Array) -> jax.Array:
      inputs = scale[i] * x
      said = read(network.full(inputs, _told(times, i, batch)), inputs, last - i)
      return said.noise - said.data

    out, pull = jax.vjp(velocity, x)
    return out, jnp.sum(probe * pull(probe)[0], -1)

  def advance(carry: tuple, i: jax.Array) -> tuple[tuple, None]:
    x, total = carry
    step = u[i + 1] - u[i]
    here, spread_here = slope(x, i)
    there, spread_there = slope(x + step * here, i + 1)
    x = x + 0.5 * step * (here + there)
    return (x, total + 0.5 * step * (spread_here + spread_there)), None

  start = latent_BLD.astype(jnp.float32) / scale[0]
  zeros = jnp.zeros(latent_BLD.shape[:2], jnp.float32)
  (x, divergence), _ = lax.scan(advance, (start, zeros), jnp.arange(last))
  # The end is standard normal in the network's scale.
  end = scale[last] * x
  constant = 0.5 * math.log(2 * math.pi) - jnp.log(scale[last]) + jnp.log(scale[0])
  normalised = jnp.sum(0.5 * jnp.square(end) + constant, -1) - divergence
  return normalised + float(np.log(latent.std).sum())
