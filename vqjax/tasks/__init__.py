"""Tasks: what is learned. A task is a record of plain functions; the loop in train.py serves all.

A file defines `make(config, spec) -> Task` for a completed config and a batch's shapes
{name: ShapeDtypeStruct}, and the dataclass `Fields` of what a config of the task holds beside
vqjax.config.Common. Where it says

    begin(config, dataset, workdir) -> config

training calls it first: it makes what the data decide (a vocabulary), keeps it in the workdir, and
returns the config that names it. A conversion calls it without a dataset, to keep what is named.
Where it says

    made(config) -> {field: (shape, dtype)}

these are of one example what `prepare` makes of fields that are no arrays (captions), and `spec`
holds them so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vqjax.errors import UserError


def need(batch: Mapping[str, Any], field: str) -> Any:
  """batch[field]. Raises UserError where the data have none."""
  if field not in batch:
    raise UserError(
      f"config.data: yields {', '.join(batch)}, no {field}, which the run reads; use other data."
    )
  return batch[field]


class Weights(NamedTuple):
  """All that a prediction depends on beside its batch and its key.

  params: keyed by player, {"model": …, "disc": …}; averaged where an average is kept.
  stats: every other variable of the players, likewise.
  frozen: what nobody trains (perceptual weights, the tokenizer of a prior).
  """

  params: Any
  stats: Any
  frozen: Any


class Frozen(NamedTuple):
  """Weights that the loss reads, nobody trains and no checkpoint holds.

  load() -> pytree on the host.
  shapes() -> the same as ShapeDtypeStructs, without reading a file.
  identity(frozen) -> {field of the config: hash} of those that may not change while the run lives.
  predicted: whether predictions read them too.
  """

  load: Callable[[], Any] = dict
  shapes: Callable[[], Any] = dict
  identity: Callable[[Any], dict[str, str]] = lambda frozen: {}
  predicted: bool = True


class Info(NamedTuple):
  """What commands and measures may ask about a run.

  signal: what its tokenizer encodes, see vqjax/signals.
  shape: of one example of that signal in training, without the batch axis.
  factors: per grid axis, what a size must be a multiple of.
  levels: the latents that its tokenizer yields, coarse first, see vqjax.latents: codes where it has
    them, else floats; () where nothing is encoded.
  floats: the latents before its quantizer, not normalised; () of a model without `latents`.
  evaluators: the measures that it is judged by, unless its config names others.
  pictures(batch, out) -> rows of uint8 pictures [N, H, W, 1 or 3] of the prediction "preview".
  exact: whether the prediction "likelihood" is -log p itself, or else a bound on it.
  modules: the record behind the task's functions, for what serves this task alone (the sampler).
  """

  signal: Any
  shape: tuple[int, ...]
  factors: tuple[int, ...]
  levels: tuple[Any, ...]
  evaluators: tuple[Any, ...]
  pictures: Callable[[Any, Any], Sequence[Any]]
  modules: Any
  exact: bool = False
  floats: tuple[Any, ...] = ()

  @property
  def size(self) -> tuple[int, ...]:
    """Lengths of the signal's grid axes."""
    return tuple(self.shape[: self.signal.axes])

  @property
  def first(self) -> tuple[int, ...]:
    """How many positions the first code of each axis stands for: as many as all others (`factors`),
    or fewer where a tokenizer is causal in time.
    """
    return tuple((n - 1) % factor + 1 for n, factor in zip(self.size, self.factors))

  def spans(self, grid: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Of each axis of a level's grid, (how many positions a code stands for, how many of them the
    first code lacks).
    """
    spans = ()
    for n, cells, first, factor in zip(self.size, grid, self.first, self.factors):
      after = max(1, (n - first) // max(1, cells - 1))  # by which all but the first are apart
      spans += ((n // cells, 0),) if first == factor else ((after, after - first),)
    return spans

  @property
  def measured(self) -> dict[str, Any]:
    """Values for the fields of measures that the program sets."""
    return {
      "signal": self.signal,
      "levels": self.levels,
      "latent": getattr(self.modules, "latent", None),
      "values": math.prod(self.shape),
      "amount": self.signal.amount(self.shape),
      "exact": self.exact,
    }


class Task(NamedTuple):
  """What the loop needs to know.

  init(key, batch) -> (params, stats): params keyed by player ({"model": …, "disc": …}); stats is
    every other variable.
  loss(params, stats, frozen, batch, key, step) -> (scalar, (stats, metrics)); metrics are float32
    scalars.
  predict: {name: fn(weights, batch, key) -> dict of arrays}, for measures, previews and the API;
    `weights` is a `Weights`.
  prepare(batch) -> batch: on the host; picks and checks the fields that the task reads.
  early: (until, loss) where another loss serves the steps before `until`, with fewer metrics: what
    counts nothing there is not computed.
  restart(average, params, before, after) -> average: of params["model"], with the entries that mean
    something else since the step which began with `params` and led from the stats `before` to
    `after`: they take the value in `params`, from which they are averaged anew.
  """

  init: Callable[..., Any]
  loss: Callable[..., Any]
  predict: Mapping[str, Callable[..., Any]]
  prepare: Callable[[dict[str, Any]], dict[str, Any]]
  info: Info
  frozen: Frozen = Frozen()
  early: tuple[int, Callable[..., Any]] | None = None
  restart: Callable[[Any, Any, Any, Any], Any] = lambda average, params, before, after: average
