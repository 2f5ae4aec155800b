"""Recall: how often an image's own caption is among the k nearest of the whole split, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax.errors import UserError

_ROWS = 1_024  # of the matrix of similarities, at a time


@dataclasses.dataclass(frozen=True)
class Measure:
  """ "image_to_text@k" and "text_to_image@k", their mean "recall@k", and "recall_chance@1", what
  guessing reaches: one in the number of examples.

  Of equal similarities any order counts as likely: equal captions share what they find, and a model
  that says the same of everything is at chance.

  Attributes:
    k: how many nearest ones are looked at.
  """

  k: Sequence = (1, 5, 10)

  needs: ClassVar[str] = "embed"
  reduction: ClassVar[str] = "gather"
  protocol: ClassVar[str] = (
    "share of examples whose own counterpart is among the k of highest cosine similarity within "
    "the examples measured; equal similarities in random order"
  )

  def __post_init__(self) -> None:
    if not self.k or not all(isinstance(k, int) and k > 0 for k in self.k):
      raise UserError(f"k: {self.k} is no list of positive integers; for example (1, 5, 10).")

  def update(
    self, frozen: Any, batch: dict[str, Any], out: dict[str, Any], mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Unit vectors {"image", "text"} float32 [B, D]."""
    return {k: out[k].astype(jnp.float32) for k in ("image", "text")}

  def result(self, rows: dict[str, np.ndarray]) -> dict[str, float]:
    """Recall in [0, 1], see the class."""
    image, text = rows["image"], rows["text"]
    ways = {"image_to_text": _places(image, text), "text_to_image": _places(text, image)}
    figures = {"recall_chance@1": 1 / len(image)}
    for k in self.k:
      found = {name: float(_share(*places, k).mean()) for name, places in ways.items()}
      figures |= {f"{name}@{k}": value for name, value in found.items()}
      figures[f"recall@{k}"] = sum(found.values()) / len(found)
    return figures


def _places(queries_ND: np.ndarray, keys_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """For query i, how many keys are nearer than key i, and how many as near, itself counted: [N]."""
  nearer, equal = [], []
  for start in range(0, len(queries_ND), _ROWS):
    found = queries_ND[start : start + _ROWS] @ keys_ND.T
    own = np.take_along_axis(found, np.arange(start, start + len(found))[:, None], axis=1)
    # Equal captions have equal vectors but for rounding.
    close = np.abs(found - own) <= 1e-6
    nearer.append(((found > own) & ~close).sum(1))
    equal.append(close.sum(1))
  return np.concatenate(nearer), np.concatenate(equal)


def _share(nearer: np.ndarray, equal: np.ndarray, k: int) -> np.ndarray:
  """Probability that one of `equal` keys in random order after `nearer` is among the first k."""
  return np.clip((k - nearer) / np.maximum(equal, 1), 0, 1)
