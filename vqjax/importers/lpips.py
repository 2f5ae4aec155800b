"""LPIPS: torchvision's VGG16 and the linear weights of the authors' package, as one .npz."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import einops
import numpy as np

from vqjax.errors import UserError
from vqjax.nn import perceptual

FILES = 2
WHERE = "download.pytorch.org/models/vgg16-397923af.pth; lpips/weights/v0.1/vgg.pth of pip's lpips"
OPTIONS: dict[str, Any] = {}

# Positions of the convolutions in torchvision's `vgg16().features`, in order.
_POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def write_file(
  states: Sequence[Mapping[str, np.ndarray]], options: Mapping[str, Any], path: pathlib.Path
) -> None:
  """Writes what `vqjax.nn.perceptual.load` reads, see `weights`."""
  content = weights(*states)
  with open(path, "wb") as file:
    np.savez(file, **content)


def weights(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> perceptual.Weights:
  """Puts the weights in our layout.

  Args:
    one, other: whichever comes first, torchvision's VGG16, "features.N.weight" [O, I, 3, 3] and
      "features.N.bias" [O] (its "classifier." part is not needed and ignored), and
      "linN.model.1.weight" [1, C, 1, 1] for N in 0..4.

  Returns:
    {name: float32 array}, see `vqjax.nn.perceptual.shapes`.

  Raises:
    UserError: naming a tensor that is missing, extra or misshapen.
  """
  vgg_state, lin_state = sorted(
    (one, other), key=lambda state: any(name.startswith("lin") for name in state)
  )
  vgg_state = {
    name: tensor for name, tensor in vgg_state.items() if not name.startswith("classifier.")
  }
  convolutions = [
    name.removesuffix("/kernel") for name in perceptual.shapes() if name.endswith("/kernel")
  ]
  theirs = {}
  for position, name in zip(_POSITIONS, convolutions, strict=True):
    theirs[f"{name}/kernel"] = f"features.{position}.weight"
    theirs[f"{name}/bias"] = f"features.{position}.bias"
  linear = {f"linear{g}": f"lin{g}.model.1.weight" for g in range(5)}
  return _take(vgg_state, theirs, "VGG16") | _take(lin_state, linear, "LPIPS linear weights")


def _take(
  state: Mapping[str, np.ndarray], theirs: Mapping[str, str], source: str
) -> perceptual.Weights:
  """Collects `theirs`, our name -> their name, from `state`, which must hold nothing else."""
  if extra := sorted(state.keys() - set(theirs.values())):
    raise UserError(f"{source}: unexpected tensor {extra[0]!r}; give the file of this model only.")
  weights = {}
  for ours, name in theirs.items():
    if name not in state:
      raise UserError(f"{source}: tensor {name!r} is missing; give the whole file.")
    array, expected = np.asarray(state[name], np.float32), _their_shape(ours)
    if array.shape != expected:
      raise UserError(
        f"{source}: tensor {name!r} has shape {array.shape}, expected {expected}; is it a VGG16?"
      )
    if ours.endswith("/kernel"):
      array = einops.rearrange(array, "o i h w -> h w i o")
    weights[ours] = array.reshape(perceptual.shapes()[ours])
  return weights


def _their_shape(ours: str) -> tuple[int, ...]:
  shape = perceptual.shapes()[ours]
  if ours.endswith("/kernel"):
    height, width, inputs, outputs = shape
    return outputs, inputs, height, width
  return (1, *shape, 1, 1) if ours.startswith("linear") else shape
