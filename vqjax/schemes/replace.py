"""The simplest diffusion over codes: learn to take back a little random replacement; start from
noise and repeat.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from vqjax import checks, fields
from vqjax.latents import Codes
from vqjax.schemes import Corrupted, Draw, Loss, Network, _sampling


@dataclasses.dataclass(frozen=True)
class Scheme:
  """Replaces a random share of the codes by uniform ones (x_a) and a fixed share more (x_b);
  predicts x_a from x_b.

  The network is told no time. It is a one-step relative of SUNDAE (arXiv 2112.06749).

  Fields:
    extra_share: of the codes replaced between x_a and x_b, in (0, 1].
  """

  latent: Codes = fields.program()
  extra_share: float = 0.1
  extra_ids: ClassVar[int] = 0
  causal: ClassVar[bool] = False
  timed: ClassVar[bool] = False
  options: ClassVar[Mapping[str, type]] = {"steps": int}

  def __post_init__(self) -> None:
    checks.within(self, "extra_share", above=0, at_most=1)

  def corrupt(self, key: jax.Array, latent_BL: jax.Array) -> Corrupted:
    """Inputs are x_b, targets x_a; the share replaced in x_a is uniform in [0, 1) per example."""
    share_key, first_key, second_key = jax.random.split(key, 3)
    share_B1 = jax.random.uniform(share_key, (latent_BL.shape[0], 1))
    first_BL = self._replace(first_key, latent_BL, share_B1)
    second_BL = self._replace(second_key, first_BL, jnp.full_like(share_B1, self.extra_share))
    return Corrupted(second_BL, first_BL, jnp.ones(latent_BL.shape, jnp.float32))

  def _replace(self, key: jax.Array, ids_BL: jax.Array, share_B1: jax.Array) -> jax.Array:
    place_key, code_key = jax.random.split(key)
    replaced = jax.random.uniform(place_key, ids_BL.shape) < share_B1
    noise_BL = jax.random.randint(code_key, ids_BL.shape, 0, self.latent.size)
    return jnp.where(replaced, noise_BL, ids_BL).astype(jnp.int32)

  def loss(self, prediction: jax.Array, corrupted: Corrupted) -> Loss:
    """Cross entropy of x_a in nats; every position counts."""
    return _sampling.cross_entropy(prediction[..., : self.latent.size], corrupted)

  def sample(
    self,
    key: jax.Array,
    network: Network,
    latent_BL: jax.Array,
    known_BL: jax.Array,
    draw: Draw = Draw(),
    *,
    steps: int = 64,
    trajectory: bool = False,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Starts from uniform codes and draws every unknown code anew `steps` times, given all codes of
    the last time.

    Args:
      key: one key, or one per example [B].
      network: `full` is called with no time.
      latent_BL, known_BL: int32 and bool; known codes are held throughout.
      draw: the network finds nine codes of ten right as they are, so the temperature decides how
        readily a code changes: at 0 only where another is the most probable.
      steps: network calls.
      trajectory: return (latent_BL, latent_SBL) with the codes after each step.

    Raises:
      UserError: an option out of range.
    """
    checks.whole("steps", steps, 1)
    (batch, length), ids_BL = latent_BL.shape, latent_BL.astype(jnp.int32)
    keys_B = _sampling.example_keys(key, batch)

    def advance(now_BL: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
      logits_BLV = network.full(now_BL, None, _sampling.done(i, steps))
      logits_BLV = draw.filter(logits_BLV[..., : self.latent.size])
      drawn_BL = _sampling.draw(_sampling.fold(keys_B, i), logits_BLV)
      now_BL = jnp.where(known_BL, ids_BL, drawn_BL)
      return now_BL, now_BL if trajectory else None

    uniform = jnp.zeros((batch, length, self.latent.size), jnp.float32)
    noise_BL = _sampling.draw(_sampling.fold(keys_B, steps), uniform)
    start_BL = jnp.where(known_BL, ids_BL, noise_BL)
    out_BL, ids_SBL = lax.scan(advance, start_BL, jnp.arange(steps))
    return (out_BL, ids_SBL) if trajectory else out_BL
