"""What signals of pixels share, images and video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, pictures
from vqjax.errors import UserError
from vqjax.nn import losses
from vqjax.signals import Likelihood, unheard


class Pixels:
  """uint8 `[B, *size, C]`, which the model reads in [-1, 1]. Callers may give floats in [-1, 1]
  instead.
  """

  axes: ClassVar[int]
  noun: ClassVar[str]
  likelihoods: ClassVar[Mapping[str, Likelihood]] = {
    "l1": Likelihood(losses.l1),
    "l2": Likelihood(losses.l2),
    "logit_laplace": Likelihood(losses.logit_laplace, losses.logit_laplace_mean, outputs=2),
  }
  distances: ClassVar[Mapping[str, Callable]] = {}

  clips = unheard

  def channels(self, shape: tuple[int, ...]) -> int:
    return shape[-1]

  def read(self, values: jax.Array) -> jax.Array:
    return values.astype(jnp.float32) / 127.5 - 1 if values.dtype == jnp.uint8 else values

  def write(self, mean: jax.Array) -> jax.Array:
    return jnp.clip(mean.astype(jnp.float32), -1.0, 1.0)

  def prepare(self, values: np.ndarray) -> np.ndarray:
    return values

  def given(self, values: Any, shape: tuple[int, ...]) -> jax.Array:
    name = f"{self.noun}s"
    found, channels = checks.array(name, values), shape[-1]
    if not found.size:
      raise UserError(f"{name}: none are given (shape {found.shape}); give one or more.")
    if found.ndim != self.axes + 2 or found.shape[-1] != channels:
      axes = ", ".join(["B", *"THW"[-self.axes :], str(channels)])
      raise UserError(
        f"{name}: shape {found.shape} is not [{axes}]; this model was trained on {channels} "
        "channel(s)."
      )
    if found.dtype == jnp.uint8:
      return jnp.asarray(found)
    if not jnp.issubdtype(found.dtype, jnp.floating):
      raise UserError(
        f"{name}: {found.dtype} is neither uint8 nor float in [-1, 1]; convert with "
        ".astype('uint8')."
      )
    if not (top := float(np.abs(found).max())) <= 1.001:  # NaN fails the comparison, too
      raise UserError(f"{name}: floats reach {top:.4g}; scale them to [-1, 1], or pass uint8.")
    return jnp.asarray(found, jnp.float32)

  def finished(self, values: jax.Array) -> np.ndarray:
    return pictures.to_uint8(np.asarray(values))
