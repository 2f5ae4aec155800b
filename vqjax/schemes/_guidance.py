"""Classifier-free guidance (arXiv 2207.12598): a network on a doubled batch, seen as a network on
the batch.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args

import einops
import jax
import jax.numpy as jnp

from vqjax import checks
from vqjax.errors import UserError
from vqjax.schemes._options import traced
from vqjax.schemes._records import Network

Schedule = Literal["constant", "linear", "cosine"]

_RAMP = {
  "constant": lambda done: jnp.ones_like(done),
  "linear": lambda done: done,
  "cosine": lambda done: 0.5 * (1 - jnp.cos(jnp.pi * done)),
}


# What users may say of it.
OPTIONS = {
  "guidance": float,
  "guidance_schedule": str,
  "guidance_first": float,
  "guidance_last": float,
}


@traced(scale=1, first=None, last=None)
@dataclasses.dataclass(frozen=True)
class Guidance:
  """How much a condition is strengthened. A pytree of its numbers, see `traced`.

  Fields:
    scale: 1 is the conditional network, 0 the unconditional one, above 1 away from the latter.
    schedule: how the scale moves over the draws: "linear" and "cosine" grow from 1 (none) at the
      first draw to `scale` at the last.
    first, last: between which shares of the draws, from 0 to 1, there is guidance at all (arXiv
      2404.07724).

  Raises UserError for a scale that is no finite number, an unknown schedule or an empty interval.
  """

  scale: float = 1.0
  schedule: Schedule = "constant"
  first: float = 0.0
  last: float = 1.0

  @classmethod
  def taken(cls, options: dict[str, Any]) -> Guidance:
    """As users say it, taken out of `options`."""
    field = lambda name: name.removeprefix("guidance").removeprefix("_") or "scale"
    return cls(**{field(name): options.pop(name) for name in OPTIONS if name in options})

  def __post_init__(self) -> None:
    if not checks.is_real(self.scale) or not math.isfinite(self.scale):
      raise UserError(f"guidance: {self.scale!r} is no finite number; 1 is none, 2 to 4 are usual.")
    if self.schedule not in get_args(Schedule):
      known = ", ".join(get_args(Schedule))
      raise UserError(f"guidance_schedule: {self.schedule!r} is none of {known}.")
    ends = (self.first, self.last)
    if not all(map(checks.is_real, ends)) or not 0 <= self.first <= self.last <= 1:
      raise UserError(
        f"guidance_first, guidance_last: {self.first!r} to {self.last!r} is no stretch of 0 to 1, "
        "the share of the draws that is done."
      )

  @property
  def none(self) -> bool:
    """Whether the network is left as it is."""
    return checks.is_real(self.scale) and self.scale == 1

  def at(self, done: jax.Array | float) -> jax.Array:
    """The scale, float32, at a draw from the first (`done` 0) to the last (1)."""
    done = jnp.asarray(done, jnp.float32)
    ramp = _RAMP[self.schedule](done)
    ramp = jnp.where((self.first <= done) & (done <= self.last), ramp, 0.0)
    # Not 1 + ramp · (scale - 1), which rounds: the last draw has the very scale.
    return (1 - ramp) + ramp * jnp.asarray(self.scale, jnp.float32)


def double(cond_BX: jax.Array, uncond_BX: jax.Array) -> jax.Array:
  """Interleaves to [2B, ...]: rows 2b with the condition, 2b + 1 without, so that a sharded batch
  stays where it is.
  """
  return einops.rearrange([cond_BX, uncond_BX], "two B ... -> (B two) ...")


def guide(
  prediction: jax.Array, scale: jax.Array | float, channels: int | None = None
) -> jax.Array:
  """uncond + scale · (cond - uncond), float32 [B, ...], of interleaved predictions [2B, ...].

  Args:
    scale: a number or [B].
    channels: how many of the last axis, the first ones; the others are `cond`'s. None is all.
  """
  cond, uncond = einops.rearrange(prediction.astype(jnp.float32), "(B two) ... -> two B ...", two=2)
  scale = jnp.asarray(scale, jnp.float32)
  moved = uncond + scale.reshape(scale.shape + (1,) * (cond.ndim - scale.ndim)) * (cond - uncond)
  if channels is None or channels >= cond.shape[-1]:
    return moved
  return jnp.concatenate([moved[..., :channels], cond[..., channels:]], axis=-1)


def guided(
  doubled: Network, guidance: Guidance, *, steps: int, channels: int | None = None
) -> Network:
  """The guided network on B examples, of a network on 2B that has the condition in even rows only
  (see `double`).

  Args:
    doubled: functions of 2B rows. Its cache stays doubled.
    guidance: of `full` the scale follows `done` (without it, the full scale holds); of `start` and
      `step` it follows the step: step 0 is the first draw and S - 1 the last.
    steps: S.
    channels: of a prediction that are moved, see `guide`.
  """

  def full(
    inputs: jax.Array, time_B: jax.Array | None = None, done: jax.Array | None = None
  ) -> jax.Array:
    time = None if time_B is None else double(time_B, time_B)
    scale = guidance.at(1 if done is None else done)
    return guide(doubled.full(double(inputs, inputs), time), scale, channels)

  def share(index: jax.Array | int) -> jax.Array | float:
    return index / (steps - 1) if steps > 1 else 1.0

  def start() -> tuple[jax.Array, object]:
    prediction, cache = doubled.start()
    return guide(prediction, guidance.at(share(0))), cache

  def step(inputs_BJ: jax.Array, index: jax.Array, cache: object) -> tuple[jax.Array, object]:
    prediction, cache = doubled.step(double(inputs_BJ, inputs_BJ), index, cache)
    return guide(prediction, guidance.at(share(index + 1))), cache

  return Network(full, start if doubled.start else None, step if doubled.step else None)
