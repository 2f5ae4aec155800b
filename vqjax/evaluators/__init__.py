"""Evaluators: measures over a whole split, exact on a ragged last batch. One file per measure.

A file defines a frozen dataclass `Measure` (its fields a config may set) with

    measure.frozen() -> pytree     weights of a network the measure uses, on the host; absent
                                   where it uses none, and () is what `update` gets
    measure.needs: str             which of the task's predictions `out` is: "reconstruct",
                                   "sample", "likelihood", …
    measure.reads: str             the kind of signal it is for, a field of `batch` and `out`;
                                   absent where it takes any
    measure.update(frozen, batch, out, mask) -> {name: array}      pure and jittable: of one batch
    measure.reduction: str         what becomes of them over the split: "sum" adds them up, "gather"
                                   concatenates rows [B, …] (features, for distances between
                                   distributions)
    measure.result(reduced) -> {name: float}
    measure.protocol: str          one line that makes the figures comparable

- `mask` `[B]` is 0 on the padding of the last batch, whose examples count nowhere: a measure that
  sums leaves them out itself, of one that gathers their rows are dropped.
- A batch's sums are small float32 or exact int32; the host adds them up in float64.
- For reconstructions `batch["image"]` is uint8 `[B, H, W, C]`, `out["image"]` float in [-1, 1], and
  `out["ids"]` int32 `[B, ...]`, a tuple of such for a hierarchy, or None. Measures see the
  reconstruction as a viewer would: rounded to 8 bits. Of label maps, `batch["layout"]` and
  `out["layout"]` are uint8 `[B, H, W]`; of video, `batch["video"]` and `out["video"]` as of images,
  `[B, T, H, W, C]`.
- Keys of `result` that end a path, "codes/0/usage", are details of the key without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

MEMBER = "Measure"

Sums = dict[str, np.ndarray]


def add(total: Sums | None, sums: Mapping[str, Any]) -> Sums:
  """Adds one batch's sums to the total so far, in float64 on the host; None starts a total."""
  sums = {key: np.asarray(value).astype(np.float64) for key, value in sums.items()}
  return sums if total is None else {key: total[key] + sums[key] for key in total}


def gather(rows: list[Sums] | None, more: Mapping[str, Any], mask: np.ndarray) -> list[Sums]:
  """Appends the rows of one batch whose mask is not 0 to those so far; None starts with none."""
  kept = {key: np.asarray(value)[np.asarray(mask) != 0] for key, value in more.items()}
  return [*(rows or ()), kept]


def reduced(total: Sums | list[Sums]) -> Sums:
  """What a measure's `result` takes, of what `add` or `gather` made of the batches."""
  if not isinstance(total, list):
    return total
  return {key: np.concatenate([rows[key] for rows in total]) for key in total[0]}
