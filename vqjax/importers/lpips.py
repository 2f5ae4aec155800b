"""LPIPS's weights: from torchvision's VGG16 and the linear weights of the authors' `lpips` package
to our .npz.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import einops
import numpy as np

from vqjax.errors import UserError
from vqjax.nn import perceptual

# Positions of the convolutions in torchvision's `vgg16().features`, in order.
_POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def read(vgg_state: Mapping[str, Any], lin_state: Mapping[str, Any]) -> perceptual.Weights:
  """Puts the weights in our layout.

  Args:
    vgg_state: torchvision's VGG16 state dict, "features.N.weight" [O, I, 3, 3] and
      "features.N.bias" [O] as tensors or arrays; its "classifier." part is not needed and ignored.
    lin_state: "linN.model.1.weight" [1, C, 1, 1] for N in 0..4.

  Returns:
    {name: float32 array}, see `vqjax.nn.perceptual.shapes`.

  Raises:
    UserError: naming a tensor that is missing, extra or misshapen.
  """
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


def save(path: str | os.PathLike[str], weights: perceptual.Weights) -> None:
  """Writes what `vqjax.nn.perceptual.load` reads."""
  perceptual.check(weights)
  with open(path, "wb") as file:
    np.savez(file, **weights)


def _take(state: Mapping[str, Any], theirs: Mapping[str, str], source: str) -> perceptual.Weights:
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
