"""Runs measures over a held-out split: exact on a ragged last batch, the same on any number of devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from vqjax import sharding
from vqjax.build import build, module
from vqjax.evaluators import add


def measures(configs: Sequence[Any], **known: Any) -> dict[str, Any]:
  """{name: measure} of config entries, names or sub-dicts; the fields in `known` that a measure has are set by the program."""
  made = {}
  for i, config in enumerate(configs):
    config = {"name": config} if isinstance(config, str) else dict(config)
    fields = {f.name for f in dataclasses.fields(module("evaluators", config["name"]).Measure)}
    mine = {k: v for k, v in known.items() if k in fields}
    made[config["name"]] = build("evaluators", config, f"config.evaluators[{i}]", **mine)
  return made


def run(made: Mapping[str, Any], predict: Mapping[str, Callable], state: tuple, batches: Iterable, mesh: Any) -> dict[str, float]:
  """Every measure's figures over `batches` of (batch, mask), in one pass.

  Args:
    made: {name: measure}.
    predict: the task's predictions; each measure names the one it needs.
    state: (params, stats, frozen).
    batches: of this process's part; `mask` is 0 on padding.
    mesh: the devices to use.
  """

  def one_batch(weights: Any, batch: Any, mask: jax.Array, params: Any, stats: Any, frozen: Any) -> Any:
    outs = {need: predict[need](params, stats, frozen, batch) for need in sorted({m.needs for m in made.values()})}
    return {name: m.update(weights[name], batch, outs[m.needs], mask) for name, m in made.items()}

  step = jax.jit(one_batch, out_shardings=sharding.replicated(mesh))
  weights = jax.device_put({name: m.frozen() for name, m in made.items()}, sharding.replicated(mesh))
  totals: dict[str, Any] = dict.fromkeys(made)
  for batch, mask in batches:
    sums = jax.device_get(step(weights, *sharding.to_global((batch, mask), mesh), *state))
    totals = {name: add(totals[name], sums[name]) for name in made}
  return {key: float(value) for name, m in made.items() for key, value in m.result(totals[name]).items()}
