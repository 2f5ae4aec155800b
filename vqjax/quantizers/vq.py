"""Vector quantization with a codebook trained by gradients."""

from __future__ import annotations

from typing import Literal

import jax
from flax import linen as nn

from vqjax.nn import book, codebook
from vqjax.quantizers import Quantized


class Model(nn.Module):
  """Nearest code, codebook and commitment losses (arXiv 1711.00937, eq. 3).

  Variables: params `codebook` [K, D]; "stats" as in `nn.book.Book`. The codes in effect are their
    sum.

  Attributes:
    codebook_size: K.
    dim: D.
    codebook_weight: of mean (q - sg z)², which moves codes to latents.
    commitment_weight: of mean (sg q - z)², which moves latents to codes; the paper's beta.
    normalize: "l2" compares directions: latents and codes are put on the unit sphere, and so is the
      output (arXiv 2110.04627, sec. 3.2).
    estimator: gradient past the search: "straight_through", or "rotation" (arXiv 2410.06424).
    entropy_weight: of mean entropy of p(code | position) minus entropy of the mean p, p =
      softmax(-distance² / entropy_temperature) (MaskGIT's penalty, arXiv 2202.04200).
    entropy_temperature: of that softmax.
    codebook_init: from the first batch, "kmeans" or "data" (random latents), or before it,
      "uniform" in ±1/K or "normal".
    revive: a code used less than this fraction of the mean is replaced by a latent of the batch; 0
      turns it off.
  """

  codebook_size: int = 1024
  dim: int = 64
  codebook_weight: float = 1.0
  commitment_weight: float = 0.25
  normalize: Literal["none", "l2"] = "none"
  estimator: Literal["straight_through", "rotation"] = "straight_through"
  entropy_weight: float = 0.0
  entropy_temperature: float = 0.01
  codebook_init: book.Init = "kmeans"
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
    shape = (self.codebook_size, self.dim)
    param_KD = self.param("codebook", book.initializer(self.codebook_init), shape)
    self.book = book.Book(self, param_KD, init=self.codebook_init, revive=self.revive)

  def _normalize(self, x: jax.Array) -> jax.Array:
    return codebook.l2_normalize(x) if self.normalize == "l2" else x

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    z_ND = self._normalize(codebook.rows(z, self.dim))
    if train:
      self.book.prepare(z_ND)
    codes_KD = self._normalize(self.book.codes)
    ids_N = codebook.nearest(z_ND, codes_KD)
    q_ND = codebook.lookup(codes_KD, ids_N)
    if train:
      self.book.update(ids_N, z_ND)
    loss, metrics = codebook.vq_losses(z_ND, q_ND, self.codebook_weight, self.commitment_weight)
    if self.entropy_weight:
      penalty, entropies = codebook.entropy_penalty(z_ND, codes_KD, self.entropy_temperature)
      loss, metrics = loss + self.entropy_weight * penalty, metrics | entropies
    out = codebook.ESTIMATORS[self.estimator](z_ND, q_ND).reshape(z.shape).astype(z.dtype)
    return Quantized(
      out, ids_N.reshape(z.shape[:-1]), loss, metrics | codebook.usage(ids_N, self.codebook_size)
    )

  def embed(self, ids: jax.Array) -> jax.Array:
    return codebook.lookup(self._normalize(self.book.codes), ids)
