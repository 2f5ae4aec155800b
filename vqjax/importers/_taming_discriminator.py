"""The `NLayerDiscriminator` of a taming-transformers checkpoint, read and written as `patchgan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from vqjax.build import build
from vqjax.errors import UserError
from vqjax.importers import _reader

PREFIX = "loss.discriminator."


def read(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]] | None:
  """The discriminator under PREFIX, or in a file of its own; None where there is none.

  Returns:
    config for `build("discriminators", ...)`; variables {"params", "batch_stats"}.

  Raises:
    UserError: tensors that are missing, extra or misshapen, all named, or its ActNorm variant.
  """
  prefix = PREFIX
  if not any(name.startswith(prefix) for name in state):
    if "main.0.weight" not in state:
      return None
    prefix = ""
  state = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
  if any(name.endswith(".loc") for name in state):
    raise UserError(
      "taming discriminator: its ActNorm layers are not supported; leave the discriminator out."
    )
  source = _reader.Reader(state, "taming discriminator")
  convolutions = sum(x.ndim == 4 for x in state.values())
  config = dict(
    name="patchgan",
    channels=source.size("the width", ("main.0.weight", 0), ("main.0.bias", 0)),
    n_layers=convolutions - 2,
    norm="batch",
  )
  side = 4 * 2 ** max(config["n_layers"], 0)
  channels = source.size("the image's channels", ("main.0.weight", 1))
  variables = _reader.fill(
    build("discriminators", config),
    np.zeros((1, side, side, channels), np.float32),
    lambda _, path, shape: source.leaf(_name(path), path, shape),
  )
  source.done(tuple(name for name in state if name.endswith(".num_batches_tracked")))
  return config, variables


def write(config: Mapping[str, Any] | None, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The tensors, under PREFIX, that `read` takes; none for a discriminator that taming lacks."""
  if not config or config["name"] != "patchgan" or config.get("norm", "batch") != "batch":
    return {}
  state = {}
  for collection in ("params", "batch_stats"):
    for path, leaf in flax.traverse_util.flatten_dict(variables[collection]).items():
      state[_name(path)] = _reader.to_torch(path, leaf)
  # PyTorch expects the counter, which its fixed momentum does not use.
  counters = [
    name.replace("running_var", "num_batches_tracked")
    for name in state
    if name.endswith("running_var")
  ]
  state |= {name: np.zeros((), np.int64) for name in counters}
  return {f"{PREFIX}{name}": x for name, x in state.items()}


def _name(path: _reader.Path) -> str:
  """Their name for our parameter."""
  module, leaf = path
  return f"{module.replace('_', '.')}.{_reader.LEAVES[leaf]}"
