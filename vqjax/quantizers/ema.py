"""Vector quantization with a codebook of exponential moving averages."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax.nn import book, codebook
from vqjax.quantizers import Quantized


class Model(nn.Module):
  """Nearest code; codes follow the mean of their latents (arXiv 1711.00937, appendix A.1).

  A training call looks up first and updates after: counts and sums decay towards the batch's, and
    the codebook becomes
  sums over Laplace-smoothed counts. Variables, all in "stats": `codebook` and `sums` [K, D],
  `counts` [K], and `initialised`, True where the codebook may be used as it is.

  Attributes:
    codebook_size: K.
    dim: D.
    decay: of the averages, per step.
    eps: of the Laplace smoothing.
    commitment_weight: of mean (sg q - z)².
    normalize: "l2" puts latents, codes and output on the unit sphere.
    estimator: gradient past the search: "straight_through", or "rotation" (arXiv 2410.06424).
    codebook_init: from the first batch, "kmeans" or "data" (random latents), or before it,
      "uniform" in ±1/K or "normal".
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
    def first_book():
      shape = (self.codebook_size, self.dim)
      return book.initializer(self.codebook_init)(self.make_rng("params"), shape)

    self.codebook = self.variable("stats", "codebook", first_book)
    self.sums = self.variable("stats", "sums", lambda: self.codebook.value)
    self.counts = self.variable("stats", "counts", jnp.ones, (self.codebook_size,), jnp.float32)
    ready = not book.from_data(self.codebook_init)
    self.initialised = self.variable("stats", "initialised", lambda: jnp.asarray(ready))

  def _normalize(self, x: jax.Array) -> jax.Array:
    return codebook.l2_normalize(x) if self.normalize == "l2" else x

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    z_ND = self._normalize(codebook.rows(z, self.dim))
    learn = train and not self.is_initializing()
    if learn and book.from_data(self.codebook_init):
      self._place(jax.lax.stop_gradient(z_ND))
    codes_KD = self._normalize(self.codebook.value)
    ids_N = codebook.nearest(z_ND, codes_KD)
    q_ND = codes_KD[ids_N]
    if learn:
      self._average(ids_N, jax.lax.stop_gradient(z_ND))
    commitment = codebook.squared_error(z_ND, q_ND)
    out = codebook.ESTIMATORS[self.estimator](z_ND, q_ND).reshape(z.shape).astype(z.dtype)
    metrics = {"commitment": commitment} | codebook.usage(ids_N, self.codebook_size)
    return Quantized(out, ids_N.reshape(z.shape[:-1]), self.commitment_weight * commitment, metrics)

  def embed(self, ids: jax.Array) -> jax.Array:
    return self._normalize(self.codebook.value)[ids]

  def _place(self, z_ND: jax.Array) -> None:
    """At the first training call: a codebook from the batch, each code counted as if used equally."""
    key, mean_count = self.make_rng("codes"), len(z_ND) / self.codebook_size

    def fresh():
      codes_KD = book.place(self.codebook_init, key, z_ND, self.codebook_size)
      return codes_KD, codes_KD * mean_count, jnp.full((self.codebook_size,), mean_count)

    old = self.codebook.value, self.sums.value, self.counts.value
    new = jax.lax.cond(self.initialised.value, lambda: old, fresh)
    self.codebook.value, self.sums.value, self.counts.value = new
    self.initialised.value = jnp.ones_like(self.initialised.value)

  def _average(self, ids_N: jax.Array, z_ND: jax.Array) -> None:
    """Moves the averages towards this batch, and revives dead codes."""
    counts_K, sums_KD = codebook.counts_and_sums(ids_N, z_ND, self.codebook_size)
    counts_K = self.decay * self.counts.value + (1.0 - self.decay) * counts_K
    sums_KD = self.decay * self.sums.value + (1.0 - self.decay) * sums_KD
    total = jnp.sum(counts_K)
    smooth_K = (counts_K + self.eps) / (total + self.codebook_size * self.eps) * total
    codes_KD = sums_KD / smooth_K[:, None]
    if self.revive:
      key = self.make_rng("codes")
      dead_K, rows_KD, counts_K = book.revive(key, counts_K, z_ND, self.revive)
      codes_KD = jnp.where(dead_K[:, None], rows_KD, codes_KD)
      sums_KD = jnp.where(dead_K[:, None], rows_KD * counts_K[:, None], sums_KD)
    self.codebook.value, self.sums.value, self.counts.value = codes_KD, sums_KD, counts_K
