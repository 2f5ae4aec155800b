"""Runs measures over a held-out split: exact on a ragged last batch, the same on any number of
devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from vqjax import sharding
from vqjax.build import build
from vqjax.evaluators import add


def measures(configs: Sequence[Any], **known: Any) -> dict[str, Any]:
  """{name: measure} of config entries, names or sub-dicts; the fields in `known` that a measure has
  are set by the program.
  """
  made = {}
  for i, config in enumerate(configs):
    config = {"name": config} if isinstance(config, str) else dict(config)
    made[config["name"]] = build("evaluators", config, f"config.evaluators[{i}]", **known)
  return made


class Measurement:
  """Several measures taken in one pass over a split, compiled once.

  Args:
    made: {name: measure}.
    predict: the task's predictions; each measure names the one it needs.
    mesh: the devices to use.
  """

  def __init__(self, made: Mapping[str, Any], predict: Mapping[str, Callable], mesh: Any):
    self.made, self._predict, self._mesh = made, predict, mesh
    self._weights = jax.device_put(
      {name: m.frozen() for name, m in made.items()}, sharding.replicated(mesh)
    )
    self._step = jax.jit(self._one_batch, out_shardings=sharding.replicated(mesh))

  def _one_batch(
    self, weights: Any, batch: Any, mask: jax.Array, params: Any, stats: Any, frozen: Any
  ) -> Any:
    outs = {
      need: self._predict[need](params, stats, frozen, batch)
      for need in sorted({m.needs for m in self.made.values()})
    }
    return {
      name: m.update(weights[name], batch, outs[m.needs], mask) for name, m in self.made.items()
    }

  def over(self, batches: Iterable, state: tuple) -> dict[str, float]:
    """Every measure's figures over this process's `batches` of (batch, mask); `state` is (params,
    stats, frozen).
    """
    totals: dict[str, Any] = dict.fromkeys(self.made)
    for batch, mask in batches:
      sums = jax.device_get(
        self._step(self._weights, *sharding.to_global((batch, mask), self._mesh), *state)
      )
      totals = {name: add(totals[name], sums[name]) for name in self.made}
    return {
      key: float(value)
      for name, m in self.made.items()
      for key, value in m.result(totals[name]).items()
    }
