"""Conditions of a prior as prefixes of tokens: class labels, label maps, coarser codes; dropped at
random for guidance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
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
    layouts: number of classes of the batch's `layout` (per-pixel classes, arXiv 2012.09841); 0
      leaves it out.
    layout_grid: height and width that layouts are reduced to, by the most frequent class of each
      cell.
    layout_tokenizer: workdir of a tokenizer of label maps, whose codes of the batch's `layout`
      stand here instead of `layouts` (as VQGAN does, arXiv 2012.09841, section 3.2).
    level: which level of a hierarchy is learned; coarser ones stand before it (arXiv 1906.00446).
    coarse: workdir of the prior of the next coarser level, from which sampling starts.
    drop: share of training examples whose prefix is left out, for classifier-free guidance (arXiv
      2207.12598).
  """

  labels: int = 0
  layouts: int = 0
  layout_grid: tuple[int, ...] = (8, 8)
  layout_tokenizer: str | None = None
  level: int = 0
  coarse: str | None = None
  drop: float = 0.1


class Prefix:
  """Turns a batch into prefix tokens `[B, P]`, numbered from `offset` on in the network's
  embedding.

  Attributes:
    length: P. rows: how many embedding rows codes, mask id and prefixes take together.
    grid: shape of the last part, where it is a grid (a layout, or one coarser level), else ().
    layout_classes, layout_size: classes of the label maps (0: there are none), height and width of
      the zero map that stands for none.
    names: what each of `parts` tells: "label", "layout" or "coarser".

  Args:
    condition: what stands there.
    offset: rows of the embedding that come before.
    tokenizer: of the images: a vqjax.tasks.prior.Tokenizer.
    spec: a batch's shapes.
    layouts: the Tokenizer of label maps that the condition names.
  """

  def __init__(
    self,
    condition: Condition,
    offset: int,
    tokenizer: Any,
    spec: Mapping[str, Any],
    layouts: Any = None,
  ):
    if not 0 <= condition.drop < 1:
      raise UserError(f"config.condition.drop: {condition.drop} is outside [0, 1).")
    if len(condition.layout_grid) != 2 or min(condition.layout_grid) < 1:
      raise UserError(
        f"config.condition.layout_grid: {condition.layout_grid} is no height and width; for example (8, 8)."
      )
    if condition.layouts and condition.layout_tokenizer:
      raise UserError(
        f"config.condition.layouts: {condition.layouts} and layout_tokenizer exclude each other; unset one of them."
      )
    for name, field, value in (
      ("labels", "label", condition.labels),
      ("layouts", "layout", condition.layouts),
      ("layout_tokenizer", "layout", condition.layout_tokenizer),
    ):
      if value and field not in spec:
        raise UserError(
          f"config.condition.{name}: the data has no {field}; it yields {', '.join(spec)}. Leave it out or use other data."
        )
    self.condition, self.layouts = condition, layouts
    self._layout_codes = tuple(layouts.codes(i) for i in range(layouts.levels)) if layouts else ()
    self.coarser = tuple(tokenizer.codes(i) for i in range(condition.level))
    self._label_offset = offset
    self._layout_offset = offset + condition.labels
    self._code_offsets = []
    rows = self._layout_offset + condition.layouts
    for codes in (*self._layout_codes, *self.coarser):
      self._code_offsets.append(rows)
      rows += codes.vocabulary
    self.rows = rows
    cells = math.prod(condition.layout_grid) if condition.layouts else 0
    self.layout_classes = layouts.task.known["classes"] if layouts else condition.layouts
    self.layout_size = layouts.spec["layout"].shape[1:] if layouts else tuple(condition.layout_grid)
    self.names = (
      *["label"] * bool(condition.labels),
      *["layout"] * (bool(condition.layouts) + len(self._layout_codes)),
      *["coarser"] * len(self.coarser),
    )
    self.length = (
      bool(condition.labels) + cells + sum(c.length for c in (*self._layout_codes, *self.coarser))
    )
    grids = [
      tuple(condition.layout_grid) if condition.layouts else (),
      *(c.grid for c in (*self._layout_codes, *self.coarser)),
    ]
    self.grid = grids[-1] if len(grids[-1]) == 2 else ()
    # Compiled by itself, as sampling calls it outside of any compiled function.
    self._encode_layout = jax.jit(
      lambda weights, layout: layouts.levels_of(weights, {"layout": layout})
    )

  def prepare(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Host side: the fields the task reads, layouts reduced to their grid.

    Raises UserError for a class out of range.
    """
    kept = {k: v for k, v in batch.items() if k == "image" or k.startswith("ids")}
    if self.condition.labels:
      kept["label"] = check_range(np.asarray(batch["label"]), self.condition.labels, "label")
    if self.layout_classes:
      kept["layout"] = self.prepare_layout(np.asarray(batch["layout"]))
    return kept

  def prepare_layout(
    self, layout_BHW: np.ndarray, scale: tuple[float, float] = (1, 1)
  ) -> np.ndarray:
    """Label maps as `tokens` takes them: reduced to the grid, or whole for their tokenizer.

    Args:
      layout_BHW: integers.
      scale: height and width of the picture that they describe, in those of the training ones.

    Raises:
      UserError: a class out of range, or a size that does not fit.
    """
    height, width = (round(n * s) for n, s in zip(self.layout_size, scale))
    if self.layouts is None:
      layout = check_range(layout_BHW, self.layout_classes, "layout")
      return reduce_layout(layout, (height, width), self.layout_classes)
    if layout_BHW.shape[1:] != (height, width):
      (h, w) = layout_BHW.shape[1:]
      raise UserError(
        f"layout: {h} x {w} pixels, config.condition.layout_tokenizer needs {height} x {width} here; "
        "resize it, with nearest neighbours."
      )
    return check_range(
      layout_BHW, self.layout_classes, "layout", "config.condition.layout_tokenizer"
    )

  def parts(
    self, batch: Mapping[str, jax.Array], levels: tuple[jax.Array, ...] = (), frozen: Any = None
  ) -> list[jax.Array]:
    """What `tokens` strings together, int32: a label's token `[B, 1]`, layouts and coarser codes as
    grids `[B, h, w, ...]`.
    """
    parts = []
    if self.condition.labels:
      parts.append(batch["label"].astype(jnp.int32)[:, None] + self._label_offset)
    if self.condition.layouts:
      parts.append(batch["layout"].astype(jnp.int32) + self._layout_offset)
    layout_ids = self._encode_layout(frozen["layout"], batch["layout"]) if self.layouts else ()
    given = zip((*self._layout_codes, *self.coarser), (*layout_ids, *levels), self._code_offsets)
    return parts + [codes.flatten(ids).reshape(ids.shape) + offset for codes, ids, offset in given]

  def tokens(
    self, batch: Mapping[str, jax.Array], levels: tuple[jax.Array, ...] = (), frozen: Any = None
  ) -> jax.Array:
    """int32 `[B, P]` of a prepared batch and the codes of the coarser levels; `frozen` holds the
    tokenizers' weights.
    """
    rows = next(iter(batch.values())).shape[0]
    return string(self.parts(batch, levels, frozen), rows)

  def drop(self, key: jax.Array, tokens_BP: jax.Array) -> jax.Array:
    """The prefix with all its tokens -1 in a share `drop` of the examples."""
    dropped = jax.random.bernoulli(key, self.condition.drop, tokens_BP.shape[:1])
    return jnp.where(dropped[:, None], -1, tokens_BP)


def string(parts: Sequence[jax.Array], rows: int) -> jax.Array:
  """Arrays `[rows, ...]` of tokens in a row, int32 `[rows, P]`."""
  return jnp.concatenate(
    [jnp.zeros((rows, 0), jnp.int32), *(part.reshape(rows, -1) for part in parts)], axis=1
  )


def check_range(values: np.ndarray, classes: int, name: str, source: str = "") -> np.ndarray:
  """Returns `values`; raises UserError naming the first one outside 0 ..

  classes - 1; `source` says where their number comes from.
  """
  if values.size and (values.min() < 0 or values.max() >= classes):
    bad = values[(values < 0) | (values >= classes)].flat[0]
    raise UserError(
      f"{name}: {bad} is outside 0 to {classes - 1}, the classes of {source or f'config.condition.{name}s={classes}'}."
    )
  return values


def reduce_layout(layout_BHW: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
  """The most frequent class of each cell, `[B, h, w]`; the smaller class wins a tie.

  Raises:
    UserError: H or W is not a multiple of the grid.
  """
  (batch, height, width), (h, w) = layout_BHW.shape, grid
  if height % h or width % w:
    raise UserError(
      f"layout: {height} x {width} is not a multiple of config.condition.layout_grid={grid}; choose a grid that divides it."
    )
  cells = (
    layout_BHW.reshape(batch, h, height // h, w, width // w)
    .transpose(0, 1, 3, 2, 4)
    .reshape(batch, h, w, -1)
  )
  counts = np.stack([(cells == c).sum(-1) for c in range(classes)], -1)
  return counts.argmax(-1).astype(np.int32)
