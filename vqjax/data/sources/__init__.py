"""Sources: where examples come from. One file each, with a frozen dataclass `Source` whose fields
the config sets.

    Source.class_names() -> tuple[str, ...]   empty where classes have no names

With random access, where threads make batches:

    Source.examples(split) -> Examples        split is "train" or "eval"; len() and [index]
    Examples.content(index) -> dict           what the fingerprint hashes, where that should not be
                                              the example itself (files as they are, not decoded)
    Examples.texts: Sequence[str] | None      all captions, where they can be had without pictures
    Examples.labels: Sequence[int] | None     all labels, likewise

An example is a dict: `image` uint8 [H, W, C], where there are such `label` int32, `text` str, or a
sequence of several, `layout` uint8 [H, W] and further arrays (of sound instead `audio` float32
[T, C] and its `rate`), and `name`, which messages call it by and which never reaches a batch.
`examples[index]` is None where a file cannot be read: the source has counted and logged it, and
raises UserError once that happens too often.

Instead, with records in sequence, which tf.data reads, see tfds.py:

    Source.num_examples(split) -> int
    Source.records(split, seed=…, process_index=…, process_count=…) -> tf.data.Dataset
    Source.channels() -> int                  of pictures; of sound Source.rate(), samples a second
    Source.dataset: str                       what messages call it

Where there is something to say:

    Source.made_by() -> str                   hash of the tokenizer whose codes these are
    Source.identity() -> dict[str, str]       what the fingerprint holds beside counts and sample

Sources of files at a path that `--data` may name:

    Source.recognise(path) -> dict | None     their config for what lies at an absolute path;
                                              UserError where only the user can tell
    Source.precedence: ClassVar[int]          the lower ones are asked first
    Source.kind: ClassVar[str]                what they recognise, for messages
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

MEMBER = "Source"

EVAL_NAMES = ("eval", "validation", "valid", "val", "test")


class Examples(Protocol):
  """A split with random access."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any] | None: ...


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A split of examples that are drawn by number. The held-out ones are the same whatever
  `source.num_train` is.

  Attributes:
    source: has `num_train` and `num_eval`.
    split: "train" or "eval".
    noun: what one of them is called.
    draw: an example, a pure function of its number.
    coarse: what of an example processors agree on, to the last bit.
  """

  source: Any
  split: str
  noun: str
  draw: Callable[[int], dict[str, Any]]
  coarse: Callable[[dict[str, Any]], dict[str, Any]]

  def __len__(self) -> int:
    return self.source.num_train if self.split == "train" else self.source.num_eval

  def __getitem__(self, index: int) -> dict[str, Any]:
    first = 0 if self.split == "train" else 1 << 40
    return self.draw(first + index) | {"name": f"{self.noun} {index}"}

  def content(self, index: int) -> dict[str, Any]:
    return self.coarse(self[index])


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
