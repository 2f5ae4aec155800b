"""The simplest diffusion over codes: learn to take back a little random replacement; start from
noise and repeat.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from vqjax import fields
from vqjax.errors import UserError
from vqjax.schemes import Corrupted, Network, _sampling


@dataclasses.dataclass(frozen=True)
class Scheme:
  """Replaces a random share of the codes by uniform ones (x_a) and a fixed share more (x_b);
  predicts x_a from x_b.

  The network is told no time. It is a one-step relative of SUNDAE (arXiv 2112.06749).

  Fields:
    extra_share: of the codes replaced between x_a and x_b, in (0, 1].
    books: of a position's own codebook alone are the codes that replace another.
  """

  num_codes: int = fields.program()
  books: int = fields.program(1)
  extra_share: float = 0.1
  extra_ids: ClassVar[int] = 0
  causal: ClassVar[bool] = False
  timed: ClassVar[bool] = False

  def __post_init__(self) -> None:
    if not 0 < self.extra_share <= 1:
      raise UserError(f"extra_share: {self.extra_share} is outside (0, 1].")

  def corrupt(self, key: jax.Array, ids_BL: jax.Array) -> Corrupted:
    """Inputs are x_b, targets x_a; the share replaced in x_a is uniform in [0, 1) per example."""
    share_key, first_key, second_key = jax.random.split(key, 3)
    share_B1 = jax.random.uniform(share_key, (ids_BL.shape[0], 1))
    first_BL = self._replace(first_key, ids_BL, share_B1)
    second_BL = self._replace(second_key, first_BL, jnp.full_like(share_B1, self.extra_share))
    return Corrupted(second_BL, first_BL, jnp.ones(ids_BL.shape, jnp.float32))

  def _replace(self, key: jax.Array, ids_BL: jax.Array, share_B1: jax.Array) -> jax.Array:
    place_key, code_key = jax.random.split(key)
    replaced = jax.random.uniform(place_key, ids_BL.shape) < share_B1
    noise = jax.random.randint(code_key, ids_BL.shape, 0, self.num_codes // self.books)
    return jnp.where(replaced, noise + self._first_of_book(ids_BL.shape[1])[None], ids_BL).astype(
      jnp.int32
    )

  def _first_of_book(self, length: int) -> jax.Array:
    """The smallest code of each position's book, int32 [L]."""
    return jnp.arange(length) % self.books * (self.num_codes // self.books)

  def loss(self, logits_BLV: jax.Array, corrupted: Corrupted) -> tuple[jax.Array, jax.Array]:
    """Cross entropy of x_a: nats [B, L], weights [B, L] of 1."""
    return -_sampling.log_prob(
      logits_BLV[..., : self.num_codes], corrupted.targets_BL
    ), corrupted.weights_BL

  def sample(
    self,
    key: jax.Array,
    network: Network,
    ids_BL: jax.Array,
    known_BL: jax.Array,
    *,
    steps: int = 64,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    trajectory: bool = False,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Starts from uniform codes and draws every unknown code anew `steps` times, given all codes of
    the last time.

    Args:
      key: one key, or one per example [B].
      network: `full` is called with the share of steps still to go as `time_B`.
      ids_BL, known_BL: int32 and bool; known codes are held throughout.
      steps: network calls.
      temperature, top_k, top_p: see `filter_logits`. The network finds nine codes of ten right as
        they are, so the temperature decides how readily a code changes: at 0 only where another is
        the most probable.
      trajectory: return (ids_BL, ids_SBL) with the ids after each step.

    Raises:
      UserError: an option out of range.
    """
    _sampling.check_options(self.num_codes, temperature, top_k, top_p, steps)
    (batch, length), ids_BL = ids_BL.shape, ids_BL.astype(jnp.int32)
    keys_B = _sampling.example_keys(key, batch)

    def advance(now_BL: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
      logits = network.full(now_BL, jnp.full((batch,), 1 - i / steps))[..., : self.num_codes]
      logits = _sampling.filter_logits(logits, temperature, top_k, top_p)
      now_BL = jnp.where(known_BL, ids_BL, _sampling.draw(_sampling.fold(keys_B, i), logits))
      return now_BL, now_BL if trajectory else None

    uniform = jnp.zeros((batch, length, self.num_codes // self.books), jnp.float32)
    noise_BL = (
      _sampling.draw(_sampling.fold(keys_B, steps), uniform) + self._first_of_book(length)[None]
    )
    start_BL = jnp.where(known_BL, ids_BL, noise_BL)
    out_BL, ids_SBL = lax.scan(advance, start_BL, jnp.arange(steps))
    return (out_BL, ids_SBL) if trajectory else out_BL
