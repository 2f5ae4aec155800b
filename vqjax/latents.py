"""What a tokenizer leaves of a signal, as the sequence that a prior learns: codes, or floats.

Both kinds answer to the same names, so that a task, a scheme or a network asks its latent and need
not know which it has: `kind`, `grid`, `length`, `vocabulary`, `dtype`, `flatten`, `unflatten`,
`blank`, `decided`, and of the steps `places`, `arrange`, `collect`. Both are hashable and hold no
arrays.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, orders
from vqjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Codes:
  """Integers on a grid, from one codebook or several.

  Several codebooks give as many codes per grid cell, which follow one another along the sequence. A
  code is a number of its position's own book, 0 to size - 1, in sequences as on grids; numbers from
  `size` on are a scheme's (a mask).

  A causal network goes over the sequence in steps of one code or several, see vqjax/orders.py.

  Fields:
    shape: of the grid of cells, at least one axis.
    size: K, codes per book.
    books: Q, codebooks.
    order: of the steps: flattened, parallel or delayed.

  Raises UserError for a number below 1 or of another type.
  """

  shape: tuple[int, ...]
  size: int
  books: int = 1
  order: str = "flattened"
  kind: ClassVar[str] = "codes"

  def __post_init__(self) -> None:
    object.__setattr__(self, "shape", _shape(self.shape))
    for name in ("size", "books"):
      object.__setattr__(self, name, checks.whole(name, getattr(self, name), 1))

  @property
  def grid(self) -> tuple[int, ...]:
    """Shape of the codes of one example: the cells', and the books as its last axis if several."""
    return (*self.shape, self.books) if self.books > 1 else self.shape

  @property
  def vocabulary(self) -> int:
    """Codes of all books."""
    return self.size * self.books

  @property
  def length(self) -> int:
    """L, the codes of one example."""
    return math.prod(self.grid)

  @property
  def dtype(self) -> str:
    return "int32"

  @property
  def places(self) -> np.ndarray:
    """Which code stands in slot j of step s, int `[S, J]`; -1 where none does."""
    return orders.places(self.order, math.prod(self.shape), self.books)

  @property
  def steps(self) -> int:
    """S, steps of a causal network over one example."""
    return len(self.places)

  @property
  def step_grid(self) -> tuple[int, ...]:
    """The grid that the steps lie on, in raster order."""
    return orders.WALKS[self.order].grid(self.shape, self.books)

  @property
  def cycle(self) -> int:
    """After how many steps the same books come again."""
    return orders.WALKS[self.order].cycle(self.books)

  def flatten(self, ids: jax.Array) -> jax.Array:
    """Codes `[B, *grid]` as a sequence int32 `[B, L]`."""
    return jnp.asarray(ids, jnp.int32).reshape(-1, self.length)

  def unflatten(self, ids_BL: jax.Array) -> jax.Array:
    """The inverse of `flatten`, int32 `[B, *grid]`."""
    return ids_BL.astype(jnp.int32).reshape(-1, *self.grid)

  def tokens(self, ids: jax.Array) -> jax.Array:
    """Codes `[B, *grid]`, of any size of grid, as numbers of one vocabulary; see `numbered`."""
    ids = jnp.asarray(ids, jnp.int32)
    return self.numbered(ids.reshape(len(ids), -1)).reshape(ids.shape)

  def blank(self, batch: int) -> jax.Array:
    """A sequence of zeros, int32 `[B, L]`: what stands where nothing is known."""
    return jnp.zeros((batch, self.length), jnp.int32)

  def arrange(self, x_BL: jax.Array, fill: Any) -> jax.Array:
    """A sequence `[B, L, …]` in steps `[B, S, J, …]`, with `fill` in slots where no code stands."""
    return orders.arrange(self.places, x_BL, fill)

  def decided(self, ids_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the sequence with some code for each mask, bool `[B, L]` of what is decided) on the way."""
    return jnp.minimum(ids_BL, self.size - 1), ids_BL < self.size

  def collect(self, x_BSJ: jax.Array) -> jax.Array:
    """The inverse of `arrange`, `[B, L, …]`."""
    return orders.collect(self.places, x_BSJ)

  def numbered(self, ids: jax.Array, places: jax.Array | None = None) -> jax.Array:
    """Codes `[…, n]` as numbers that tell the books apart: code k of book q is q * size + k. What
    is no code comes after those of all books, and negative numbers become -1.

    Args:
      ids: of any length that starts with the first book, unless `places` are given.
      places: int `[n]`, of which places in the sequence they are; negative ones give -1.
    """
    places = jnp.arange(ids.shape[-1]) if places is None else places
    first = (places % self.books * self.size).reshape((1,) * (ids.ndim - 1) + (-1,))
    rows = jnp.where(ids < self.size, ids + first, ids - self.size + self.vocabulary)
    gone = (ids < 0) | (places < 0).reshape(first.shape)
    return jnp.where(gone, -1, rows).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Floats:
  """Vectors on a grid, normalised per channel by their statistics over a data set.

  Fields:
    shape: of the grid, at least one axis.
    width: D, channels of a vector.
    mean, std: of each channel, D numbers; deviations are positive. () is 0 and 1: as they are.

  Raises UserError for sizes below 1, statistics of another number or that are not finite.
  """

  shape: tuple[int, ...]
  width: int
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()
  kind: ClassVar[str] = "floats"
  vocabulary: ClassVar[int] = 0

  def __post_init__(self) -> None:
    object.__setattr__(self, "shape", _shape(self.shape))
    object.__setattr__(self, "width", checks.whole("width", self.width, 1))
    for name in ("mean", "std"):
      values = tuple(float(x) for x in getattr(self, name))
      if values and len(values) != self.width:
        raise UserError(
          f"{name}: {len(values)} number(s) for {self.width} channels; give one for each."
        )
      if not all(math.isfinite(x) and (name == "mean" or x > 0) for x in values):
        kind = "finite numbers" if name == "mean" else "finite positive numbers"
        raise UserError(f"{name}: {values} are not {kind}; measure them on data that varies.")
      object.__setattr__(self, name, values)

  @property
  def grid(self) -> tuple[int, ...]:
    """Shape of one example without its channels."""
    return self.shape

  @property
  def length(self) -> int:
    """L, the vectors of one example."""
    return math.prod(self.shape)

  @property
  def dtype(self) -> str:
    return "float32"

  def flatten(self, z: jax.Array) -> jax.Array:
    """Latents `[B, *shape, D]` as a normalised sequence, float32 `[B, L, D]`."""
    mean, std = self._statistics()
    return (jnp.asarray(z, jnp.float32).reshape(-1, self.length, self.width) - mean) / std

  def unflatten(self, z_BLD: jax.Array) -> jax.Array:
    """The inverse of `flatten`, float32 `[B, *shape, D]`."""
    mean, std = self._statistics()
    z_BLD = jnp.asarray(z_BLD, jnp.float32) * std + mean
    return z_BLD.reshape(-1, *self.shape, self.width)

  def blank(self, batch: int) -> jax.Array:
    """A sequence of zeros, the mean of the data, float32 `[B, L, D]`."""
    return jnp.zeros((batch, self.length, self.width), jnp.float32)

  @property
  def places(self) -> np.ndarray:
    """Which vector stands in slot j of step s: one each, in raster order, int `[L, 1]`."""
    return orders.places("flattened", self.length, 1)

  @property
  def steps(self) -> int:
    """As many as there are vectors."""
    return self.length

  @property
  def step_grid(self) -> tuple[int, ...]:
    """The grid that the steps lie on, in raster order."""
    return self.shape

  def arrange(self, z_BLD: jax.Array, fill: Any) -> jax.Array:
    """A sequence in steps, `[B, S, 1, D]`."""
    return orders.arrange(self.places, z_BLD, fill)

  def collect(self, z_BSJD: jax.Array) -> jax.Array:
    """The inverse of `arrange`, `[B, L, D]`."""
    return orders.collect(self.places, z_BSJD)

  def decided(self, z_BLD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the sequence, true everywhere): every vector is one that can be decoded."""
    return z_BLD, jnp.ones(z_BLD.shape[:2], bool)

  def _statistics(self) -> tuple[jax.Array, jax.Array]:
    given = (self.mean or 0.0, self.std or 1.0)
    return tuple(jnp.asarray(x, jnp.float32).reshape(1, 1, -1) for x in given)


def _shape(shape: Iterable[int]) -> tuple[int, ...]:
  shape = tuple(checks.whole("shape", size, 1) for size in shape)
  if not shape:
    raise UserError("shape: () has no axis; a grid has at least one.")
  return shape
