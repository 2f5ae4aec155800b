"""What schemes over codes share: keys per example, Gumbel-max draws, the cross entropy, a causal
network without a cache.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vqjax.latents import Codes
from vqjax.nn import losses
from vqjax.schemes._records import Corrupted, Loss


def example_keys(key: jax.Array, batch: int) -> jax.Array:
  """One threefry key per example, [batch]: one key with the example's index folded in, or a key
  array [batch] as it is.

  Example b then draws the same whatever the batch size, and permuting keys and inputs permutes the
  samples. Keys of other kinds are converted, because an rbg key cannot be mapped over: under vmap
  all examples share one stream.
  """
  keys = jax.random.wrap_key_data(jax.random.key_data(key)[..., :2], impl="threefry2x32")
  if keys.ndim == 0:
    return jax.vmap(jax.random.fold_in, (None, 0))(keys, jnp.arange(batch))
  if keys.shape != (batch,):
    raise ValueError(
      f"key: of shape {keys.shape}; expected one key, or one for each of the {batch} examples."
    )
  return keys


def fold(keys_B: jax.Array, index: jax.Array | int) -> jax.Array:
  """Folds one number into the key of every example."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys_B, index)


def gumbel(keys_B: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Standard Gumbel noise, float32 [B, *shape].

  By default JAX makes it of 23 random bits, so that it ends near 16 and takes few values there:
  of 2^16 codes and more the rare ones would never be drawn. Mode "high" reaches 32.
  """
  return jax.vmap(lambda key: jax.random.gumbel(key, shape, mode="high"))(keys_B)


def normal(keys_B: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Standard normal noise, float32 [B, *shape]."""
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys_B)


def draw(keys_B: jax.Array, logits: jax.Array) -> jax.Array:
  """Draws int32 [B, ...] from filtered logits [B, ..., V], one key per example."""
  return jnp.argmax(logits + gumbel(keys_B, logits.shape[1:]), -1).astype(jnp.int32)


def cross_entropy(logits_BLV: jax.Array, corrupted: Corrupted) -> Loss:
  """Of the targets, in nats."""
  nats_BL = -losses.log_prob(logits_BLV, corrupted.targets)
  return Loss(nats_BL, corrupted.weights, accuracy(logits_BLV, corrupted.targets))


def accuracy(logits_BLV: jax.Array, ids_BL: jax.Array) -> dict[str, jax.Array]:
  """{"accuracy": 1 where the most probable code is the right one, else 0}, float32 [B, L]."""
  return {"accuracy": (jnp.argmax(logits_BLV, -1) == ids_BL).astype(jnp.float32)}


def done(index: jax.Array, steps: int | jax.Array) -> jax.Array:
  """How far draw `index` of `steps` is on the way from the first, 0, to the last, 1; a single one
  is the last. Float32; see `Network`.
  """
  index, last = jnp.asarray(index, jnp.float32), jnp.asarray(steps, jnp.float32) - 1
  return jnp.where(last > 0, jnp.minimum(index / jnp.maximum(last, 1), 1), 1.0)


def uncached(
  full: Callable[..., jax.Array], batch: int, latent: Codes
) -> tuple[Callable, Callable]:
  """(start, step) for a causal network without a cache: all ids are kept, and every step runs
  `full` on them.

  Args:
    full: (ids_BL, time_B) -> logits_BLK, as in Network.
    batch: B.
    latent: the codes.
  """
  places_SJ = jnp.asarray(latent.places)

  def start() -> tuple[jax.Array, jax.Array]:
    ids = latent.blank(batch)
    return of_step(ids, 0), ids

  def of_step(ids_BL: jax.Array, index: jax.Array | int) -> jax.Array:
    return jnp.take(full(ids_BL, None), jnp.maximum(places_SJ[index], 0), axis=1)

  def step(ids_BJ: jax.Array, index: jax.Array, ids_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    places_J = places_SJ[index]
    # Slots where no code stands lie past the end, where nothing is written.
    places_J = jnp.where(places_J < 0, latent.length, places_J)
    ids = ids_BL.at[:, places_J].set(ids_BJ, mode="drop")
    return of_step(ids, index + 1), ids

  return start, step
