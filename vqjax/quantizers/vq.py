"""Vector quantization with a codebook trained by gradients."""

from __future__ import annotations

from typing import Literal

import jax
from flax import linen as nn

from vqjax import checks
from vqjax.nn import book, codebook
from vqjax.quantizers import Quantized, quantized


class Model(nn.Module):
  """Nearest code, codebook and commitment losses (arXiv 1711.00937, eq. 3).

  Variables: params `codebook` [K, D]; "stats" as in `nn.book.by_gradient`. The codes in effect are
  their sum.

  Attributes:
    codebook_size: K.
    dim: D.
    codebook_weight: of mean (q - sg z)², which moves codes to latents.
    commitment_weight: of mean (sg q - z)², which moves latents to codes; the paper's beta.
    normalize: "l2" compares directions: latents and codes are put on the unit sphere, and so is the
      output (arXiv 2110.04627, sec. 3.2). "search" does so for the search alone; codes, losses and
      output keep their lengths (DAC, arXiv 2306.06546, sec. 3.2).
    estimator: gradient past the search: "straight_through", or "rotation" (arXiv 2410.06424).
    entropy_weight: of mean entropy of p(code | position) minus entropy of the mean p, p =
      softmax(-distance² / entropy_temperature) (MaskGIT's penalty, arXiv 2202.04200).
    entropy_temperature: of that softmax.
    codebook_init: from the first batch, "kmeans" or "data" (random latents), or before it, as
      `nn.book.initializer` has it: "uniform" in ±1/K, "normal" or "standard_normal".
    revive: a code used less than this fraction of the mean is replaced by a latent of the batch; 0
      turns it off.
  """

  codebook_size: int = 1024
  dim: int = 64
  codebook_weight: float = 1.0
  commitment_weight: float = 0.25
  normalize: Literal["none", "l2", "search"] = "none"
  estimator: Literal["straight_through", "rotation"] = "straight_through"
  entropy_weight: float = 0.0
  entropy_temperature: float = 0.01
  codebook_init: book.Init = "kmeans"
  revive: float = 0.03

  input_width = width = property(lambda self: self.dim)
  num_codebooks = 1
  as_level = "copy"

  def __post_init__(self):
    codebook.check_book(self)
    weights = "codebook_weight", "commitment_weight", "entropy_weight"
    checks.within(self, *weights, at_least=0)
    checks.within(self, "entropy_temperature", above=0)
    super().__post_init__()

  def setup(self):
    self.book = book.of_param(self)

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    z_ND = self.book.normalize(codebook.rows(z, self.dim))
    codes_KD, ids_N = self.book.search(z_ND, train=train)
    q_ND = codebook.lookup(codes_KD, ids_N)
    loss, terms = codebook.vq_losses(z_ND, q_ND, self.codebook_weight, self.commitment_weight)
    penalty, entropies = codebook.weighted_entropies(
      z_ND, codes_KD, self.entropy_weight, self.entropy_temperature
    )
    out_ND = codebook.ESTIMATORS[self.estimator](z_ND, q_ND)
    return quantized(z, out_ND, ids_N, loss + penalty, terms | entropies, self.codebook_size)

  def embed(self, ids: jax.Array) -> jax.Array:
    return codebook.lookup(self.book.codes, ids)
