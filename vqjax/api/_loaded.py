"""A run opened for use: its config, its task and its newest weights."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from vqjax import checkpoint, config as configuration, files, lineage, sharding, train
from vqjax.data import Dataset
from vqjax.errors import UserError
from vqjax.tasks import Weights


class Loaded(NamedTuple):
  """A run and its newest weights, averaged ones where an average was kept, on the devices."""

  workdir: files.Path
  config: Any
  run: train.Run
  weights: Weights

  def dataset(self) -> Dataset:
    """The data that the run was trained on."""
    configuration.check_there(self.config, self.workdir, "data")
    return Dataset(self.config.data, self.config.ops)


def open_run(workdir: str | os.PathLike[str]) -> Loaded:
  """Reads the run in `workdir`.

  Raises UserError where there is none, or nothing of it was saved.
  """
  workdir = files.path(workdir)
  config = configuration.located(configuration.of_run(workdir), workdir)
  spec = configuration.read_spec(workdir)
  if spec is None:
    raise UserError(f"--workdir={workdir}: holds no batch.json; the run has not started yet.")
  config.mesh = _mesh(config.mesh)
  run = train.Run(config, spec)
  abstract = run.abstract
  wanted = {"params": abstract.params, "stats": abstract.stats}
  if abstract.ema is not None:  # instead of the model's own parameters
    others = {k: v for k, v in abstract.params.items() if k != "model"}
    wanted |= {"params": others, "ema": abstract.ema}
  parts = checkpoint.restore_params(workdir, {k: v for k, v in wanted.items() if v})
  params = parts.get("params", {}) | ({"model": parts["ema"]} if "ema" in parts else {})
  weights = Weights(params, parts.get("stats", abstract.stats), run.load_frozen())
  lineage.check_frozen(run.task.frozen.identity(weights.frozen), config, workdir)
  return Loaded(workdir, config, run, weights)


def _mesh(mesh: Any) -> Any:
  """The run's mesh where these devices can make it, so that what was split over them is again; else
  all of them for data.
  """
  try:
    sharding.make_mesh(**mesh)
  except UserError:
    return {}
  return mesh
