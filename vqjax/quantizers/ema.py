"""Vector quantization with a codebook of exponential moving averages."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks
from vqjax.nn import book, codebook
from vqjax.quantizers import Quantized, quantized


def averages(init: book.Init, decay: float, eps: float, revive: float) -> book.Rule:
  """Counts [K] and sums [K, D] that decay towards each batch's, and the codebook that they make."""

  def place(key, z_ND, state):
    """A codebook from the batch, each code counted as if used equally."""
    size = len(state["counts"])
    codes_KD, mean = book.place(init, key, z_ND, size), len(z_ND) / size
    counts_K = jnp.full((size,), mean)
    return state | {"codebook": codes_KD, "sums": codes_KD * mean, "counts": counts_K}

  def update(key, ids_N, z_ND, state):
    size = len(state["counts"])
    counts_K, sums_KD = codebook.counts_and_sums(ids_N, z_ND, size)
    counts_K = decay * state["counts"] + (1.0 - decay) * counts_K
    sums_KD = decay * state["sums"] + (1.0 - decay) * sums_KD
    total = jnp.sum(counts_K)
    smooth_K = (counts_K + eps) / (total + size * eps) * total
    codes_KD = sums_KD / smooth_K[:, None]
    if key is not None:
      dead_K, rows_KD, counts_K = book.revive(key, counts_K, z_ND, revive)
      codes_KD = jnp.where(dead_K[:, None], rows_KD, codes_KD)
      sums_KD = jnp.where(dead_K[:, None], rows_KD * counts_K[:, None], sums_KD)
    return state | {"codebook": codes_KD, "sums": sums_KD, "counts": counts_K}

  return book.Rule(lambda state: state["codebook"], place, update)


class Model(nn.Module):
  """Nearest code; codes follow the mean of their latents (arXiv 1711.00937, appendix A.1).

  A training call looks up first and updates after: counts and sums decay towards the batch's, and
  the codebook becomes sums over Laplace-smoothed counts. Variables, all in "stats": `codebook` and
  `sums` [K, D], `counts` [K], and `initialised`, True where the codebook may be used as it is.

  Attributes:
    codebook_size: K.
    dim: D.
    decay: of the averages, per step.
    eps: of the Laplace smoothing.
    commitment_weight: of mean (sg q - z)².
    normalize: "l2" puts latents, codes and output on the unit sphere.
    estimator: gradient past the search: "straight_through", or "rotation" (arXiv 2410.06424).
    codebook_init: from the first batch, "kmeans" or "data" (random latents), or before it, as
      `nn.book.initializer` has it: "uniform" in ±1/K, "normal" or "standard_normal".
    revive: a code used less than this fraction of the mean is replaced by a latent of the batch; 0
      turns it off.
  """

  codebook_size: int = 1024
  dim: int = 64
  decay: float = 0.99
  eps: float = 1e-5
  commitment_weight: float = 0.25
  normalize: Literal["none", "l2"] = "none"
  estimator: Literal["straight_through", "rotation"] = "straight_through"
  codebook_init: book.Init = "kmeans"
  revive: float = 0.03

  input_width = width = property(lambda self: self.dim)
  num_codebooks = 1
  as_level = "copy"

  def __post_init__(self):
    codebook.check_book(self)
    checks.within(self, "decay", at_least=0, below=1)
    checks.within(self, "eps", above=0)
    checks.within(self, "commitment_weight", at_least=0)
    super().__post_init__()

  def setup(self):
    def first_book():
      shape = (self.codebook_size, self.dim)
      return book.initializer(self.codebook_init)(self.make_rng("params"), shape)

    codes = self.variable("stats", "codebook", first_book)
    sums = self.variable("stats", "sums", lambda: codes.value)
    counts = self.variable("stats", "counts", jnp.ones, (self.codebook_size,), jnp.float32)
    rule = averages(self.codebook_init, self.decay, self.eps, self.revive)
    state = {"codebook": codes, "sums": sums, "counts": counts}
    self.book = book.Book(self, state, rule, normalize=self.normalize)

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    z_ND = self.book.normalize(codebook.rows(z, self.dim))
    codes_KD, ids_N = self.book.search(z_ND, train=train)
    q_ND = codes_KD[ids_N]
    commitment = codebook.squared_error(z_ND, q_ND)
    out_ND = codebook.ESTIMATORS[self.estimator](z_ND, q_ND)
    loss = self.commitment_weight * commitment
    return quantized(z, out_ND, ids_N, loss, {"commitment": commitment}, self.codebook_size)

  def embed(self, ids: jax.Array) -> jax.Array:
    return self.book.codes[ids]
