"""Classifier-free guidance (arXiv 2207.12598): a network on a doubled batch, seen as a network on
the batch.
"""

from __future__ import annotations

from typing import Literal, get_args

import einops
import jax
import jax.numpy as jnp

from vqjax.schemes import Network

Schedule = Literal["constant", "linear", "cosine"]
SCHEDULES = get_args(Schedule)

_RAMP = {
  "constant": lambda done: jnp.ones_like(done),
  "linear": lambda done: done,
  "cosine": lambda done: 0.5 * (1 - jnp.cos(jnp.pi * done)),
}


def scheduled(scale: float, schedule: Schedule, done: jax.Array | float) -> jax.Array:
  """The scale when a share `done` of the sampling is over; linear and cosine grow from 1 (no
  guidance) to `scale`.
  """
  return 1 + (scale - 1) * _RAMP[schedule](jnp.asarray(done, jnp.float32))


def double(cond_BX: jax.Array, uncond_BX: jax.Array) -> jax.Array:
  """Interleaves to [2B, ...]: rows 2b with the condition, 2b + 1 without, so that a sharded batch
  stays where it is.
  """
  return einops.rearrange([cond_BX, uncond_BX], "two B ... -> (B two) ...")


def guide(logits: jax.Array, scale: jax.Array | float) -> jax.Array:
  """uncond + scale · (cond - uncond), float32 [B, ...], of interleaved logits [2B, ...].

  `scale`: a number or [B].
  """
  cond, uncond = einops.rearrange(logits.astype(jnp.float32), "(B two) ... -> two B ...", two=2)
  scale = jnp.asarray(scale, jnp.float32)
  return uncond + scale.reshape(scale.shape + (1,) * (cond.ndim - scale.ndim)) * (cond - uncond)


def guided(
  doubled: Network, scale: float, schedule: Schedule = "constant", *, length: int
) -> Network:
  """The guided network on B examples, of a network on 2B that has the condition in even rows only
  (see `double`).

  Args:
    doubled: functions of 2B rows. Its cache stays doubled.
    scale: 1 is the conditional network, 0 the unconditional one, above 1 away from the latter.
    schedule: how the scale moves from the first draw to the last.
    length: L; a causal network knows by it how much is done. The others go by `time_B`.
  """

  def full(ids_BL: jax.Array, time_B: jax.Array | None = None) -> jax.Array:
    time = None if time_B is None else double(time_B, time_B)
    done = jnp.float32(1) if time_B is None else 1 - time_B
    return guide(doubled.full(double(ids_BL, ids_BL), time), scheduled(scale, schedule, done))

  def start() -> tuple[jax.Array, object]:
    logits, cache = doubled.start()
    return guide(logits, scheduled(scale, schedule, 0.0)), cache

  def step(ids_B: jax.Array, index: jax.Array, cache: object) -> tuple[jax.Array, object]:
    logits, cache = doubled.step(double(ids_B, ids_B), index, cache)
    return guide(logits, scheduled(scale, schedule, (index + 1) / length)), cache

  return Network(full, start if doubled.start else None, step if doubled.step else None)
