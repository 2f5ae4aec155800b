"""Index backpropagation quantization: every code gets a gradient at every position."""

from __future__ import annotations

from typing import Literal

import jax
from flax import linen as nn

from vqjax.nn import book, codebook
from vqjax.quantizers import Quantized


def _soft_codes(z_ND: jax.Array, codes_KD: jax.Array) -> jax.Array:
  """softmax(z·codes) @ sg(codes), [N, D], in tiles whose backward pass recomputes."""
  values_KD = jax.lax.stop_gradient(codes_KD)

  @jax.checkpoint
  def tile(z_TD):
    p_TK = jax.nn.softmax(codebook.dot("td,kd->tk", z_TD, codes_KD))
    return codebook.dot("tk,kd->td", p_TK, values_KD)

  return codebook.scan_tiles(
    lambda c, _, z_TD: (c, tile(z_TD)), None, [z_ND], columns=len(codes_KD)
  )[1]


@jax.custom_vjp
def index_backprop(z_ND: jax.Array, codes_KD: jax.Array, ids_N: jax.Array) -> jax.Array:
  """codes[ids], [N, D], with the gradient of (one_hot(ids) + p - sg p) @ codes, where p =
  softmax(z·codes).

  arXiv 2412.02692, alg. 1. Never holds [N, K]: the one-hot part is a sum per code, the soft part
    comes in tiles and in
  the backward pass only.
  """
  return codes_KD[ids_N]


def _fwd(z_ND, codes_KD, ids_N):
  return codes_KD[ids_N], (z_ND, codes_KD, ids_N)


def _bwd(saved, g_ND):
  z_ND, codes_KD, ids_N = saved
  dz_ND, soft_KD = jax.vjp(_soft_codes, z_ND, codes_KD)[1](g_ND)
  return dz_ND, soft_KD + codebook.sums(ids_N, g_ND, len(codes_KD)), None


index_backprop.defvjp(_fwd, _bwd)


class Model(nn.Module):
  """The code of largest inner product; gradients reach all codes through the softmax over them
  (arXiv 2412.02692).

  Variables: params `codebook` [K, D]; "stats" as in `nn.book.Book`. The codes in effect are their
    sum.

  Attributes:
    codebook_size: K.
    dim: D.
    codebook_weight: of mean (q - sg z)², with the gradient to all codes.
    commitment_weight: of mean (sg q - z)².
    normalize: "l2" puts latents, codes and output on the unit sphere.
    entropy_weight: of mean entropy of p(code | position) minus entropy of the mean p.
    entropy_temperature: of the softmax over inner products in that penalty.
    codebook_init: "uniform" in ±1/K as published, "normal", or from the first batch, "kmeans" or
      "data".
    revive: a code used less than this fraction of the mean is replaced by a latent of the batch; 0
      turns it off.
  """

  codebook_size: int = 1024
  dim: int = 64
  codebook_weight: float = 1.0
  commitment_weight: float = 0.25
  normalize: Literal["none", "l2"] = "none"
  entropy_weight: float = 0.1
  entropy_temperature: float = 0.01
  codebook_init: book.Init = "uniform"
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
    ids_N = codebook.nearest(z_ND, codes_KD, metric="dot")
    q_ND = index_backprop(z_ND, codes_KD, ids_N)
    if train:
      self.book.update(ids_N, z_ND)
    loss, metrics = codebook.vq_losses(z_ND, q_ND, self.codebook_weight, self.commitment_weight)
    if self.entropy_weight:
      penalty, entropies = codebook.entropy_penalty(z_ND, codes_KD, self.entropy_temperature, "dot")
      loss, metrics = loss + self.entropy_weight * penalty, metrics | entropies
    metrics |= codebook.usage(ids_N, self.codebook_size)
    return Quantized(
      q_ND.reshape(z.shape).astype(z.dtype), ids_N.reshape(z.shape[:-1]), loss, metrics
    )

  def embed(self, ids: jax.Array) -> jax.Array:
    return codebook.lookup(self._normalize(self.book.codes), ids)
