"""LPIPS (arXiv 1801.03924): distance between images in the activations of a VGG16, over a plain
tree of weights.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqjax.errors import UserError

Weights = dict[str, Any]

# Widths of VGG16's convolutions; each group's last activation is compared, and a max-pool stands
# between groups.
_GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# The mean and spread of ImageNet's pixels, in the [-1, 1] scale.
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_EPSILON = 1e-8
# Four halvings must leave a pixel.
MIN_SIZE = 16


def shapes() -> dict[str, tuple[int, ...]]:
  """Shape of every array of the weights, by its name in the .npz: convolutions [3, 3, in, out],
  linear weights [C].
  """
  result: dict[str, tuple[int, ...]] = {}
  width = 3
  for g, group in enumerate(_GROUPS):
    for i, out in enumerate(group):
      result[f"conv{g}_{i}/kernel"] = (3, 3, width, out)
      result[f"conv{g}_{i}/bias"] = (out,)
      width = out
    result[f"linear{g}"] = (width,)
  return result


def load(path: str | os.PathLike[str]) -> Weights:
  """Reads weights as `vqjax.importers.lpips.write_file` writes them: {name: float32 array}, names
  as in `shapes`.

  Raises:
    UserError: no such file, not an .npz, or an array missing, extra or misshapen.
  """
  remedy = "write one with: python -m vqjax.convert --source=lpips"
  if not pathlib.Path(path).is_file():
    raise UserError(f"LPIPS weights {str(path)!r}: no such file; {remedy}.")
  try:
    with np.load(path, allow_pickle=False) as file:
      weights = {name: file[name].astype(np.float32) for name in file.files}
  except (ValueError, OSError, AttributeError):
    raise UserError(f"LPIPS weights {str(path)!r}: not an .npz of arrays; {remedy}.") from None
  try:
    check(weights)
  except UserError as e:
    raise UserError(f"LPIPS weights {str(path)!r}: {e}; {remedy}.") from None
  return weights


def check(weights: Weights) -> None:
  """Raises UserError naming the first array that is missing, extra or misshapen."""
  expected = shapes()
  for name in weights.keys() - expected.keys():
    raise UserError(f"unexpected array {name!r}")
  for name, shape in expected.items():
    if name not in weights:
      raise UserError(f"array {name!r} is missing")
    if weights[name].shape != shape:
      raise UserError(f"array {name!r} has shape {tuple(weights[name].shape)}, expected {shape}")


def lpips(weights: Weights, real: jax.Array, recon: jax.Array, dtype: str = "float32") -> jax.Array:
  """Distances [B], float32, between images [B, H, W, 3 or 1] in [-1, 1]; gradients reach `recon`
  only.

  Args:
    weights: see `load`.
    real: originals; a single channel is repeated.
    recon: reconstructions.
    dtype: of the convolutions; norms and distances are float32.

  Raises:
    UserError: images smaller than 16 pixels.
  """
  real_features = jax.lax.stop_gradient(lpips_features(weights, real, dtype))
  return sum(layer_distances(weights, real_features, lpips_features(weights, recon, dtype)))


def layer_distances(
  weights: Weights, real: list[jax.Array], recon: list[jax.Array]
) -> list[jax.Array]:
  """LPIPS's five terms, each [B]: the weighted squared difference of unit features, averaged over
  pixels.
  """
  terms = []
  for g, (a, b) in enumerate(zip(real, recon, strict=True)):
    linear = jnp.asarray(weights[f"linear{g}"], jnp.float32)
    terms.append(jnp.einsum("bhwc,c->bhw", jnp.square(a - b), linear).mean(axis=(1, 2)))
  return terms


def lpips_features(weights: Weights, x: jax.Array, dtype: str = "float32") -> list[jax.Array]:
  """The five activations [B, h, w, C] of x [B, H, W, 3 or 1] in [-1, 1], of unit length along
  channels, float32.
  """
  if min(x.shape[1:3]) < MIN_SIZE:
    raise UserError(
      f"LPIPS needs images of at least {MIN_SIZE} pixels, got {x.shape[1]}x{x.shape[2]}: "
      "use larger images or drop the term."
    )
  lead = (None, None, None)
  x = ((x.astype(jnp.float32) - _SHIFT[lead]) / _SCALE[lead]).astype(dtype)
  features = []
  for g, group in enumerate(_GROUPS):
    if g > 0:
      x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    for i in range(len(group)):
      kernel = jnp.asarray(weights[f"conv{g}_{i}/kernel"], dtype)
      bias = jnp.asarray(weights[f"conv{g}_{i}/bias"], dtype)
      x = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
      x = jax.nn.relu(x + bias[lead])
    features.append(_unit(x))
  return features


def _unit(x: jax.Array) -> jax.Array:
  # Outside the square root, the epsilon would leave an infinite gradient where all channels are
  # zero.
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + _EPSILON)
