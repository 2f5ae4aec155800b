"""Placing codes: initial values, k-means, revival, and `Book`, a codebook trained by gradients that
can be placed.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax.nn import codebook

Init = Literal["kmeans", "data", "uniform", "normal"]

# The average of code usage that decides which codes are dead spans about 100 steps.
_USAGE_DECAY = 0.99


def initializer(init: Init) -> nn.initializers.Initializer:
  """Values before any data: uniform in ±1/K, or normal with unit expected norm ("normal")."""

  def normal(key, shape, dtype=jnp.float32):
    return jax.random.normal(key, shape, dtype) * shape[-1] ** -0.5

  def uniform(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -1.0 / shape[0], 1.0 / shape[0])

  return normal if init == "normal" else uniform


def from_data(init: Init) -> bool:
  """Whether `init` waits for the first training batch."""
  return init in ("kmeans", "data")


def sample_rows(key: jax.Array, z_ND: jax.Array, size: int) -> jax.Array:
  """`size` random rows of z, one from each of `size` equal strata of the positions: distinct where
  N >= size.
  """
  stratum = jnp.arange(size) + jax.random.uniform(key, (size,))
  return z_ND[jnp.minimum((stratum * (len(z_ND) / size)).astype(jnp.int32), len(z_ND) - 1)]


def data_book(key: jax.Array, z_ND: jax.Array, size: int) -> jax.Array:
  """A codebook [K, D] of rows of z.

  Where there are fewer rows than codes, copies get a little noise.
  """
  pick, noise = jax.random.split(key)
  book_KD = sample_rows(pick, z_ND, size)
  if len(z_ND) >= size:
    return book_KD
  scale = 0.01 * jnp.sqrt(jnp.mean(jnp.square(z_ND)))
  return book_KD + scale * jax.random.normal(noise, book_KD.shape)


def kmeans(key: jax.Array, z_ND: jax.Array, size: int, steps: int = 10) -> jax.Array:
  """A codebook [K, D] by Lloyd's algorithm from `data_book`; a code without positions stays where
  it is.
  """

  def lloyd(_, book_KD):
    counts_K, sums_KD = codebook.counts_and_sums(codebook.nearest(z_ND, book_KD), z_ND, size)
    return jnp.where(counts_K[:, None] > 0, sums_KD / jnp.maximum(counts_K, 1.0)[:, None], book_KD)

  return jax.lax.fori_loop(0, steps, lloyd, data_book(key, z_ND, size))


def revive(
  key: jax.Array, used_K: jax.Array, z_ND: jax.Array, fraction: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Finds the dead codes, those used less than `fraction` of the mean, and random rows of z to take
  their place.

  Returns:
    Which codes are dead [K], a row of z for every code [K, D], and `used_K` with the dead at the
    mean, which gives the revived time to be found.
  """
  mean = jnp.mean(used_K)
  dead_K = used_K < fraction * mean
  return dead_K, sample_rows(key, z_ND, len(used_K)), jnp.where(dead_K, mean, used_K)


def place(init: Init, key: jax.Array, z_ND: jax.Array, size: int) -> jax.Array:
  """The codebook [K, D] that `init` makes of a first batch."""
  return (kmeans if init == "kmeans" else data_book)(key, z_ND, size)


class Book:
  """The codes `base + offset` of a quantizer. Make it in `setup`.

  The optimizer moves `base`; initialisation and revival set the untrained `offset`, because the
  training step applies nothing but gradients to params. In "stats", beside `offset` [K, D]: `used`
  [K], running usage with mean 1, and `initialised`, which whoever imports a codebook sets to True.
  """

  def __init__(self, module: nn.Module, base_KD: jax.Array, *, init: Init, revive: float):
    size = len(base_KD)
    self.module, self.base, self.init, self.fraction = module, base_KD, init, revive
    self.offset = module.variable("stats", "offset", jnp.zeros, base_KD.shape, jnp.float32)
    self.used = module.variable("stats", "used", jnp.ones, (size,), jnp.float32)
    self.initialised = module.variable(
      "stats", "initialised", lambda: jnp.asarray(not from_data(init))
    )

  @property
  def codes(self) -> jax.Array:
    """The codebook in effect, [K, D] float32."""
    return self.base + self.offset.value

  def prepare(self, z_ND: jax.Array) -> None:
    """Before the search of a training step: places the codes at the very first one."""
    if not from_data(self.init) or self.module.is_initializing():
      return
    key = self.module.make_rng("codes")
    base, offset, z_ND = jax.lax.stop_gradient((self.base, self.offset.value, z_ND))
    self.offset.value = jax.lax.cond(
      self.initialised.value, lambda: offset, lambda: place(self.init, key, z_ND, len(base)) - base
    )
    self.initialised.value = jnp.ones_like(self.initialised.value)

  def update(self, ids_N: jax.Array, z_ND: jax.Array) -> None:
    """After the search of a training step: records usage and replaces dead codes by rows of z."""
    if not self.fraction or self.module.is_initializing():
      return
    base, z_ND = jax.lax.stop_gradient((self.base, z_ND))
    seen_K = codebook.counts(ids_N, len(base)) * (len(base) / len(ids_N))
    used_K = _USAGE_DECAY * self.used.value + (1.0 - _USAGE_DECAY) * seen_K
    dead_K, rows_KD, self.used.value = revive(
      self.module.make_rng("codes"), used_K, z_ND, self.fraction
    )
    self.offset.value = jnp.where(dead_K[:, None], rows_KD - base, self.offset.value)
