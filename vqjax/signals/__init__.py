"""Signals: what a tokenizer learns to encode and decode. One file each, all with one contract.

A file defines a frozen dataclass `Signal`, whose fields a config may set, with

    signal.field: str                 the batch's field that is learned, and the key of predictions
    signal.axes: int                  grid axes: 1 sound, 2 images and maps, 3 video
    signal.likelihoods: {name: Likelihood}   the reconstruction losses it knows, see `Likelihood`
    signal.judged: bool               whether discriminators and perceptual losses can look at it
    signal.measures: tuple[str, ...]  measures of vqjax/evaluators that a run of it is judged by
    signal.spec(ops) -> (shape, dtype)    of one example's field under config.ops, where no data are
                                      read. Raises UserError where ops do not tell
    signal.channels(shape) -> int     channels that the model reads of a field of this shape
    signal.read(values) -> x          on the device: the field to what the model reads,
                                      float32 [B, *size, channels]
    signal.write(mean) -> values      on the device: a likelihood's mean to values as predictions
                                      give them (floats in [-1, 1], or classes)
    signal.prepare(values) -> values  on the host: raises UserError for a value out of range
    signal.given(values, shape) -> values   on the host: what a caller gave, checked against the
                                      shape [B, *size, …] of the training batches; sizes may differ
    signal.finished(values) -> values       on the host: predictions as a caller gets them (uint8)
    signal.pictures(values) -> uint8 [B, H, W, 1 or 3]     how people see them
    signal.suffixes: tuple[str, ...]  of the files that can be opened
    signal.open(file, shape, size=None) -> values without the batch axis   from a user's file;
                                      with `size`, cut and resized to it as evaluation data are
    signal.save(file, values), signal.suffix               to a file, by default of this suffix

`size` is the length of the grid axes: (T,), (H, W) or (T, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from vqjax.errors import UserError

MEMBER = "Signal"


class Likelihood(NamedTuple):
  """How a decoder's output is compared with the signal, and what it says of it.

  loss(output, x) -> scalar: mean over elements, in float32; x is what the model reads.
  mean(output) -> [B, *size, channels]: the signal that the output stands for, in x's scale.
  outputs: channels of the output for each channel of the signal.
  """

  loss: Callable[[jax.Array, jax.Array], jax.Array]
  mean: Callable[[jax.Array], jax.Array] = lambda output: output
  outputs: int = 1


def sized(ops: Mapping[str, Any]) -> int:
  """config.ops.size. Raises UserError where it is not set: no data are read to find out."""
  if not ops["size"]:
    raise UserError("config.ops.size: is not set; give it, since no data are read here.")
  return ops["size"]
