"""Finite scalar quantization: every channel is rounded to one of a few values."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vqjax import fields
from vqjax.errors import UserError
from vqjax.nn import codebook
from vqjax.quantizers import Quantized, quantized

# Keeps tanh away from the outermost rounding boundaries.
_EPS = 1e-3


class Model(nn.Module):
  """Bounds, rounds and numbers channels (arXiv 2309.15505, sec. 3.1 and appendix A.1). No loss, no
  parameters.

  Codes lie in [-1, 1]; with an even number L of values there is one more below zero than above. The
  id is a mixed-radix number whose first channel changes fastest. Level i > 0 of `residual` cuts the
  cell that the levels before left into L equal ones, L^-i of the first level's, and takes their
  middles; (L - 1)^-i, also in use, repeats codes and does not refine at all for L = 2.

  Attributes:
    levels: number of values per channel, each at least 2; the paper advises at least 5.
  """

  levels: tuple[int, ...] = (8, 5, 5, 5)
  level: int | None = fields.program(None)  # of `residual`; None stands alone

  input_width = width = property(lambda self: len(self.levels))
  codebook_size = property(lambda self: math.prod(self.levels))
  num_codebooks = 1
  as_level = "finer"

  def __post_init__(self):
    if not self.levels or min(self.levels) < 2:
      raise UserError(
        f"levels: {tuple(self.levels)} has a channel of fewer than 2 values; give each at least 2."
      )
    if self.codebook_size > 2**30:
      raise UserError(
        f"levels: {tuple(self.levels)} make over 2^30 codes; take fewer, or 'grouped'."
      )
    super().__post_init__()

  def bounded(self, z: jax.Array) -> jax.Array:
    """Latents [..., D] by tanh to the range of the codes, in float32."""
    values = np.asarray(self.levels, np.float32)[None]
    half = (values - 1.0) * (1.0 + _EPS) / 2.0
    offset = np.where(values % 2 == 0, 0.5, 0.0).astype(np.float32)
    tanh_ND = jnp.tanh(codebook.rows(z, self.width) + np.arctanh(offset / half))
    return ((tanh_ND * half - offset) / (values // 2)).reshape(z.shape)

  def at_level(self, level: int) -> Model:
    return self.clone(parent=None, level=level)

  def _grid(self) -> tuple[np.ndarray, np.ndarray]:
    """Per channel the steps between codes per unit, and the digit of the code at zero: [1, D]."""
    values = np.asarray(self.levels, np.float32)[None]
    steps = values // 2 * values ** (self.level or 0)
    return steps, (values - 1.0) / 2.0 if self.level else values // 2

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    steps, middle = self._grid()
    z_ND = codebook.rows(self.bounded(z) if self.level is None else z, self.width)
    last = np.asarray(self.levels, np.float32)[None] - 1.0
    digits_ND = jnp.clip(jnp.round(z_ND * steps + middle), 0.0, last)
    out_ND = codebook.straight_through(z_ND, (digits_ND - middle) / steps)
    radix = np.cumprod((1, *self.levels[:-1])).astype(np.int32)[None]
    ids_N = jnp.sum(digits_ND.astype(jnp.int32) * radix, axis=-1)
    return quantized(z, out_ND, ids_N, jnp.zeros((), jnp.float32), {}, self.codebook_size)

  def embed(self, ids: jax.Array) -> jax.Array:
    steps, middle = (x[0] for x in self._grid())
    channels, radix = [], 1
    for i, values in enumerate(self.levels):
      channels.append(((ids // radix % values).astype(jnp.float32) - middle[i]) / steps[i])
      radix *= values
    return jnp.stack(channels, axis=-1)
