"""Time as the first grid axis of an autoencoder: how often it is halved, and by what it is seen."""

from __future__ import annotations

from typing import Any

from vqjax.errors import UserError
from vqjax.nn import causal


def check(model: Any, downsamples: int) -> None:
  """Raises UserError for fields `time` and `time_downsamples` that do not fit the axes, or more
  halvings of time than there are of space.
  """
  if model.time == "causal" and model.axes == 2:
    raise UserError("time: 'causal' is for sound and video; images have no time, use 'same'.")
  given = model.time_downsamples
  if given is not None and not 0 <= given <= downsamples:
    raise UserError(
      f"time_downsamples: {given} is outside 0 to {downsamples}, how often the others are halved."
    )


def strides(model: Any, downsamples: int) -> tuple[tuple[int, ...], ...]:
  """Strides of each of the downsamplings, finest first: the last ones halve time too."""
  often = downsamples if model.time_downsamples is None else model.time_downsamples
  return tuple(
    (2 if i >= downsamples - often else 1,) + (2,) * (model.axes - 1) for i in range(downsamples)
  )


def factors(model: Any, downsamples: int) -> tuple[int, ...]:
  """What the strides come to."""
  often = downsamples if model.time_downsamples is None else model.time_downsamples
  return (2**often,) + (2**downsamples,) * (model.axes - 1)


def first(model: Any) -> tuple[int, ...]:
  """How many positions the first code of each axis stands for."""
  return (causal.first_steps(model.factors[0], model.time), *model.factors[1:])
