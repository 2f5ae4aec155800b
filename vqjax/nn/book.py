"""Learned codebooks: initial values, k-means, revival, and `Book`, which searches one and lets it
learn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vqjax.nn import codebook

Init = Literal["kmeans", "data", "uniform", "normal", "standard_normal"]
State = dict[str, jax.Array]

# The average of code usage that decides which codes are dead spans about 100 steps.
_USAGE_DECAY = 0.99


def initializer(init: Init) -> nn.initializers.Initializer:
  """Values before any data: "uniform" in ±1/K, "normal" with unit expected norm (variance 1/D) or
  "standard_normal" with variance 1. Books that wait for data hold "uniform" values until then.
  """

  def normal(key, shape, dtype=jnp.float32):
    return jax.random.normal(key, shape, dtype) * shape[-1] ** -0.5

  def uniform(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -1.0 / shape[0], 1.0 / shape[0])

  return {"normal": normal, "standard_normal": jax.random.normal}.get(init, uniform)


def from_data(init: Init) -> bool:
  """Whether `init` waits for the first training batch."""
  return init in ("kmeans", "data")


def sample_rows(key: jax.Array, z_ND: jax.Array, size: int) -> jax.Array:
  """`size` random rows of z, one from each of `size` equal strata of the positions: distinct where
  N >= size.
  """
  edges = np.arange(size + 1, dtype=np.int64) * len(z_ND) // size
  first, width = edges[:-1].astype(np.int32), np.diff(edges).astype(np.int32)
  within = (jax.random.uniform(key, (size,)) * width).astype(jnp.int32)
  return z_ND[first + jnp.minimum(within, np.maximum(width - 1, 0))]  # u · width may round up


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


class Rule(NamedTuple):
  """How a codebook learns: pure functions of its state, arrays of the collection "stats" by name.

  Attributes:
    codes: state -> the codes in effect [K, D].
    place: (key, z_ND, state) -> the state that the first batch sets.
    update: (key, ids_N, z_ND, state) -> the state after a training step that found `ids_N`; the key
      is None where nothing is revived.
  """

  codes: Callable[[State], jax.Array]
  place: Callable[[jax.Array, jax.Array, State], State]
  update: Callable[[jax.Array | None, jax.Array, jax.Array, State], State]


class Book:
  """The codebook of a quantizer with fields `codebook_init` and `revive`. Make it in `setup`.

  Adds the flag `initialised` to "stats", which whoever imports a codebook sets to True.

  Levels that share one codebook search it several times within a training step. All of them see the
  codes that the step began with, and it learns once, from all that they were shown: every call
  redoes the update from the step's beginning with the positions so far, and XLA drops what only
  earlier calls wrote.
  """

  def __init__(
    self,
    module: nn.Module,
    state: dict[str, nn.Variable],
    rule: Rule,
    *,
    normalize: Literal["none", "l2", "search"] = "none",
    metric: Literal["l2", "dot"] = "l2",
  ):
    self.module, self.rule, self.metric = module, rule, metric
    self.normalize = codebook.NORMALIZATIONS["none" if normalize == "search" else normalize]
    self._compared = codebook.NORMALIZATIONS["l2" if normalize == "search" else "none"]
    placed = not from_data(module.codebook_init)
    self._state = state | {
      "initialised": module.variable("stats", "initialised", lambda: jnp.asarray(placed))
    }
    self._begun: State | None = None
    self._shown: list[tuple[jax.Array, jax.Array]] = []

  @property
  def codes(self) -> jax.Array:
    """The codebook in effect, [K, D] float32."""
    return self._codes({name: variable.value for name, variable in self._state.items()})

  def search(self, z_ND: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
    """The codes in effect [K, D] and the ids [N] of the nearest; a training step also learns."""
    if not train or self.module.is_initializing():
      codes_KD = self.codes
      return codes_KD, self._nearest(z_ND, codes_KD)
    if self._begun is None:
      self._begun = self._placed(jax.lax.stop_gradient(z_ND))
    codes_KD = self._codes(self._begun)
    ids_N = self._nearest(z_ND, codes_KD)
    self._learn(ids_N, jax.lax.stop_gradient(z_ND))
    return codes_KD, ids_N

  def _nearest(self, z_ND: jax.Array, codes_KD: jax.Array) -> jax.Array:
    return codebook.nearest(self._compared(z_ND), self._compared(codes_KD), metric=self.metric)

  def _codes(self, state: State) -> jax.Array:
    return self.normalize(self.rule.codes(state))

  def _placed(self, z_ND: jax.Array) -> State:
    """The state at the beginning of this step; the very first one places the codes."""
    state = {name: variable.value for name, variable in self._state.items()}
    if not from_data(self.module.codebook_init):
      return state
    key, done = self.module.make_rng("codes"), state["initialised"]
    state = jax.lax.cond(done, lambda: state, lambda: self.rule.place(key, z_ND, state))
    return state | {"initialised": jnp.ones_like(done)}

  def _learn(self, ids_N: jax.Array, z_ND: jax.Array) -> None:
    self._shown.append((ids_N, z_ND))
    # The calls as a minor axis: a batch-sharded N stays sharded.
    ids, z = (jnp.stack(x, axis=1) for x in zip(*self._shown))
    key = self.module.make_rng("codes") if self.module.revive else None
    state = self.rule.update(key, ids.reshape(-1), z.reshape(-1, z.shape[-1]), self._begun)
    for name, variable in self._state.items():
      variable.value = state[name]


def by_gradient(module: nn.Module, base_KD: jax.Array, **options: Any) -> Book:
  """A codebook `base + offset` whose `base` the optimizer moves; `options` are those of `Book`.

  Initialisation and revival set the untrained `offset`, because the training step applies nothing
  but gradients to params; `restart` lets averaged params follow. In "stats": `offset` [K, D], and
  `used` [K], running usage with mean 1.
  """
  size, frozen_KD = len(base_KD), jax.lax.stop_gradient(base_KD)

  def put(key, z_ND, state):
    return state | {"offset": place(module.codebook_init, key, z_ND, size) - frozen_KD}

  def update(key, ids_N, z_ND, state):
    if key is None:
      return state
    seen_K = codebook.counts(ids_N, size) * (size / len(ids_N))
    used_K = _USAGE_DECAY * state["used"] + (1.0 - _USAGE_DECAY) * seen_K
    dead_K, rows_KD, used_K = revive(key, used_K, z_ND, module.revive)
    offset_KD = jnp.where(dead_K[:, None], rows_KD - frozen_KD, state["offset"])
    return state | {"offset": offset_KD, "used": used_K}

  state = {
    "offset": module.variable("stats", "offset", jnp.zeros, base_KD.shape, jnp.float32),
    "used": module.variable("stats", "used", jnp.ones, (size,), jnp.float32),
  }
  return Book(module, state, Rule(lambda s: base_KD + s["offset"], put, update), **options)


def restart(average: Any, params: Any, before: Any, after: Any) -> Any:
  """Averaged params of a model, with the codes that a step placed or revived as in `params`.

  Their offset refers to the base that the step began with, so that on any other base the code would
  be another than the latent that was chosen. A base that is computed from other params (`simvq`)
  stays as averaged: its codes all follow the averaged map.

  Args:
    average, params: trees of params, `params` those that the step began with.
    before, after: the model's other variables, {"stats": …}, before and after the step.
  """
  flat = flax.traverse_util.flatten_dict
  average, params, before, after = (flat(tree) for tree in (average, params, before, after))
  for path, offset_KD in after.items():
    book = (*path[1:-1], "codebook")
    if path[-1] == "offset" and book in average:
      placed_K1 = jnp.any(offset_KD != before[path], axis=-1, keepdims=True)
      average[book] = jnp.where(placed_K1, params[book], average[book])
  return flax.traverse_util.unflatten_dict(average)


def of_param(module: nn.Module, metric: Literal["l2", "dot"] = "l2") -> Book:
  """The codebook of `vq` and `ibq`: `by_gradient` over the param `codebook` [K, D]."""
  shape = (module.codebook_size, module.dim)
  base_KD = module.param("codebook", initializer(module.codebook_init), shape)
  return by_gradient(module, base_KD, normalize=module.normalize, metric=metric)
