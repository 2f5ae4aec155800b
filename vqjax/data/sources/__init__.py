"""Sources: where examples come from. One file each, with a frozen dataclass `Source` whose fields
the config sets.

`shapes`, `arrays` and `folder` give random access, without TensorFlow:

    Source.examples(split) -> Examples     split is "train" or "eval"; len() and [index]
    Source.class_names() -> tuple[str, ...]   empty where classes have no names

An example is a dict: `image` uint8 [H, W, C], where there are such `label` int32, `text` str,
  `layout` uint8 [H, W] and
further arrays, and `name`, which messages call it by and which never reaches a batch.
`examples[index]` is None where a file cannot be read: the source has counted and logged it, and
raises UserError once that happens too often.

`tfds` reads records in sequence instead and has `records` and `num_examples`; see its file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

MEMBER = "Source"

EVAL_NAMES = ("eval", "validation", "valid", "val", "test")


class Examples(Protocol):
  """A split with random access."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any] | None: ...


def hold_out(names: Sequence[str]) -> np.ndarray:
  """Bool [N], True for the one in ten that is held out, by a hash of the name; at least one of two
  or more.
  """
  held = np.array(
    [hashlib.sha1(n.encode("utf-8", "surrogateescape")).digest()[0] % 10 == 0 for n in names], bool
  )
  if len(names) > 1 and not held.any():
    held[-1] = True
  return held
