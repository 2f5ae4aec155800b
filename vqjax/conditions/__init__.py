"""Conditions: what stands before the latents, as tokens. One file each, all with one contract.

A file defines a frozen dataclass `Condition`, whose fields a config may set, with

    condition.field: str          the batch's field that it reads, and the name under which callers
                                  and the command line give it ("label"); several conditions may
                                  read one field, but not together in one prior
    condition.public: bool        whether callers can give it (coarser codes are drawn instead)
    condition.order: int          where it stands among several: smaller first
    condition.help: str           of its flag --<field>, where it is public
    condition.spec(ops) -> (shape, dtype)    of one example's prepared values under config.ops,
                                  where no data are read; only where it is given
    condition.bind(context) -> Lead
                                  what it is for the data and the tokenizer in `context`. Raises
                                  UserError where these do not have what it needs
    condition.parse(text, size) -> values [n, ...]    of the flag's text, one value or several, for
                                  examples of this size; likewise

A condition that is left out, by a caller or to train for classifier-free guidance (arXiv
2207.12598), has the token -1 everywhere: networks read a learned null vector there. One that says
nothing (an empty caption) is something else: it has tokens of its own.

What a condition makes of the data before a run is built, it makes in

    Condition.begin(values, dataset, workdir) -> values    a class method of those that need one:
                                  the condition's fields, completed. It writes what it makes into
                                  the workdir and reads it there again; `dataset` is a
                                  vqjax.data.Dataset, or None where it must be there
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vqjax import checks
from vqjax.errors import UserError
from vqjax.latents import Codes

MEMBER = "Condition"


class Context(NamedTuple):
  """What a condition may know of its prior.

  spec: a batch's shapes, {name: ShapeDtypeStruct}; of captions, which are no arrays, `spec`'s own.
  levels: codes of the tokenizer whose codes are learned, coarse first.
  level: which of them is learned.
  open(workdir, field, option) -> the frozen tokenizer of that field, a record with `levels`, `info`
    and `levels_of(frozen, batch)`; `option` names the config's field in messages.
  """

  spec: Mapping[str, Any]
  levels: tuple[Codes, ...]
  level: int
  open: Callable[[str, str, str], Any]


class Part(NamedTuple):
  """One run of tokens: `grid` its shape, `rows` how many different ones there are.

  spatial: whether the grid lies over the picture, so that it grows with it and a window sees a
    part.
  """

  grid: tuple[int, ...]
  rows: int
  spatial: bool = True


class Lead(NamedTuple):
  """A condition in use.

  parts: what its tokens are.
  prepare(values, scale) -> values: on the host, from a batch or a caller to what `tokens` reads.
    `scale` is the size of the whole in those of the training examples, per grid axis: (1, 1).
    Raises UserError for a value out of range or a size that does not fit.
  tokens(values, frozen) -> tuple of int32 [B, *grid], 0 to rows - 1, one for each of the parts.
  given(value, num) -> [num, ...]: what a caller gave, one for all or one for each. Raises UserError
    for another number or kind.
  tokenizer: whose weights `frozen` are, or None; see vqjax.tasks._first_stage.FirstStage for its
    `option`, `load`, `shapes` and `identity`.
  pictures(values) -> uint8 [B, H, W, 1 or 3] of prepared values, for previews; None where there is
    nothing to see.
  captions(values) -> list of str of values as `given` returns them, to stand under pictures; None
    where there is nothing to read.
  predicted: 0, or the weight in the loss of predicting the condition's own tokens from those
    before; what all conditions leave of 1 is the codes'.
  counted(tokens) -> bool [B, P'] of all its tokens in a row, which of them are predicted; None is
    all.
  """

  parts: tuple[Part, ...]
  prepare: Callable[[Any, tuple[float, ...]], np.ndarray]
  tokens: Callable[[Any, Any], tuple[Any, ...]]
  given: Callable[[Any, int], np.ndarray]
  tokenizer: Any = None
  pictures: Callable[[Any], np.ndarray] | None = None
  captions: Callable[[np.ndarray], list[str]] | None = None
  predicted: float = 0.0
  counted: Callable[[Any], Any] | None = None


def require(context: Context, field: str, option: str) -> None:
  """Raises UserError where the data have no such field."""
  if field not in context.spec:
    raise UserError(
      f"{option}: the data have no {field}; they yield {', '.join(context.spec)}. Leave the "
      "condition out, or use other data."
    )


def per_example(name: str, value: Any, num: int, axes: int) -> np.ndarray:
  """Integers [num, ...] of one value for all or of one for each, each with `axes` axes.

  Raises UserError for another number of them, or for what are no integers.
  """
  value = checks.array(name, value)
  if value.dtype.kind not in "iu" or value.ndim not in (axes, axes + 1):
    one = "one" if axes == 0 else "one map [H, W]"
    raise UserError(
      f"{name}: {value.dtype} of shape {value.shape}; give integers, {one} for all or for each."
    )
  if value.ndim > axes and len(value) not in (1, num):
    raise UserError(f"{name}: {len(value)} given for {num} example(s); give one, or one for each.")
  return np.broadcast_to(value, (num, *value.shape[value.ndim - axes :]))
