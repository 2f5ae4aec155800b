"""What importers share: tensors by name and shape with every fault named, and a tokenizer's run."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax
import jax
import numpy as np

from vqjax.build import build
from vqjax.errors import UserError
from vqjax.importers import Imported

Path = tuple[str, ...]

# PyTorch's names for flax's leaves.
LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


class Reader:
  """A checkpoint's tensors; remembers which were taken and what was wrong with them."""

  def __init__(self, state: Mapping[str, np.ndarray], source: str):
    self.state, self.source = state, source
    self.used: set[str] = set()
    self.missing: list[str] = []
    self.misshapen: list[str] = []

  def size(self, meaning: str, *places: tuple[str, int]) -> int:
    """The size that most of the `places`, (tensor name, axis), agree on: a single wrong tensor
    cannot mislead.

    Raises:
      UserError: none of the tensors is there.
    """
    votes = [
      self.state[name].shape[axis]
      for name, axis in places
      if name in self.state and self.state[name].ndim > axis
    ]
    if not votes:
      raise UserError(
        f"{self.source}: missing tensor {places[0][0]!r}, which tells {meaning}; is it another "
        "format?"
      )
    return collections.Counter(votes).most_common(1)[0][0]

  def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor as float32; where it is missing or misshapen, zeros, and `done` will say so."""
    self.used.add(name)
    if name not in self.state:
      self.missing.append(name)
    elif self.state[name].shape != shape:
      self.misshapen.append(f"{name!r} is {self.state[name].shape}, not {shape}")
    else:
      return np.asarray(self.state[name], np.float32)
    return np.zeros(shape, np.float32)

  def leaf(self, name: str, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor as our leaf of that path and shape, see `to_torch`."""
    if path[-1] != "kernel":
      return self.take(name, shape)
    theirs = self.take(name, (shape[-1], shape[-2], *shape[:-2]))
    return np.moveaxis(theirs, (0, 1), (-1, -2))

  def done(self, ignore: Iterable[str] = ()) -> None:
    """Raises UserError naming all missing, misshapen and untouched tensors, but those that start as
    in `ignore`.
    """
    extra = [
      name for name in self.state if name not in self.used and not name.startswith(tuple(ignore))
    ]
    faults = (
      ("missing", [repr(n) for n in self.missing]),
      ("misshapen", self.misshapen),
      ("unexpected", [repr(n) for n in sorted(extra)]),
    )
    if any(names for _, names in faults):
      text = "; ".join(f"{kind}: {_list(names)}" for kind, names in faults if names)
      raise UserError(f"{self.source}: {text}.")


def _list(names: list[str], limit: int = 8) -> str:
  more = f" and {len(names) - limit} more" if len(names) > limit else ""
  return ", ".join(names[:limit]) + more


def fill(
  model: Any, x: np.ndarray, take: Callable[[str, Path, tuple[int, ...]], np.ndarray]
) -> dict[str, Any]:
  """Variables of `model` for inputs like `x`, each leaf of shape `shape` from `take(collection,
  path, shape)`.
  """
  abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
  flat = {}
  for collection, tree in abstract.items():
    for path, leaf in flax.traverse_util.flatten_dict(tree).items():
      flat[collection, *path] = np.asarray(take(collection, path, leaf.shape), leaf.dtype)
  return flax.traverse_util.unflatten_dict(flat)


def autoencoder(
  config: Mapping[str, Any], channels: int, returned: int, take: Callable[..., Any]
) -> dict[str, Any]:
  """`fill` of the autoencoder of this config, of `channels` in and `returned` out."""
  model = build("autoencoders", config, channels=channels, out_channels=returned)
  return fill(model, np.zeros((1, *model.factors, channels), np.float32), take)


def to_torch(path: Path, x: np.ndarray) -> np.ndarray:
  """Our leaf as PyTorch's: the kernel [..., I, O] of a linear map becomes [O, I, ...]."""
  x = np.asarray(x, np.float32)
  return np.ascontiguousarray(np.moveaxis(x, (-1, -2), (0, 1)) if path[-1] == "kernel" else x)


def book_stats(path: Path, shape: tuple[int, ...]) -> np.ndarray:
  """Statistics of a codebook that is in its place: no offset, every code used, nothing left to
  initialise.
  """
  return np.full(shape, {"offset": 0, "used": 1, "initialised": True}[path[-1]])


def tokenizer_run(
  model: dict[str, Any], variables: Mapping[str, Any], loss: str, size: int, channels: int
) -> Imported:
  """The run of an autoencoder with these variables, on square images.

  Args:
    model: its sub-dict of the config.
    variables: {"params": tree, further collections}.
    loss: the reconstruction loss that its outputs are made for.
    size, channels: of the images.
  """
  stats = {k: v for k, v in variables.items() if k != "params"}
  return Imported(
    config=dict(model=model, loss=dict(reconstruction=loss)) | images(size, channels),
    spec={"image": ((size, size, channels), "uint8")},
    params={"model": variables["params"]},
    stats={"model": stats},
  )


def images(size: int, channels: int) -> dict[str, Any]:
  """The part of a config that says which images are read: drawn ones stand for the user's."""
  drawn = min(max(size, 16), 256)  # the sizes that there are
  return dict(data=dict(name="shapes", size=drawn), ops=dict(size=size, channels=channels))
