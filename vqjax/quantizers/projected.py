"""Any quantizer in a narrow space: latents are projected into it, and its codes back."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks, fields
from vqjax.nn import codebook, waves
from vqjax.quantizers import Quantized


class Model(nn.Module):
  """Linear maps before and behind a quantizer (factorized codes, arXiv 2110.04627, sec. 3.2; DAC's
  levels, arXiv 2306.06546, sec. 3.2).

  As a level of `residual` every level passes its gradient on: the map behind it learns from the
  reconstruction alone.

  Attributes:
    quantizer: in the narrow space, with codes; `vq` with normalize="search" is DAC's.
    outer: width of the latents that are read and made.
    norm: of the maps' weights, "weight" for each output (arXiv 1602.07868) or "none".
  """

  quantizer: nn.Module = fields.member("quantizers")
  outer: int = 1024
  norm: Literal["none", "weight"] = "none"

  input_width = width = property(lambda self: self.outer)
  codebook_size = property(lambda self: self.quantizer.codebook_size)
  num_codebooks = property(lambda self: self.quantizer.num_codebooks)
  as_level = "mapped"

  def __post_init__(self):
    checks.positive(self, "outer")
    super().__post_init__()

  def setup(self):
    # A copy: levels of `residual` would else share what their copies of this module hold.
    self.inner = self.quantizer.clone(parent=None)
    self.into = _Map(self.quantizer.input_width, self.norm)
    self.back = _Map(self.outer, self.norm)

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    narrow = self.into(codebook.rows(z, self.outer)).reshape(*z.shape[:-1], -1)
    q = self.inner(narrow, train=train, step=step)
    return q.replace(z=self.back(q.z).astype(z.dtype))

  def embed(self, ids: jax.Array) -> jax.Array:
    return self.back(self.inner.embed(ids))


class _Map(nn.Module):
  """A linear map with bias of [..., C], in float32 and as precise as the search."""

  features: int
  norm: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = waves.kernel_of(self, (1, x.shape[-1], self.features), 2)[0]
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    made = codebook.dot("nc,cd->nd", rows, kernel) + bias[None]
    return made.reshape(*x.shape[:-1], self.features)
