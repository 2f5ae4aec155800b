"""Finite scalar quantization: every channel is rounded to a few levels; the codebook is their
product.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vqjax.errors import UserError
from vqjax.nn import codebook
from vqjax.quantizers import Quantized

# Keeps tanh away from the outermost rounding boundaries.
_EPS = 1e-3


class Model(nn.Module):
  """Bounds, rounds and numbers channels (arXiv 2309.15505, sec. 3.1 and appendix A.1). No loss, no
  parameters.

  Codes lie in [-1, 1]; with an even number of levels there is one more below zero than above. The
  id is a mixed-radix number whose first channel changes fastest.

  Attributes:
    levels: number of values per channel, each at least 2; the paper advises at least 5.
  """

  levels: tuple[int, ...] = (8, 5, 5, 5)

  num_codebooks = 1

  def __post_init__(self):
    if not self.levels or min(self.levels) < 2:
      raise UserError(
        f"levels: {tuple(self.levels)} has a channel of fewer than 2 values; give each at least 2."
      )
    if math.prod(self.levels) > 2**30:
      raise UserError(
        f"levels: {tuple(self.levels)} make over 2^30 codes; take fewer, or the quantizer 'grouped'."
      )
    super().__post_init__()

  @property
  def input_width(self) -> int:
    return len(self.levels)

  @property
  def width(self) -> int:
    return len(self.levels)

  @property
  def codebook_size(self) -> int:
    return math.prod(self.levels)

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    levels = np.asarray(self.levels, np.float32)[None]
    half = (levels - 1.0) * (1.0 + _EPS) / 2.0
    offset = np.where(levels % 2 == 0, 0.5, 0.0).astype(np.float32)
    bounded_ND = jnp.tanh(codebook.rows(z, self.width) + np.arctanh(offset / half)) * half - offset
    digits_ND = codebook.straight_through(bounded_ND, jnp.round(bounded_ND))
    middle = levels // 2
    radix = np.cumprod((1, *self.levels[:-1])).astype(np.int32)[None]
    ids_N = jnp.sum((digits_ND + middle).astype(jnp.int32) * radix, axis=-1)
    out = (digits_ND / middle).reshape(z.shape).astype(z.dtype)
    metrics = codebook.usage(ids_N, self.codebook_size)
    return Quantized(out, ids_N.reshape(z.shape[:-1]), jnp.zeros((), jnp.float32), metrics)

  def embed(self, ids: jax.Array) -> jax.Array:
    channels, radix = [], 1
    for level in self.levels:
      middle = level // 2
      channels.append((ids // radix % level - middle).astype(jnp.float32) / middle)
      radix *= level
    return jnp.stack(channels, axis=-1)
