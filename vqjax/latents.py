"""What a tokenizer leaves of a signal, as the sequence that a prior learns: codes, or floats.

Both kinds answer to the same names, so that a task, a scheme or a network asks its latent and need
not know which it has: `kind`, `grid`, `length`, `vocabulary`, `dtype`, `flatten`, `unflatten`,
`blank`, `restrict`, `decided`. Both are hashable and hold no arrays.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterable
from typing import ClassVar

import jax
import jax.numpy as jnp

from vqjax.errors import UserError

# The logit of a code that cannot stand at a position, far below any other and yet finite: guidance
# subtracts logits, and the difference of two infinities would be no number.
IMPOSSIBLE = -1e9


@dataclasses.dataclass(frozen=True)
class Codes:
  """Integers on a grid, from one codebook or several.

  Several codebooks give as many codes per grid cell. They follow one another along the sequence,
  and code k of book q has the number q * size + k: each position has its own stretch of the
  vocabulary.

  Fields:
    shape: of the grid of cells, at least one axis.
    size: codes per book.
    books: codebooks.

  Raises UserError for a number below 1 or of another type.
  """

  shape: tuple[int, ...]
  size: int
  books: int = 1
  kind: ClassVar[str] = "codes"

  def __post_init__(self) -> None:
    object.__setattr__(self, "shape", _shape(self.shape))
    for name in ("size", "books"):
      object.__setattr__(self, name, _whole(name, getattr(self, name)))

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

  def flatten(self, ids: jax.Array) -> jax.Array:
    """Codes `[B, *grid]` of each position's own book, in 0 to size - 1, as a sequence `[B, L]`."""
    books = jnp.asarray(ids, jnp.int32).reshape(-1, self.books)
    return (books + self.first_of_book(self.books)[None]).reshape(-1, self.length)

  def unflatten(self, ids_BL: jax.Array) -> jax.Array:
    """The inverse of `flatten`, int32 `[B, *grid]`."""
    return (ids_BL % self.size).astype(jnp.int32).reshape(-1, *self.grid)

  def blank(self, batch: int) -> jax.Array:
    """A sequence of zeros, int32 `[B, L]`: what stands where nothing is known."""
    return jnp.zeros((batch, self.length), jnp.int32)

  def decided(self, ids_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the sequence with some code for each mask, bool `[B, L]` of what is decided) on the way."""
    return jnp.minimum(ids_BL, self.vocabulary - 1), ids_BL < self.vocabulary

  def first_of_book(self, length: int) -> jax.Array:
    """The smallest number of each position's book, int32 `[length]`, for a sequence of any length
    that starts with the first book.
    """
    return jnp.arange(length, dtype=jnp.int32) % self.books * self.size

  def possible(self, length: int) -> jax.Array:
    """Which codes can stand at each of the first `length` positions, bool `[length, V]`."""
    return self._own(jnp.arange(length))

  def restrict(self, logits: jax.Array, index: jax.Array | int | None = None) -> jax.Array:
    """Logits with `IMPOSSIBLE` where a code belongs to another book than its position.

    Args:
      logits: `[B, L, V]` of all positions in order, or `[B, V]` of the one at `index`.
      index: a number, which may be traced.
    """
    if self.books == 1:
      return logits
    own = self.possible(logits.shape[1]) if index is None else self._own(jnp.asarray(index))
    return jnp.where(own[None], logits, IMPOSSIBLE)

  def _own(self, index: jax.Array) -> jax.Array:
    """Whether each code belongs to the book of the position `index` `[...]`, bool `[..., V]`."""
    book = jnp.arange(self.vocabulary) // self.size
    return index[..., None] % self.books == book.reshape((1,) * index.ndim + (-1,))


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
    object.__setattr__(self, "width", _whole("width", self.width))
    for name in ("mean", "std"):
      values = tuple(float(x) for x in getattr(self, name))
      values = values or (0.0 if name == "mean" else 1.0,) * self.width
      if len(values) != self.width:
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

  def restrict(self, prediction: jax.Array, index: jax.Array | int | None = None) -> jax.Array:
    """The prediction as it is: any vector can stand anywhere."""
    del index
    return prediction

  def decided(self, z_BLD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the sequence, true everywhere): every vector is one that can be decoded."""
    return z_BLD, jnp.ones(z_BLD.shape[:2], bool)

  def _statistics(self) -> tuple[jax.Array, jax.Array]:
    return tuple(jnp.asarray(x, jnp.float32)[None, None] for x in (self.mean, self.std))


def _shape(shape: Iterable[int]) -> tuple[int, ...]:
  shape = tuple(_whole("shape", size) for size in shape)
  if not shape:
    raise UserError("shape: () has no axis; a grid has at least one.")
  return shape


def _whole(name: str, value: int) -> int:
  if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
    raise UserError(f"{name}: {value!r} is no whole number from 1 up.")
  return int(value)
