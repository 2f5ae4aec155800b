"""A function of grids, computed tile by tile: what is larger than memory allows.

Tiles overlap. A function that looks no further than half the overlap gives exactly what it gives of
the whole. Of others (norms and attention over the whole grid) floats are blended linearly from
tile to tile, and integers change in the middle of the overlap.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Plan(NamedTuple):
  """How a grid is cut. Units are cells: what the function cannot cut any further, a code.

  cells: of the whole grid, per axis.
  window: of one tile, at most; all tiles are of one size, so that the function is compiled once.
  overlap: of neighbours, at least, and less than the window.
  exact: whether the function looks no further than half the overlap.
  """

  cells: tuple[int, ...]
  window: tuple[int, ...]
  overlap: tuple[int, ...]
  exact: bool


class _Span(NamedTuple):
  """One axis of one tile, in cells: where it starts, and the share of it that is its own."""

  start: int
  own: tuple[int, int]


def padded(
  values: np.ndarray, factors: Sequence[int], first: Sequence[int] | None = None
) -> np.ndarray:
  """`[*size, …]` with its last entries repeated until each side is a multiple of its factor, after
  what the first codes stand for, where they stand for less.
  """
  first = factors if first is None else first
  missing = [(0, (a - n) % f) for n, f, a in zip(values.shape, factors, first)]
  return np.pad(values, missing + [(0, 0)] * (values.ndim - len(missing)), mode="edge")


def apply(fn: Callable[[Any], Any], tree: Any, plan: Plan) -> Any:
  """`fn(tree)` on the host, for a tree of arrays `[B, *size, …]`; each size is a multiple of
  plan.cells. One example at a time: memory is that of one tile and of the whole result.
  """
  rows = len(jax.tree.leaves(tree)[0])
  made = [_one(fn, jax.tree.map(lambda x: x[i : i + 1], tree), plan) for i in range(rows)]
  return made[0] if rows == 1 else jax.tree.map(lambda *parts: np.concatenate(parts), *made)


def _one(fn: Callable[[Any], Any], tree: Any, plan: Plan) -> Any:
  window = tuple(map(min, plan.window, plan.cells))
  axes = [_spans(*axis) for axis in zip(plan.cells, window, plan.overlap)]
  result = None
  for spans in itertools.product(*axes):
    at = [(s.start, s.start + w) for s, w in zip(spans, window)]
    tile = jax.device_get(fn(jax.tree.map(lambda x: x[_slices(x, at, plan.cells)], tree)))
    if result is None:
      whole = lambda x: np.zeros((1, *_grown(x, plan.cells, window)), x.dtype)
      result = jax.tree.map(whole, tile)
    for into, part in zip(jax.tree.leaves(result), jax.tree.leaves(tile)):
      if plan.exact or part.dtype.kind != "f":
        own = [span.own for span in spans]
        inside = [(a - span.start, b - span.start) for span, (a, b) in zip(spans, own)]
        into[_slices(into, own, plan.cells)] = part[_slices(part, inside, window)]
      else:
        for axis, (span, spans_of) in enumerate(zip(spans, axes)):
          scale = part.shape[1 + axis] // window[axis]
          share = _shares(spans_of, window[axis], plan.cells[axis], scale)[spans_of.index(span)]
          part = part * share.reshape(-1, *(1,) * (part.ndim - 2 - axis))
        into[_slices(into, at, plan.cells)] += part
  return result


def _spans(cells: int, window: int, overlap: int) -> list[_Span]:
  """The tiles along one axis, evenly spread."""
  number = 1 + max(0, -(-(cells - window) // (window - overlap)))
  starts = [i * (cells - window) // max(1, number - 1) for i in range(number)]
  cuts = [(start + before + window) // 2 for before, start in itertools.pairwise(starts)]
  return [_Span(*parts) for parts in zip(starts, itertools.pairwise([0, *cuts, cells]))]


def _shares(spans: list[_Span], window: int, cells: int, scale: int) -> list[np.ndarray]:
  """Each tile's weight along one axis, float32 `[window * scale]`: linear where tiles overlap, one
  in all.
  """
  total, made = np.zeros(cells * scale, np.float32), []
  for i, span in enumerate(spans):
    ramp = np.arange(window * scale, dtype=np.float32) + 0.5
    share = np.ones_like(ramp)
    if i:
      share = np.minimum(share, ramp / ((spans[i - 1].start + window - span.start) * scale))
    if i + 1 < len(spans):
      share = np.minimum(share, ramp[::-1] / ((span.start + window - spans[i + 1].start) * scale))
    made.append(share)
    total[span.start * scale :][: window * scale] += share
  return [m / total[s.start * scale :][: window * scale] for m, s in zip(made, spans)]


def _grown(tile: np.ndarray, cells: tuple[int, ...], window: tuple[int, ...]) -> tuple[int, ...]:
  """The shape without the batch of a whole whose tile is this."""
  size = tile.shape[1 : 1 + len(cells)]
  return (*(n // w * c for n, w, c in zip(size, window, cells)), *tile.shape[1 + len(cells) :])


def _slices(x: Any, spans: list[tuple[int, int]], cells: tuple[int, ...]) -> tuple[slice, ...]:
  """Those of an array `[B, *size, …]` that holds `cells`, for spans of cells."""
  scales = [n // c for n, c in zip(x.shape[1:], cells)]
  return (slice(None), *(slice(a * s, b * s) for (a, b), s in zip(spans, scales)))
