"""SimVQ: a frozen random codebook seen through one learned linear layer, so that every code moves
with every other.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks
from vqjax.nn import book, codebook
from vqjax.quantizers import Quantized, quantized


class Model(nn.Module):
  """Nearest code among W c_k, with c_k random and never trained (arXiv 2411.02038, eq. 7).

  Variables: params `proj` (W); "stats": `frozen` [K, D], and what `nn.book.by_gradient` keeps. The
  codes in effect are proj(frozen) + offset.

  Attributes:
    codebook_size: K.
    dim: D.
    codebook_weight: of mean (q - sg z)².
    commitment_weight: of mean (sg q - z)².
    estimator: gradient past the search: "straight_through", or "rotation" (arXiv 2410.06424).
    codebook_init: how c is drawn, "normal" as in the paper, "uniform" or "standard_normal" (see
      `nn.book.initializer`); "kmeans" and "data" place the codes by the first batch.
    revive: a code used less than this fraction of the mean is replaced by a latent of the batch; 0
      turns it off.
  """

  codebook_size: int = 1024
  dim: int = 64
  codebook_weight: float = 1.0
  commitment_weight: float = 0.25
  estimator: Literal["straight_through", "rotation"] = "straight_through"
  codebook_init: book.Init = "normal"
  revive: float = 0.03

  input_width = width = property(lambda self: self.dim)
  num_codebooks = 1
  as_level = "copy"

  def __post_init__(self):
    codebook.check_book(self)
    checks.within(self, "codebook_weight", "commitment_weight", at_least=0)
    super().__post_init__()

  def setup(self):
    init = "normal" if book.from_data(self.codebook_init) else self.codebook_init

    def draw():
      return book.initializer(init)(self.make_rng("params"), (self.codebook_size, self.dim))

    frozen_KD = self.variable("stats", "frozen", draw).value
    self.proj = nn.Dense(
      self.dim, use_bias=False, dtype=jnp.float32, precision=jax.lax.Precision.HIGHEST
    )
    self.book = book.by_gradient(self, self.proj(frozen_KD))

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    z_ND = codebook.rows(z, self.dim)
    codes_KD, ids_N = self.book.search(z_ND, train=train)
    q_ND = codebook.lookup(codes_KD, ids_N)
    loss, terms = codebook.vq_losses(z_ND, q_ND, self.codebook_weight, self.commitment_weight)
    out_ND = codebook.ESTIMATORS[self.estimator](z_ND, q_ND)
    return quantized(z, out_ND, ids_N, loss, terms, self.codebook_size)

  def embed(self, ids: jax.Array) -> jax.Array:
    return codebook.lookup(self.book.codes, ids)
