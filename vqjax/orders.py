"""In which order the codes of several codebooks are learned and drawn: the steps of one example,
and groups of books as levels of a hierarchy.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks
from vqjax.errors import UserError


class Walk(NamedTuple):
  """How one order goes over the codes of P positions with Q books each.

  places(P, Q) -> int `[S, J]`: which code of the raster sequence (books last) stands in slot j of
    step s; -1 where none does.
  grid(shape, Q) -> the grid that the steps lie on.
  cycle(Q) -> after how many steps the same books come again; times J it is Q.
  """

  places: Callable[[int, int], np.ndarray]
  grid: Callable[[tuple[int, ...], int], tuple[int, ...]]
  cycle: Callable[[int], int]


def _delayed(positions: int, books: int) -> np.ndarray:
  position = np.arange(positions + books - 1)[:, None] - np.arange(books)[None]
  inside = (position >= 0) & (position < positions)
  return np.where(inside, position * books + np.arange(books)[None], -1)


WALKS = {
  "flattened": Walk(
    lambda positions, books: np.arange(positions * books)[:, None],
    lambda shape, books: (*shape, books) if books > 1 else shape,
    lambda books: books,
  ),
  "parallel": Walk(
    lambda positions, books: np.arange(positions * books).reshape(positions, books),
    lambda shape, books: shape,
    lambda books: 1,
  ),
  "delayed": Walk(_delayed, lambda shape, books: (math.prod(shape) + books - 1,), lambda books: 1),
}


@dataclasses.dataclass(frozen=True)
class Order:
  """In which order the codes of several codebooks are learned and drawn.

  Fields:
    name: "flattened" takes the books of a position one after another, each given all before it: the
      exact chain rule, in Q times as many steps as there are positions. "parallel" takes all books
      of a position in one step, independent of one another given the positions before. "delayed"
      takes them so, but book q of a position q steps after its first (MusicGen, arXiv 2306.05284,
      section 2.2), so that a book is given the coarser ones of its position. "coarse_to_fine" makes
      groups of books levels of a hierarchy, with a prior for each, which is given the groups
      before: config.level says which is learned, config.condition.coarser.prior who draws the
      others.
    groups: books of each group, for coarse_to_fine; () is one book each.
    within: the order inside a group.

  Raises UserError for groups of less than one book.
  """

  name: Literal["flattened", "parallel", "delayed", "coarse_to_fine"] = "flattened"
  groups: Sequence[int] = ()
  within: Literal["flattened", "parallel", "delayed"] = "flattened"

  def __post_init__(self) -> None:
    if not isinstance(self.groups, (tuple, list)):
      raise UserError(f"groups: {self.groups!r} is no list of books; for example (1, 3).")
    for books in self.groups:
      checks.whole("groups", books, 1)
    object.__setattr__(self, "groups", tuple(self.groups))

  def levels(self, codes: Any) -> tuple[Any, ...]:
    """What priors learn of a tokenizer's level, coarse first: one latent for each group of books.

    Raises UserError where the groups are not of all books.
    """
    if codes.kind != "codes":
      return (codes,)
    order = self.within if self.name == "coarse_to_fine" else self.name
    groups = self._groups(codes.books)
    return tuple(dataclasses.replace(codes, books=books, order=order) for books in groups)

  def split(self, ids: Any, codes: Any) -> tuple[Any, ...]:
    """Codes `[B, *grid]` of a tokenizer's level as those of `levels`."""
    if len(self.levels(codes)) == 1:
      return (ids,)
    groups = self._groups(codes.books)
    ends = np.cumsum(groups)
    parts = (ids[..., end - n : end] for n, end in zip(groups, ends))
    return tuple(part[..., 0] if n == 1 else part for n, part in zip(groups, parts))

  def merge(self, levels: Sequence[Any], codes: Any) -> Any:
    """The inverse of `split`."""
    if len(levels) == 1:
      return levels[0]
    groups = self._groups(codes.books)
    return jnp.concatenate(
      [part[..., None] if n == 1 else part for n, part in zip(groups, levels)], axis=-1
    )

  def _groups(self, books: int) -> tuple[int, ...]:
    if self.name != "coarse_to_fine":
      return (books,)
    groups = self.groups or (1,) * books
    if sum(groups) != books:
      raise UserError(
        f"config.order.groups: {list(groups)} are {sum(groups)} books, the tokenizer has {books}."
      )
    return groups


@functools.lru_cache(maxsize=64)
def places(order: str, positions: int, books: int) -> np.ndarray:
  """Which code of the raster sequence (books last) stands in slot j of step s, int `[S, J]`, or -1
  where none does; read-only.
  """
  table = WALKS[order].places(positions, books)
  table.setflags(write=False)
  return table


def arrange(places: np.ndarray, x_BL: jax.Array, fill: Any) -> jax.Array:
  """A sequence `[B, L, …]` in steps `[B, S, J, …]`, with `fill` in slots where nothing stands."""
  if _in_sequence(places):
    return x_BL.reshape(len(x_BL), -1, places.shape[1], *x_BL.shape[2:])
  x = jnp.take(x_BL, jnp.maximum(places, 0), axis=1)
  there = (places >= 0).reshape((1, *places.shape) + (1,) * (x.ndim - 3))
  return jnp.where(there, x, fill)


def collect(places: np.ndarray, x_BSJ: jax.Array) -> jax.Array:
  """The inverse of `arrange`, `[B, L, …]`."""
  x = x_BSJ.reshape(len(x_BSJ), -1, *x_BSJ.shape[3:])
  if _in_sequence(places):
    return x
  slots = np.argsort(places, axis=None, kind="stable")[np.sum(places < 0) :]
  return jnp.take(x, slots, axis=1)


def _in_sequence(places: np.ndarray) -> bool:
  """Whether steps follow the sequence, so that no entry has to move."""
  return np.array_equal(places.reshape(-1), np.arange(places.size))
