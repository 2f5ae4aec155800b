"""LPIPS: torchvision's VGG16 and the linear weights of the authors' package, as one .npz."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqjax.importers import _reader
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
  shapes, vgg = perceptual.shapes(), _reader.Reader(vgg_state, "VGG16")
  lin, found = _reader.Reader(lin_state, "LPIPS linear weights"), {}
  for position, name in zip(_POSITIONS, convolutions, strict=True):
    for leaf in ("kernel", "bias"):
      ours, theirs = f"{name}/{leaf}", f"features.{position}.{_reader.LEAVES[leaf]}"
      found[ours] = vgg.leaf(theirs, (leaf,), shapes[ours])
  for group in range(5):
    shape = shapes[f"linear{group}"]
    theirs = lin.take(f"lin{group}.model.1.weight", (1, *shape, 1, 1))
    found[f"linear{group}"] = theirs.reshape(shape)
  vgg.done()
  lin.done()
  return found
