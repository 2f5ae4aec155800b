"""A prior's conditions as one prefix of tokens before the codes, dropped as a whole."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks
from vqjax.build import make as make_record, member, names
from vqjax.conditions import Context, Lead
from vqjax.errors import UserError
from vqjax.nn import losses
from vqjax.tasks import need


@dataclasses.dataclass(frozen=True)
class Dropping:
  """config.condition, beside the conditions themselves.

  Fields:
    drop: share of training examples whose prefix is left out, for classifier-free guidance (arXiv
      2207.12598).
  """

  drop: float = 0.1

  def __post_init__(self) -> None:
    checks.within(self, "drop", at_least=0, below=1)


class Bound(NamedTuple):
  """A condition, what it is for this prior, and the embedding rows where its parts begin."""

  name: str
  condition: Any
  lead: Lead
  offsets: tuple[int, ...]


def conditions_of(config: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
  """(name, condition) of those in config.condition, in the order in which they stand."""
  made = [
    (name, make_record(member("conditions", name), dict(values), f"config.condition.{name}"))
    for name, values in (config or {}).items()
    if name in names("conditions") and values is not None
  ]
  return sorted(made, key=lambda pair: pair[1].order)


class Prefix:
  """Turns what a batch or a caller says into prefix tokens `[B, P]` of the network's embedding.

  Args:
    config: config.condition: {name: fields} and `drop`.
    offset: rows of the embedding that come before the prefix's.
    context: see vqjax.conditions.

  Attributes:
    bound: the conditions in their order, see `Bound`.
    fields: what callers may give: {name of the batch's field: its Bound}.
    length: P.
    rows: embedding rows of codes, mask id and prefix together.
    predicted: {name of a condition: weight in the loss of predicting its tokens}.
    predicted_rows: the prefix's own rows where anything is predicted, else 0.
    grid: (h, w) of the last part, where it is one coarse grid of codes over the picture, else ().
  """

  def __init__(self, config: Mapping[str, Any], offset: int, context: Context):
    beside = {f.name for f in dataclasses.fields(Dropping)}
    rest = {k: v for k, v in (config or {}).items() if k in beside}
    self.drop = make_record(Dropping, rest, "config.condition").drop
    # Each part has rows of its own after the codes': class 3 and code 3 are different embeddings.
    self.bound: tuple[Bound, ...] = ()
    self._first = offset
    for name, condition in conditions_of(config):
      self._check_alone(name, condition)
      lead = condition.bind(context)
      ends = np.cumsum([offset, *(part.rows for part in lead.parts)])
      self.bound += (Bound(name, condition, lead, tuple(int(n) for n in ends[:-1])),)
      offset = int(ends[-1])
    self.rows = offset
    self.predicted = {b.name: b.lead.predicted for b in self.bound if b.lead.predicted}
    self.predicted_rows = self.rows - self._first if self.predicted else 0
    if sum(self.predicted.values()) >= 1:
      raise UserError(f"config.condition: predicted: {self.predicted} leave nothing to the codes.")
    self.fields = {b.condition.field: b for b in self.bound if b.condition.public}
    parts = [part for b in self.bound for part in b.lead.parts]
    self.length = sum(math.prod(part.grid) for part in parts)
    # Convolutional networks lay a coarse grid under the codes; several codebooks make no grid.
    last = parts[-1] if parts else None
    self.grid = last.grid if last and last.spatial and len(last.grid) == 2 else ()

  def _check_alone(self, name: str, condition: Any) -> None:
    for other in self.bound:
      if other.condition.field == condition.field:
        raise UserError(
          f"config.condition.{name}: reads the data's {condition.field}, as "
          f"config.condition.{other.name} does; give one of them."
        )

  def prepare(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """On the host: the fields that the conditions read, checked."""
    return {f: b.lead.prepare(need(batch, f), (1,) * 3) for f, b in self.fields.items()}

  def parts(
    self,
    values: Mapping[str, Any],
    frozen: Mapping[str, Any],
    rows: int,
    scale: Sequence[float] = (1, 1, 1),
  ) -> list[jax.Array]:
    """Each part's tokens as a grid, int32 `[rows, *grid]`; -1 where its condition is not given.

    Args:
      values: {field: prepared values, on the device}; "coarser": codes of the coarser levels.
      frozen: {name of a condition: weights of its tokenizer}.
      rows: B.
      scale: as for `Lead.prepare`.
    """
    parts = []
    for name, condition, lead, offsets in self.bound:
      given = values.get(condition.field)
      if given is None:
        shapes = [
          # The books of a grid of several codebooks are no length that grows.
          [
            round(n * s)
            for n, s in itertools.zip_longest(part.grid, scale[: len(part.grid)], fillvalue=1)
          ]
          if part.spatial
          else part.grid
          for part in lead.parts
        ]
        parts += [jnp.full((rows, *shape), -1, jnp.int32) for shape in shapes]
      else:
        tokens = lead.tokens(given, frozen.get(name))
        parts += [part + first for part, first in zip(tokens, offsets)]
    return parts

  def tokens(self, values: Mapping[str, Any], frozen: Mapping[str, Any], rows: int) -> jax.Array:
    """int32 `[rows, P]`; see `parts`."""
    return string(self.parts(values, frozen, rows), rows)

  def dropped(self, key: jax.Array, tokens_BP: jax.Array) -> jax.Array:
    """The prefix with all its tokens -1 in a share `drop` of the examples."""
    gone_B = jax.random.bernoulli(key, self.drop, tokens_BP.shape[:1])
    return jnp.where(gone_B[:, None], -1, tokens_BP)

  def nats(
    self, logits_BPR: jax.Array, tokens_BP: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """{name of a predicted condition: (-log p [B, P'] of its tokens, bool [B, P'] which count)}.

    Args:
      logits_BPR: of the network's `joint`; only the rows of a token's own part can stand there.
      tokens_BP: the prefix; what is dropped does not count.
    """
    found, start = {}, 0
    for name, _, lead, offsets in self.bound:
      nats, ids = [], []
      for part, offset in zip(lead.parts, offsets):
        end = start + math.prod(part.grid)
        ids.append(tokens_BP[:, start:end] - offset)
        first = offset - self._first
        own = logits_BPR[:, start:end, first : first + part.rows]
        nats.append(-losses.log_prob(own, jnp.maximum(ids[-1], 0)))
        start = end
      if lead.predicted:
        ids_BP = jnp.concatenate(ids, axis=1)
        counted = ids_BP >= 0
        counted &= lead.counted(ids_BP) if lead.counted else True
        found[name] = jnp.concatenate(nats, axis=1), counted
    return found

  @property
  def tokenizers(self) -> dict[str, Any]:
    """{name of a condition: the frozen tokenizer that it reads by}."""
    return {b.name: b.lead.tokenizer for b in self.bound if b.lead.tokenizer is not None}


def string(parts: Sequence[jax.Array], rows: int) -> jax.Array:
  """Arrays `[rows, ...]` of tokens in a row, int32 `[rows, P]`."""
  empty = jnp.zeros((rows, 0), jnp.int32)
  return jnp.concatenate([empty, *(part.reshape(rows, -1) for part in parts)], axis=1)
