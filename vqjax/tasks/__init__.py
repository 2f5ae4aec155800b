"""Tasks: what is learned.

A task is a record of plain functions; the loop in train.py serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Task(NamedTuple):
  """What train.py and the commands need to know of a task.

  init(key, batch) -> (params, stats): params keyed by player ({"model": …, "disc": …}); stats is
  every other variable. loss(params, stats, frozen, batch, key, step) -> (scalar, (stats, metrics));
  metrics are float32 scalars. frozen() -> pytree on the host: never trained, never saved
  (perceptual weights, the tokenizer of a prior). frozen_shapes() -> the same as ShapeDtypeStructs,
  without reading a file. identity(frozen) -> {field of the config: hash} of frozen weights that may
  not change while the run lives; None: of none. predict: {name: fn(params, stats, frozen, batch) ->
  dict of arrays}, for evaluators, previews and the Python API. prepare(batch) -> batch: host-side,
  before the device sees it (picks the fields the task reads). evaluators: configs of the measures
  that this task is judged by, unless the config names others. passes: {player: fn(params, stats,
  frozen, batch) -> scalar} whose gradients are each player's forward and backward pass
    and no more: what bench compares the step's FLOPs with.
  factor: H and W of an image must be multiples of it.
  extra: what commands for this task alone use (for priors: the sampler), or None.
  known: values for those fields of measures that only the task knows (codebook sizes).
  """

  init: Callable[..., Any]
  loss: Callable[..., Any]
  frozen: Callable[[], Any]
  frozen_shapes: Callable[[], Any]
  predict: Mapping[str, Callable[..., Any]]
  prepare: Callable[[dict[str, Any]], dict[str, Any]]
  identity: Callable[[Any], dict[str, str]] | None = None
  passes: Mapping[str, Callable[..., Any]] = {}
  factor: int = 1
  evaluators: Sequence[Any] = ()
  known: Mapping[str, Any] = {}
  extra: Any = None
