"""What schemes over floats share: sampling and likelihood along a path from noise to data."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar

import jax

from vqjax.schemes import _solvers
from vqjax.schemes._draw import Draw
from vqjax.schemes._records import Network


class OverFloats(abc.ABC):
  """A scheme that goes from noise to floats; each adds `latent`, `likelihood_steps`, its training
  and its paths.

  usual: steps and solver where a caller names none.
  most: steps at most, None for any number.
  """

  takes: ClassVar[tuple[str, ...]] = ("floats",)
  extra_ids: ClassVar[int] = 0
  causal: ClassVar[bool] = False
  timed: ClassVar[bool] = True
  exact: ClassVar[bool] = False
  options: ClassVar[Mapping[str, type]] = _solvers.OPTIONS
  usual: ClassVar[tuple[int, str]]

  @property
  def outputs(self) -> int:
    return self.latent.width

  @property
  def most(self) -> int | None:
    return None

  @abc.abstractmethod
  def path(self, chosen: _solvers.Chosen) -> tuple[_solvers.Grid, _solvers.Reader]:
    """To the data, and what a prediction on it means. Raises UserError for options not its own."""

  @abc.abstractmethod
  def likelihood_path(self) -> tuple[_solvers.Grid, _solvers.Reader]:
    """As `path`, of `likelihood_steps` steps."""

  def bound(self, key: jax.Array, network: Network, latent_BLD: jax.Array) -> jax.Array:
    """-log p of the latents before they were normalised, nats [B, L]; see `_solvers.nats`."""
    return _solvers.nats(key, network, latent_BLD, *self.likelihood_path(), self.latent)

  def sample(
    self,
    key: jax.Array,
    network: Network,
    latent_BLD: jax.Array,
    known_BL: jax.Array,
    draw: Draw = Draw(),
    *,
    steps: int | None = None,
    solver: _solvers.Solver | None = None,
    eta: float | None = None,
    resample: int = 1,
    trajectory: bool = False,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Goes from noise to data.

    Args:
      key: one key, or one per example [B].
      network: `full` is called with the time as `time_B`.
      latent_BLD, known_BL: floats and bool.
      draw: its temperature is that of the noise; it may not have `top_k` or `top_p`.
      steps: from noise to data; Heun's have two calls of the network each.
      solver: "euler" (DDIM's of a diffusion, arXiv 2010.02502), "heun", "dpm" (DPM-Solver++ 2M), or
        "ancestral", Euler with fresh noise (DDPM's own of a diffusion).
      eta: share of fresh noise in Euler's steps, as DDIM has it.
      resample: see `_solvers.follow`.
      trajectory: return (latent_BLD, latent_SBLD), x after each step; known vectors stay clean.

    Raises:
      UserError: an option out of range.
    """
    steps, solver = (
      usual if given is None else given for given, usual in zip((steps, solver), self.usual)
    )
    chosen = _solvers.check(draw, steps, self.most, solver, eta, resample)
    path, heat = self.path(chosen), draw.temperature
    return _solvers.follow(key, network, latent_BLD, known_BL, *path, chosen, heat, trajectory)
