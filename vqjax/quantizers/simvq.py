"""SimVQ: a frozen random codebook seen through one learned linear layer, so that every code moves
with every other.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax.nn import book, codebook
from vqjax.quantizers import Quantized


class Model(nn.Module):
  """Nearest code among W c_k, with c_k random and never trained (arXiv 2411.02038, eq. 7).

  Variables: params `proj` (W); "stats": `frozen` [K, D],
  and what `nn.book.Book` keeps. The codes in effect are proj(frozen) + offset.

  Attributes:
    codebook_size: K.
    dim: D.
    codebook_weight: of mean (q - sg z)².
    commitment_weight: of mean (sg q - z)².
    estimator: gradient past the search: "straight_through", or "rotation" (arXiv 2410.06424).
    codebook_init: "normal" or "uniform" draw as the paper does; "kmeans" and "data" place the codes
      by the first batch.
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

  num_codebooks = 1

  def __post_init__(self):
    codebook.check_sizes(self, "codebook_size", "dim")
    super().__post_init__()

  @property
  def input_width(self) -> int:
    return self.dim

  @property
  def width(self) -> int:
    return self.dim

  def setup(self):
    def draw():
      return book.initializer("normal")(self.make_rng("params"), (self.codebook_size, self.dim))

    frozen_KD = self.variable("stats", "frozen", draw).value
    self.proj = nn.Dense(
      self.dim, use_bias=False, dtype=jnp.float32, precision=jax.lax.Precision.HIGHEST
    )
    self.book = book.Book(self, self.proj(frozen_KD), init=self.codebook_init, revive=self.revive)

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    z_ND = codebook.rows(z, self.dim)
    if train:
      self.book.prepare(z_ND)
    codes_KD = self.book.codes
    ids_N = codebook.nearest(z_ND, codes_KD)
    q_ND = codebook.lookup(codes_KD, ids_N)
    if train:
      self.book.update(ids_N, z_ND)
    loss, metrics = codebook.vq_losses(z_ND, q_ND, self.codebook_weight, self.commitment_weight)
    out = codebook.ESTIMATORS[self.estimator](z_ND, q_ND).reshape(z.shape).astype(z.dtype)
    return Quantized(
      out, ids_N.reshape(z.shape[:-1]), loss, metrics | codebook.usage(ids_N, self.codebook_size)
    )

  def embed(self, ids: jax.Array) -> jax.Array:
    return codebook.lookup(self.book.codes, ids)
