"""What the modes of networks share: examples of any grid in windows of the network's own, coded
position by position, all windows of a batch side by side.

A grid is cut from its first corner. Where a window reaches beyond the far edges, the network sees
the nearest code inside, which was there before, and nothing is coded: of a window only what lies in
the grid costs bytes.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from vqjax.codec import Example, Shapes, Source, _coder
from vqjax.errors import UserError

ROWS = 64  # windows of a batch


class Network(NamedTuple):
  """What a level's network says, as weights that `_coder.frequencies` takes: int [B, K].

  prefix(num, coarser) -> what stands before the codes of `num` windows, given their codes of the
    coarser levels, each [num, *grid].
  start(prefix) -> (weights of position 0, cache).
  step(prefix, ids_B, index, cache) -> (weights of position index + 1, cache): takes the code at
    `index`, in 0 .. L - 2.
  whole(prefix, ids_BL) -> weights [B, L, K] of all positions, the same that `start` and `step`
    give; None where they would differ.
  """

  prefix: Callable[..., Any]
  start: Callable[..., Any]
  step: Callable[..., Any]
  whole: Callable[..., Any] | None = None


def stepped(
  sampler: Any, params: Any, of_logits: Callable[[jax.Array], jax.Array] = lambda logits: logits
) -> Network:
  """The cached steps of a sampler's network, on the one device where `params` are.

  `of_logits` [B, K] -> weights is compiled with each step: floats that are rounded elsewhere may
  differ.
  """
  network = sampler.prior.network

  @jax.jit
  def first(params: Any, prefix_BP: jax.Array) -> tuple[jax.Array, Any]:
    logits, cache = network(params, prefix_BP).start()
    return of_logits(logits[:, 0]), cache

  @functools.partial(jax.jit, donate_argnames="cache")  # written in place, not copied for each code
  def after(params: Any, prefix_BP: jax.Array, ids_B: Any, index: Any, cache: Any) -> Any:
    logits, cache = network(params, prefix_BP).step(ids_B[:, None], index, cache)
    return of_logits(logits[:, 0]), cache

  return Network(
    prefix=lambda num, coarser: jax.device_put(sampler.free(num, coarser), jax.devices()[0]),
    start=lambda prefix: first(params, prefix),
    step=lambda prefix, *given: after(params, prefix, *given),
  )


class _Level(NamedTuple):
  """One level of a batch of windows, as sequences of L codes.

  places: [B, L] where in all examples' codes a position's lies: what is beyond an edge has the
    place of the nearest inside.
  own: bool [B, L], whether it lies inside itself.
  """

  places: np.ndarray
  own: np.ndarray


def check(source: Source, mode: str) -> None:
  """Raises UserError where `source` has no autoregressive prior of every level."""
  if not source.priors:
    raise UserError(f"{source.workdir}: is a tokenizer alone; the mode {mode!r} needs a prior.")
  for sampler in source.priors:
    if not sampler.prior.scheme.causal:
      raise UserError(
        f"{source.workdir}: its scheme is not autoregressive, which the mode {mode!r} needs; train "
        "one with config.scheme.name=autoregressive."
      )
    # Of several conditions all are dropped together, and coarser codes are there.
    if sampler.fields and (sampler.prior.prefix.drop == 0 or sampler.prior.level):
      raise UserError(
        f"{source.workdir}: never drew without its {', '.join(sampler.fields)}, of which files "
        f"tell nothing; the mode {mode!r} needs a prior without, or with config.condition.drop "
        "above 0 and no coarser level."
      )
    if sampler.prior.tokenizer.order.name != "flattened":
      raise UserError(
        f"{source.workdir}: takes its codebooks in the order "
        f"{sampler.prior.tokenizer.order.name!r}; the mode {mode!r} needs config.order.name="
        "flattened."
      )


def encode(mode: Any, coder: Any, examples: list[Example]) -> None:
  """A mode's method `encode`, by its `networks` and `levels`."""
  networks, levels = mode.networks, mode.levels
  flat = [np.concatenate([e[i].reshape(-1) for e in examples]) for i in range(len(levels))]
  for batch in _batches(levels, [tuple(x.shape for x in e) for e in examples]):
    coarser: list[np.ndarray] = []
    for network, codes, level, ids in zip(networks, levels, batch, flat):
      ids_BL = ids[level.places].astype(np.int32)
      prefix = network.prefix(len(ids_BL), tuple(coarser))
      for index, weights in enumerate(_teacher(network, prefix, ids_BL, codes)):
        own = level.own[:, index]
        coder.put(ids_BL[own, index], _coder.frequencies(weights[own]))
      coarser.append(ids_BL.reshape(-1, *codes.grid))


def decode(mode: Any, coder: Any, shapes: list[Shapes]) -> list[Example]:
  """Gets what `encode` put."""
  networks, levels = mode.networks, mode.levels
  sizes = [[math.prod(grids[i]) for grids in shapes] for i in range(len(levels))]
  flat = [np.zeros(sum(own), np.int32) for own in sizes]
  for batch in _batches(levels, shapes):
    coarser: list[np.ndarray] = []
    for network, codes, level, ids in zip(networks, levels, batch, flat):
      prefix = network.prefix(len(level.own), tuple(coarser))
      weights, cache = network.start(prefix)
      for index in range(codes.length):
        own, places = level.own[:, index], level.places[:, index]
        ids[places[own]] = coder.get(_coder.frequencies(np.asarray(weights)[own]))
        if index + 1 < codes.length:
          weights, cache = network.step(prefix, ids[places], np.int32(index), cache)
      coarser.append(ids[level.places].reshape(-1, *codes.grid))
  parts = [np.split(ids, np.cumsum(own)[:-1]) for ids, own in zip(flat, sizes)]
  return [
    tuple(part[i].reshape(grid) for part, grid in zip(parts, grids))
    for i, grids in enumerate(shapes)
  ]


def _teacher(network: Network, prefix: Any, ids_BL: np.ndarray, codes: Any) -> Iterator[np.ndarray]:
  """Weights [B, K] of every position, given the codes before."""
  if network.whole is not None:
    yield from np.moveaxis(network.whole(prefix, ids_BL), 1, 0)
    return
  weights, cache = network.start(prefix)
  yield np.asarray(weights)
  for index in range(codes.length - 1):
    weights, cache = network.step(prefix, ids_BL[:, index], np.int32(index), cache)
    yield np.asarray(weights)


def _batches(levels: Any, shapes: list[Shapes]) -> Iterator[list[_Level]]:
  """All windows in batches: the last one is filled up with copies that hold nothing of their own.

  A batch has 1, 2, 4 … ROWS windows, so that few programs are compiled.
  """
  windows = list(_windows(levels, shapes))
  for start in range(0, len(windows), ROWS):
    part = windows[start : start + ROWS]
    size = 1 << (len(part) - 1).bit_length()
    filled = part + [[level._replace(own=level.own & False) for level in part[0]]] * (
      size - len(part)
    )
    yield [_Level(*map(np.stack, zip(*rows))) for rows in zip(*filled)]


def _windows(levels: Any, shapes: list[Shapes]) -> Iterator[list[_Level]]:
  """The windows of one example after the other, each a list of levels of one row [L]."""
  starts = [0] * len(levels)
  for grids in shapes:
    cells = [grid[: len(codes.shape)] for grid, codes in zip(grids, levels)]
    counts = [-(-n // m) for n, m in zip(cells[0], levels[0].shape)]
    for window in itertools.product(*map(range, counts)):
      yield [
        _row(start, grid, [*window, 0], codes) for start, grid, codes in zip(starts, grids, levels)
      ]
    starts = [start + math.prod(grid) for start, grid in zip(starts, grids)]


def _row(start: int, grid: tuple[int, ...], window: list[int], codes: Any) -> _Level:
  beyond = [w * m + np.arange(m) for w, m in zip(window, codes.grid)]
  inside = [np.minimum(axis, n - 1) for axis, n in zip(beyond, grid)]
  own = [axis < n for axis, n in zip(beyond, grid)]
  places = start + np.ravel_multi_index(np.meshgrid(*inside, indexing="ij"), grid)
  whole = np.logical_and.reduce(np.meshgrid(*own, indexing="ij"))
  return _Level(places.reshape(-1), whole.reshape(-1))
