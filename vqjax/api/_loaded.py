"""A run opened for use: its config, its task and its weights."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from vqjax import (
  build,
  checkpoint,
  config as configuration,
  data,
  files,
  lineage,
  measure,
  sharding,
)
from vqjax.errors import UserError
from vqjax.tasks import Task, Weights


@dataclasses.dataclass
class Opened:
  """What predictions need of a run beside its weights: no optimizer, no step.

  Attributes:
    config: completed.
    task: a vqjax.tasks.Task.
    mesh: the devices.
  """

  config: Any
  task: Task
  mesh: Any

  @functools.cached_property
  def measurement(self) -> measure.Measurement:
    """The config's measures, or the task's own."""
    return measure.of_run(self.config, self.task, self.mesh)

  def weights(
    self, workdir: files.Path, spec: Mapping[str, Any], whole: bool = False, step: int | None = None
  ) -> Weights:
    """The newest ones saved in `workdir`, or those of `step`, on the devices: the model's, which
    predictions read and an export holds, or the `whole` of them; `spec` is a batch of one row.
    """
    players = jax.eval_shape(self.task.init, jax.random.key(0), dict(spec))
    whole = whole and not files.is_packed(workdir)
    params, stats = players if whole else ({"model": tree["model"]} for tree in players)
    wanted = {"params": dict(params), "stats": stats}
    if self.config.ema_decay:  # instead of the model's own parameters
      wanted["ema"] = wanted["params"].pop("model")
    wanted = {k: v for k, v in wanted.items() if v}
    places = sharding.shardings(self.config.sharding, self.mesh, wanted)
    parts = checkpoint.restore_params(workdir, checkpoint.with_sharding(wanted, places), step)
    params = parts.get("params", {}) | ({"model": parts["ema"]} if "ema" in parts else {})
    frozen = self.task.frozen.load() if self.task.frozen.predicted else {}
    frozen = jax.device_put(frozen, sharding.replicated(self.mesh))
    return Weights(params, parts.get("stats", stats), frozen)


class Loaded(NamedTuple):
  """A run and its weights, averaged ones where an average was kept, on the devices."""

  workdir: files.Path
  config: Any
  run: Opened
  weights: Weights

  def dataset(self, source: str | None = None) -> data.Dataset:
    """The data that the run was trained on, or what `source` names, as --data, in their place."""
    if source is not None:
      return data.Dataset(data.resolve(source), self.config.ops)
    configuration.check_there(self.config, self.workdir, "data")
    return data.Dataset(self.config.data, self.config.ops)


def open_run(
  workdir: str | os.PathLike[str], whole: bool = False, step: int | None = None
) -> Loaded:
  """Reads the run in `workdir`, a folder or an exported run.

  Args:
    workdir: where it is.
    whole: all of its weights, its adversary's too, which no prediction reads.
    step: the saved one to read, by default the newest.

  Raises UserError where there is none, or nothing of it was saved.
  """
  if not isinstance(workdir, str | os.PathLike):
    raise UserError(f"workdir: {workdir!r} is no path; give that of a run.")
  workdir = files.path(workdir)
  config = configuration.located(configuration.of_run(workdir), workdir)
  spec = configuration.read_spec(workdir)
  if spec is None:
    raise UserError(f"--workdir={workdir}: holds no batch.json; the run has not started yet.")
  run = Opened(config, build.module("tasks", config.task).make(config, spec), _mesh(config.mesh))
  weights = run.weights(workdir, spec, whole, step)
  lineage.check_frozen(run.task.frozen.identity(weights.frozen), config, workdir)
  return Loaded(workdir, config, run, weights)


def _mesh(mesh: Mapping[str, int]) -> Any:
  """The run's mesh where these devices can make it, so that what was split over them is again; else
  all of them for data.
  """
  try:
    return sharding.make_mesh(**mesh)
  except UserError:
    return sharding.make_mesh()
