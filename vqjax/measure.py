"""Runs measures over a held-out split: exact on a ragged last batch, the same on any number of
devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vqjax import pictures, sharding
from vqjax.build import build
from vqjax.errors import UserError, near_miss
from vqjax.evaluators import add, gather, reduced


def measures(configs: Sequence[Any], **given: Any) -> dict[str, Any]:
  """{name: measure} of config entries, names or sub-dicts; `given` are the values for those fields
  of measures that the program sets.
  """
  made = {}
  for i, config in enumerate(configs):
    config = {"name": config} if isinstance(config, str) else dict(config)
    if config["name"] in made:
      raise UserError(f"config.evaluators[{i}]: {config['name']!r} is given twice; give it once.")
    made[config["name"]] = build("evaluators", config, f"config.evaluators[{i}]", **given)
  return made


class Measurement:
  """Several measures taken in one pass over a split, compiled once.

  Args:
    made: {name: measure}.
    predict: the task's predictions; each measure names the one it needs.
    mesh: the devices to use.
  """

  def __init__(self, made: Mapping[str, Any], predict: Mapping[str, Callable], mesh: Any):
    for name, m in made.items():
      if m.needs not in predict:
        raise UserError(
          f"config.evaluators: {name!r} needs the prediction {m.needs!r}, which this run has not; "
          f"it has {', '.join(sorted(predict))}."
        )
    self.made, self._predict, self._mesh = made, predict, mesh
    frozen = {name: getattr(m, "frozen", tuple)() for name, m in made.items()}
    self.frozen = jax.device_put(frozen, sharding.replicated(mesh))
    self._step = sharding.program(self.one_batch, mesh)

  def one_batch(
    self, frozen: Any, batch: Any, mask: jax.Array, index: jax.Array, weights: Any
  ) -> tuple[dict[str, Any], jax.Array]:
    """(what each measure takes of one batch, the whole batch's mask). Noise differs from batch to
    batch, and is the same whenever the split is measured.
    """
    key = jax.random.fold_in(jax.random.key(0), index)
    needs = sorted({m.needs for m in self.made.values()})
    outs = {need: self._predict[need](weights, batch, key) for need in needs}
    for name, m in self.made.items():
      if (field := getattr(m, "reads", None)) and field not in outs[m.needs]:
        raise UserError(
          f"config.evaluators: {name!r} measures {field}, and this run makes "
          f"{', '.join(sorted(outs[m.needs]))}; leave it out."
        )
    taken = {
      name: m.update(frozen[name], batch, outs[m.needs], mask) for name, m in self.made.items()
    }
    return taken, mask

  def over(self, batches: Iterable, weights: Any) -> dict[str, float]:
    """Every measure's figures over this process's `batches` of (batch, mask)."""
    totals: dict[str, Any] = dict.fromkeys(self.made)
    placed = (sharding.to_global(given, self._mesh) for given in batches)
    steps = (self._step(self.frozen, *p, np.int32(i), weights) for i, p in enumerate(placed))
    for taken, kept in _one_late(steps):
      for name, m in self.made.items():
        so_far, new = totals[name], taken[name]
        totals[name] = add(so_far, new) if m.reduction == "sum" else gather(so_far, new, kept)
    figures = {name: m.result(reduced(totals[name])) for name, m in self.made.items()}
    return {key: float(value) for found in figures.values() for key, value in found.items()}


def _one_late(steps: Iterable[Any]) -> Iterator[Any]:
  """What steps make, on the host, each when the next one is under way."""
  before = None
  for now in steps:
    if before is not None:
      yield jax.device_get(before)
    before = now
  if before is not None:
    yield jax.device_get(before)


def of_run(config: Mapping[str, Any], task: Any, mesh: Any) -> Measurement:
  """The config's measures of a task, or the task's own."""
  made = measures(config["evaluators"] or task.info.evaluators, **task.info.measured)
  return Measurement(made, task.predict, mesh)


class Preview(NamedTuple):
  """How a run shows what it has learned.

  page: uint8 [H, W, 3].
  clips: {prediction: what there is to hear of it}, see vqjax.signals.Clip; empty where nothing is.
  """

  page: np.ndarray
  clips: Mapping[str, Sequence[Any]]


class HeldOut:
  """The held-out examples by which a run is measured as it goes.

  Args:
    run: a vqjax.train.Run.
    dataset: the vqjax.data.Dataset.
    abstract: the weights as ShapeDtypeStructs.

  Raises:
    UserError: there are none, or what would else end the run at its first save: a measure that
      cannot be taken, an unknown `best`.
  """

  def __init__(self, run: Any, dataset: Any, abstract: Any):
    self._run, self._dataset = run, dataset
    if not dataset.size("eval"):
      raise UserError(
        "config.data: has no held-out examples, by which the run is measured; set some apart."
      )
    self._preview = sharding.program(run.task.predict["preview"], run.mesh)
    self._examples = run.task.prepare(dataset.sample(run.config["preview"] or 1))
    self._check_figures(abstract)

  def _check_figures(self, abstract: Any) -> None:
    measurement, rows = self._run.measurement, self._run.config["batch_size"]
    batch = {
      k: jax.ShapeDtypeStruct((rows, *v.shape[1:]), v.dtype) for k, v in self._examples.items()
    }
    mask, index = jax.ShapeDtypeStruct((rows,), "float32"), jax.ShapeDtypeStruct((), "int32")
    taken, _ = jax.eval_shape(
      measurement.one_batch, measurement.frozen, batch, mask, index, abstract
    )
    names = set()
    for name, m in measurement.made.items():
      ones = {k: np.ones(v.shape) for k, v in taken[name].items()}
      names |= set(m.result(ones))
    best = self._run.config["best"].removeprefix("-")
    if best and best not in names:
      plain = [name for name in names if "/" not in name]
      raise UserError(f"config.best: there is no held-out figure {best!r}.{near_miss(best, plain)}")

  def figures(self, weights: Any) -> dict[str, float]:
    """The run's measures over its first `eval_examples` held-out examples."""
    limit = self._run.config["eval_examples"]
    return evaluate_split(self._run, self._dataset, weights, limit=limit)

  def preview(self, weights: Any) -> Preview | None:
    """What the run makes of its preview's examples; None where it has none."""
    run = self._run
    if not run.config["preview"]:
      return None
    batch = jax.device_put(self._examples, sharding.replicated(run.mesh))
    # The same noise at every step shows what training changes.
    key = jax.random.key(run.config["seed"])
    out = jax.device_get(self._preview(weights, batch, key))
    signal, rows = run.task.info.signal, run.task.info.pictures(self._examples, out)
    parts = pictures.broken([len(row) for row in rows], signal.columns, together=True)
    clips = {name: signal.clips(values) for name, values in out.items()}
    return Preview(pictures.sheet([rows[i][part] for i, part in parts]), clips)


def evaluate_split(
  run: Any,
  dataset: Any,
  weights: Any,
  limit: int | None = None,
  batch_size: int | None = None,
  split: str = "eval",
) -> dict[str, float]:
  """The run's measures over the held-out or another split, or over its first `limit` examples."""
  local = sharding.local_batch_size(batch_size or run.config["batch_size"], run.mesh)
  place = dict(process_index=jax.process_index(), process_count=jax.process_count())
  batches = dataset.batches(local, split=split, limit=limit, **place)
  prepared = ((run.task.prepare(batch), mask) for batch, mask in batches)
  return run.measurement.over(prepared, weights)
