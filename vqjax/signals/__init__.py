"""Signals: what a tokenizer learns to encode and decode. One file each, all with one contract.

A file defines a frozen dataclass `Signal`, whose fields a config may set, with

    signal.field: str                 the batch's field that is learned, and the key of predictions
    signal.axes: int                  grid axes: 1 sound, 2 images and maps, 3 video
    signal.likelihoods: {name: Likelihood}   the reconstruction losses it knows, see `Likelihood`
    signal.distances: {name: fn}      further terms of a loss that compare a reconstruction with the
                                      original: fn(x, recon) -> scalar, both in x's scale
    signal.judges: tuple[str, ...]    who else can look at it: "discriminator", "perceptual" (LPIPS)
    signal.measures: tuple[str, ...]  measures of vqjax/evaluators that a run of it is judged by
    signal.noun: str                  what people call one example, in figures and messages
    signal.amount(shape) -> (unit, number)    what figures are told of, and how much of it is in an
                                      example of this shape: ("image", 1.0), ("second", 2.5)
    signal.spec(ops) -> (shape, dtype)    of one example's field under config.ops, where no data are
                                      read. Raises UserError where ops do not tell
    signal.sizes(shape) -> dict       the fields of config.ops that make examples of this shape
    signal.channels(shape) -> int     channels that the model reads of a field of this shape
    signal.read(values) -> x          on the device: the field to what the model reads,
                                      float32 [B, *size, channels]
    signal.write(mean) -> values      on the device: a likelihood's mean to values as predictions
                                      give them (floats in [-1, 1], or classes)
    signal.prepare(values) -> values  on the host: raises UserError for a value out of range
    signal.given(values, shape) -> values   on the host: what a caller gave, checked against the
                                      shape [B, *size, …] of the training batches; sizes may differ
    signal.finished(values) -> values       on the host: predictions as a caller gets them (uint8)
    signal.pictures(values, hidden=None) -> uint8 [B, H, W, 1 or 3]     how people see them; grey
                                      where `hidden`, bool [B, *size], says that nothing is known
    signal.columns: int | None        how many of these pictures stand beside each other at most
    signal.clips(values) -> [Clip]    how people hear them; () where there is nothing to hear
    signal.suffixes: tuple[str, ...]  of the files that can be opened
    signal.open(file, shape, size=None) -> values without the batch axis   from a user's file;
                                      with `size`, cut and resized to it as evaluation data are
    signal.suffix: str                of the files that are written by default
    signal.suffix_for(file) -> str    of what is made of a file: its own where that can be written
    signal.save(file, values)         one example to a file
    signal.check_page(file)           raises UserError where `save_page` writes no such files
    signal.save_page(file, rows, together=False) -> [file]     examples for people, to one file or,
                                      numbered, to several; `together` says that the rows hold the
                                      same examples

`size` is the length of the grid axes: (T,), (H, W) or (T, H, W). Fields that the program sets
(`vqjax.fields.program`) take the values that `config.ops` has under their names.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vqjax import pictures
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


class Row(NamedTuple):
  """Examples that stand beside each other on a page.

  values: as a signal's `finished` gives them.
  hidden: bool [B, *size], of which positions nothing is known; None for none.
  captions: a text below each, or none at all.
  """

  values: np.ndarray
  hidden: np.ndarray | None = None
  captions: Sequence[str] = ()


class Clip(NamedTuple):
  """Sound: float32 samples [T, C] in about [-1, 1], `rate` of them in a second."""

  samples: np.ndarray
  rate: int


def page(signal: Any, rows: Sequence[Row], together: bool = False) -> np.ndarray:
  """One uint8 RGB picture of all rows, which are broken where a signal's pictures are wide."""
  shown = [signal.pictures(row.values, row.hidden) for row in rows]
  captions = [row.captions for row in rows]
  parts = pictures.broken([len(row) for row in shown], signal.columns, together)
  return pictures.sheet(
    [shown[i][part] for i, part in parts], captions=[captions[i][part] for i, part in parts]
  )


def save_sheet(
  signal: Any, file: pathlib.Path, rows: Sequence[Row], together: bool = False
) -> list[pathlib.Path]:
  """`save_page` of what is best seen as one picture."""
  pictures.save(file, page(signal, rows, together))
  return [file]


def check_sheet(signal: Any, file: pathlib.Path) -> None:
  """`check_page` of what is best seen as one picture."""
  del signal
  pictures.check(file)


def always_its_own(signal: Any, file: pathlib.Path) -> str:
  """`suffix_for` of what is written in one format whatever it came in."""
  del file
  return signal.suffix


def unheard(signal: Any, values: Any) -> tuple[()]:
  """`clips` of what has no sound."""
  del signal, values
  return ()


def sized(ops: Mapping[str, Any]) -> int:
  """config.ops.size. Raises UserError where it is not set: no data are read to find out."""
  if not ops["size"]:
    raise UserError("config.ops.size: is not set; give it, since no data are read here.")
  return ops["size"]
