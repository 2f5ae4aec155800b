"""What the importers of sound codecs share: weight normalisation by any of its names, the leaves of
our `seanet` as theirs and back, and a run on sounds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax
import numpy as np

from vqjax.errors import UserError
from vqjax.importers import Imported, _reader

State = dict[str, np.ndarray]
Name = Callable[[tuple[str, ...]], str]

_NORMS = {
  "parametrizations.weight.original0": "weight_g",
  "parametrizations.weight.original1": "weight_v",
}


def plain(state: Mapping[str, np.ndarray]) -> State:
  """The tensors with weight normalisation under its older names, weight_g and weight_v."""
  renamed = {}
  for name, value in state.items():
    for new, old in _NORMS.items():
      name = name.removesuffix(new) + old if name.endswith(new) else name
    renamed[name] = value
  return renamed


def weight(source: _reader.Reader, layer: str) -> str:
  """The name of a layer's kernel, whether it is normalised or not."""
  return f"{layer}.weight_v" if f"{layer}.weight_v" in source.state else f"{layer}.weight"


def numbers(names: Mapping[str, Any], pattern: str) -> list[int]:
  """The numbers that the group of a pattern stands for among the names, rising."""
  return sorted({int(m[1]) for name in names if (m := re.match(pattern, name))})


def _transposed(path: tuple[str, ...]) -> bool:
  return path[-2].endswith("_up")


def take(source: _reader.Reader, path: tuple[str, ...], shape: tuple[int, ...], name: Name) -> Any:
  """Our leaf of that path from their tensors; `name` says what they call its layer."""
  layer, leaf = name(path[:-1]), path[-1]
  if leaf == "kernel":
    size, width, features = shape
    theirs = (width, features, size) if _transposed(path) else (features, width, size)
    found = source.take(weight(source, layer), theirs)
    return found.transpose(2, 0, 1) if _transposed(path) else found.transpose(2, 1, 0)
  if leaf == "gain":
    return source.take(f"{layer}.weight_g", (*shape, 1, 1)).reshape(shape)
  if leaf == "alpha":
    return source.take(f"{layer}.alpha", (1, *shape, 1)).reshape(shape)
  return source.take(_plain_leaf(layer, leaf), shape)


def _plain_leaf(layer: str, leaf: str) -> str:
  """The name of a vector: a bias, or one of the norm that stands beside a convolution."""
  norm = f"{layer.removesuffix('.conv')}.norm"
  return {"norm_scale": f"{norm}.weight", "norm_bias": f"{norm}.bias"}.get(leaf, f"{layer}.{leaf}")


def give(params: Any, name: Name) -> State:
  """The inverse of `take` for all leaves of a tree of convolutions and activations."""
  state = {}
  flat = flax.traverse_util.flatten_dict(params)
  for path, x in flat.items():
    layer, leaf, x = name(path[:-1]), path[-1], np.asarray(x, np.float32)
    if leaf == "kernel":
      normed = (*path[:-1], "gain") in flat
      turned = x.transpose(1, 2, 0) if _transposed(path) else x.transpose(2, 1, 0)
      state[f"{layer}.weight_v" if normed else f"{layer}.weight"] = np.ascontiguousarray(turned)
    elif leaf == "gain":
      state[f"{layer}.weight_g"] = x.reshape(-1, 1, 1)
    elif leaf == "alpha":
      state[f"{layer}.alpha"] = x.reshape(1, -1, 1)
    else:
      state[_plain_leaf(layer, leaf)] = x
  return state


def run(
  model: dict[str, Any], variables: Mapping[str, Any], loss: dict[str, Any], rate: int,
  channels: int,
) -> Imported:  # fmt: skip
  """The run of a codec with these variables on sounds of about a second; drawn ones stand for the
  user's.
  """
  if rate < 1:
    raise UserError(f"--option rate: {rate} is no number of samples in a second.")
  hop = int(np.prod(model["strides"]))
  length = max(1, rate // hop) * hop
  ops = dict(name="audio", rate=rate, length=length, channels=channels)
  stats = {k: v for k, v in variables.items() if k != "params"}
  return Imported(
    config=dict(
      signal=dict(name="audio"), model=model, loss=loss, data=dict(name="tones", rate=rate), ops=ops
    ),
    spec={"audio": ((length, channels), "float32")},
    params={"model": variables["params"]},
    stats={"model": stats},
  )


def check(config: Mapping[str, Any], ours: Mapping[str, Any], what: str) -> None:
  """Raises UserError where a run's model is no `seanet`, or has another value than `ours` for a
  field.
  """
  model = config["model"]
  if model["name"] != "seanet":
    raise UserError(f"config.model: {model['name']!r} has no counterpart in {what}; seanet has.")
  for field, value in ours.items():
    found = model.get(field, value)
    found = tuple(found) if isinstance(found, list) else found
    if found != value:
      raise UserError(
        f"config.model.{field}: {found!r} has no counterpart in {what}; it is {value!r}."
      )
