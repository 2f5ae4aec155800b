"""Discrete diffusion over codes (D3PM, arXiv 2107.03006; VQ-Diffusion, arXiv 2111.14822): undo
noise step by step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.nn import losses
from vqjax.schemes import Corrupted, Draw, Loss, Network, _kernels, _sampling


@dataclasses.dataclass(frozen=True)
class Scheme:
  """The network sees codes at time t/T and predicts x_0; steps back go through the exact posterior
  given x_0.

  Fields:
    kernel: "uniform" redraws codes, "absorbing" masks them, "mask_and_replace" does both. The mask
      is the id K, the number of codes.
    schedule: how much of x_0 is kept at time t, see `_kernels.transitions`.
    timesteps: T.
    mask_share: of the codes lost at T, the share that is masked ("mask_and_replace" only; 0.9 in
      VQ-Diffusion).
    auxiliary: weight of the cross entropy of x_0 beside the bound. The papers weigh it against one
      of the T terms of the bound (0.001 and 0.0005), here it stands against their sum.
  """

  latent: Codes = fields.program()
  kernel: _kernels.Kernel = "mask_and_replace"
  schedule: _kernels.Schedule = "linear"
  timesteps: int = 100
  mask_share: float = 0.9
  auxiliary: float = 0.1
  causal: ClassVar[bool] = False
  timed: ClassVar[bool] = True
  exact: ClassVar[bool] = False
  options: ClassVar[Mapping[str, type]] = {"steps": int}

  def __post_init__(self) -> None:
    if self.timesteps < 1:
      raise UserError(f"timesteps: {self.timesteps} is too few; use at least 1.")
    if not 0 < self.mask_share < 1:
      raise UserError(
        f"mask_share: {self.mask_share} is outside (0, 1); for 0 and 1 use kernel uniform and "
        "absorbing."
      )

  @property
  def extra_ids(self) -> int:
    """The uniform kernel needs no mask id."""
    return 0 if self.kernel == "uniform" else 1

  @property
  def _mask_share(self) -> float:
    return {"uniform": 0.0, "absorbing": 1.0, "mask_and_replace": self.mask_share}[self.kernel]

  def _transitions(self, times: np.ndarray) -> _kernels.Transition:
    return _kernels.transitions(times, self.timesteps, self.schedule, self._mask_share)

  def corrupt(self, key: jax.Array, latent_BL: jax.Array) -> Corrupted:
    """x_t at a time t that is uniform on 1 to T for each example; `time_B` is t/T and `extra` is t,
    int32 [B].
    """
    time_key, noise_key = jax.random.split(key)
    t_B = jax.random.randint(time_key, latent_BL.shape[:1], 1, self.timesteps + 1)
    return self._corrupt_at(noise_key, latent_BL, t_B)

  def _corrupt_at(self, key: jax.Array, ids_BL: jax.Array, t_B: jax.Array) -> Corrupted:
    rates_B = self._transitions(np.arange(self.timesteps + 1)).at(t_B - 1).late
    noisy_BL = _kernels.corrupt(key, ids_BL, rates_B, self.latent.size)
    weights_BL = jnp.ones(ids_BL.shape, jnp.float32)
    return Corrupted(noisy_BL, ids_BL, weights_BL, t_B / self.timesteps, t_B)

  def loss(self, prediction: jax.Array, corrupted: Corrupted) -> Loss:
    """T times the bound's term at t plus the weighted cross entropy of x_0, in nats; every position
    counts.
    """
    logits_BLK = prediction[..., : self.latent.size]
    cross_entropy = -losses.log_prob(logits_BLK, corrupted.targets)
    return Loss(
      self.timesteps * self._term(logits_BLK, corrupted) + self.auxiliary * cross_entropy,
      corrupted.weights,
      _sampling.accuracy(logits_BLK, corrupted.targets),
    )

  def _term(self, logits_BLK: jax.Array, corrupted: Corrupted) -> jax.Array:
    """KL of p(x_{t-1} | x_t) from q(x_{t-1} | x_t, x_0), [B, L] (D3PM, eq. 1); at t = 1 it is
    -log p(x_0 | x_1).
    """
    transition_B = self._transitions(np.arange(self.timesteps + 1)).at(corrupted.extra - 1)
    shown_BL = corrupted.inputs
    nats_BL = _kernels.divergence(logits_BLK, shown_BL, corrupted.targets, transition_B)
    return jnp.where(self._certain(shown_BL), 0.0, nats_BL)

  def _certain(self, noisy_BL: jax.Array) -> jax.Array:
    """Where x_t is x_0, whatever the network says: what the absorbing kernel left visible."""
    return (noisy_BL < self.latent.size) & (self.kernel == "absorbing")

  def bound(self, key: jax.Array, network: Network, latent_BL: jax.Array) -> jax.Array:
    """An estimate of nats [B, L] whose mean over keys bounds -log p in total (D3PM, eq. 1).

    Nothing is kept at T, so the prior's term is 0 and the bound is the sum of T terms.

    Args:
      key: noise; one draw of x_t per time.
      network: `full` is called once per time.
      latent_BL: x_0.
    """

    def add(total_BL: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
      times_B = jnp.full(latent_BL.shape[0], t)
      corrupted = self._corrupt_at(jax.random.fold_in(key, t), latent_BL, times_B)
      logits_BLK = network.full(corrupted.inputs, corrupted.time_B)[..., : self.latent.size]
      return total_BL + self._term(logits_BLK, corrupted), None

    start = jnp.zeros(latent_BL.shape, jnp.float32)
    return lax.scan(add, start, jnp.arange(1, self.timesteps + 1))[0]

  def sample(
    self,
    key: jax.Array,
    network: Network,
    latent_BL: jax.Array,
    known_BL: jax.Array,
    draw: Draw = Draw(),
    *,
    steps: int | None = None,
    trajectory: bool = False,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Draws x_T and steps back to x_0, every unknown code at once. Known codes are shown clean at
    every time.

    Args:
      key: one key, or one per example [B].
      network: `full` is called with t/T as `time_B`.
      latent_BL, known_BL: int32 and bool.
      draw: of the beliefs about x_0; its `top_p` is VQ-Diffusion's truncation.
      steps: network calls, at evenly spaced times (by the exact posterior over each stride); None
        is T.
      trajectory: return (latent_BL, latent_SBL) with the codes after each step; K stands for
        "masked".

    Raises:
      UserError: an option out of range.
    """
    steps = self.timesteps if steps is None else steps
    checks.whole("steps", steps, 1, self.timesteps, "the diffusion's timesteps")
    (batch, length), ids_BL = latent_BL.shape, latent_BL.astype(jnp.int32)
    keys_B = _sampling.example_keys(key, batch)
    times = np.round(np.linspace(0, self.timesteps, steps + 1)).astype(int)
    table = self._transitions(times)

    def advance(noisy_BL: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
      time_B = jnp.full((batch,), jnp.asarray(times)[i + 1] / self.timesteps)
      logits_BLK = network.full(noisy_BL, time_B, _sampling.done(steps - 1 - i, steps))
      logits_BLK = draw.filter(logits_BLK[..., : self.latent.size])
      rates_B = jax.tree.map(lambda x: jnp.full((batch,), x), table.at(i))
      back = _kernels.reverse(logits_BLK, noisy_BL, rates_B)
      drawn_BL = _sampling.draw(_sampling.fold(keys_B, i), back)
      drawn_BL = jnp.where(self._certain(noisy_BL), noisy_BL, drawn_BL)
      drawn_BL = jnp.where(known_BL, ids_BL, drawn_BL)
      return drawn_BL, drawn_BL if trajectory else None

    prior_K = jnp.log(_kernels.prior(self._mask_share, self.latent.size))
    prior_BLK = jnp.broadcast_to(prior_K[None, None], (batch, length, len(prior_K)))
    start_BL = _sampling.draw(_sampling.fold(keys_B, steps), prior_BLK)
    start_BL = jnp.where(known_BL, ids_BL, start_BL)
    out_BL, ids_SBL = lax.scan(advance, start_BL, jnp.arange(steps)[::-1])
    return (out_BL, ids_SBL) if trajectory else out_BL
