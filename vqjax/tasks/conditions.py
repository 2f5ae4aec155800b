"""Conditions of a prior as prefixes of tokens: class labels, label maps, coarser codes; dropped at random for guidance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Condition:
  """What stands before the codes, in this order.

  Fields:
    labels: number of classes of the batch's `label`; 0 leaves it out.
    layouts: number of classes of the batch's `layout` (per-pixel classes, arXiv 2012.09841); 0 leaves it out.
    layout_grid: height and width that layouts are reduced to, by the most frequent class of each cell.
    level: which level of a hierarchy is learned; coarser ones stand before it (arXiv 1906.00446).
    coarse: workdir of the prior of the next coarser level, from which sampling starts.
    drop: share of training examples whose prefix is left out, for classifier-free guidance (arXiv 2207.12598).
  """

  labels: int = 0
  layouts: int = 0
  layout_grid: tuple[int, ...] = (8, 8)
  level: int = 0
  coarse: str | None = None
  drop: float = 0.1


class Prefix:
  """Turns a batch into prefix tokens `[B, P]`, numbered from `offset` on in the network's embedding.

  Attributes:
    length: P. rows: how many embedding rows codes, mask id and prefixes take together.
    grid: shape of the last part, where it is a grid (a layout, or one coarser level), else ().
  """

  def __init__(self, condition: Condition, offset: int, tokenizer: Any, spec: Mapping[str, Any]):
    if not 0 <= condition.drop < 1:
      raise UserError(f"config.condition.drop: {condition.drop} is outside [0, 1).")
    for field, count in (("label", condition.labels), ("layout", condition.layouts)):
      if count and field not in spec:
        raise UserError(f"config.condition.{field}s: the data has no {field}; it yields {', '.join(spec)}. Set it to 0 or use other data.")
    self.condition = condition
    self.coarser = tuple(tokenizer.codes(i) for i in range(condition.level))
    self._label_offset = offset
    self._layout_offset = offset + condition.labels
    self._code_offsets = []
    rows = self._layout_offset + condition.layouts
    for codes in self.coarser:
      self._code_offsets.append(rows)
      rows += codes.vocabulary
    self.rows = rows
    cells = math.prod(condition.layout_grid) if condition.layouts else 0
    self.length = bool(condition.labels) + cells + sum(c.length for c in self.coarser)
    last = self.coarser[-1].grid if self.coarser else tuple(condition.layout_grid) if condition.layouts else ()
    self.grid = last if len(last) == 2 else ()

  def prepare(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Host side: the fields the task reads, layouts reduced to their grid. Raises UserError for a class out of range."""
    kept = {k: v for k, v in batch.items() if k == "image" or k.startswith("ids")}
    if self.condition.labels:
      kept["label"] = check_range(np.asarray(batch["label"]), self.condition.labels, "label")
    if self.condition.layouts:
      layout = check_range(np.asarray(batch["layout"]), self.condition.layouts, "layout")
      kept["layout"] = reduce_layout(layout, tuple(self.condition.layout_grid), self.condition.layouts)
    return kept

  def tokens(self, batch: Mapping[str, jax.Array], levels: tuple[jax.Array, ...] = ()) -> jax.Array:
    """int32 `[B, P]` of a prepared batch and the codes of the coarser levels."""
    rows = next(iter(batch.values())).shape[0]
    parts = [jnp.zeros((rows, 0), jnp.int32)]
    if self.condition.labels:
      parts.append(batch["label"].astype(jnp.int32)[:, None] + self._label_offset)
    if self.condition.layouts:
      parts.append(batch["layout"].astype(jnp.int32).reshape(rows, -1) + self._layout_offset)
    parts += [codes.flatten(ids) + offset for codes, ids, offset in zip(self.coarser, levels, self._code_offsets)]
    return jnp.concatenate(parts, axis=1)

  def drop(self, key: jax.Array, tokens_BP: jax.Array) -> jax.Array:
    """The prefix with all its tokens -1 in a share `drop` of the examples."""
    dropped = jax.random.bernoulli(key, self.condition.drop, tokens_BP.shape[:1])
    return jnp.where(dropped[:, None], -1, tokens_BP)


def check_range(values: np.ndarray, classes: int, name: str) -> np.ndarray:
  """Returns `values`; raises UserError naming the first one outside 0 .. classes - 1."""
  if values.size and (values.min() < 0 or values.max() >= classes):
    bad = values[(values < 0) | (values >= classes)].flat[0]
    raise UserError(f"{name}: {bad} is outside 0 to {classes - 1}, the classes of config.condition.{name}s={classes}.")
  return values


def reduce_layout(layout_BHW: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
  """The most frequent class of each cell, `[B, h, w]`; the smaller class wins a tie.

  Raises:
    UserError: H or W is not a multiple of the grid.
  """
  (batch, height, width), (h, w) = layout_BHW.shape, grid
  if height % h or width % w:
    raise UserError(f"layout: {height} x {width} is not a multiple of config.condition.layout_grid={grid}; choose a grid that divides it.")
  cells = layout_BHW.reshape(batch, h, height // h, w, width // w).transpose(0, 1, 3, 2, 4).reshape(batch, h, w, -1)
  counts = np.stack([(cells == c).sum(-1) for c in range(classes)], -1)
  return counts.argmax(-1).astype(np.int32)
