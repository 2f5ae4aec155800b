"""Index backpropagation quantization: every code gets a gradient at every position."""

from __future__ import annotations

from typing import Literal

import jax
from flax import linen as nn

from vqjax import checks
from vqjax.nn import book, codebook
from vqjax.quantizers import Quantized, quantized


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
  comes in tiles and in the backward pass only.
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

  The loss quantizes twice, as in the published code (TencentARC/SEED-Voken): q is the code with
  that gradient, and e the same code by plain look-up. The codebook starts there as
  "standard_normal"; revival is ours. It cannot be a level of `residual`: codes learn through the
  output, of which `residual` passes on the first level's gradient only.

  Variables: params `codebook` [K, D]; "stats" as in `nn.book.by_gradient`. The codes in effect are
  their sum.

  Attributes:
    codebook_size: K.
    dim: D.
    joint_weight: of mean (q - z)², which moves latents and all codes.
    codebook_weight: of mean (e - sg z)², which moves the chosen codes to latents; the paper's beta.
    commitment_weight: of mean (sg e - z)², which moves latents to codes.
    normalize: "l2" puts latents, codes and output on the unit sphere.
    entropy_weight: of mean entropy of p(code | position) minus entropy of the mean p.
    entropy_temperature: of the softmax over inner products in that penalty.
    codebook_init: "standard_normal" as published, "normal" or "uniform" (see
      `nn.book.initializer`), or from the first batch, "kmeans" or "data".
    revive: a code used less than this fraction of the mean is replaced by a latent of the batch; 0
      turns it off.
  """

  codebook_size: int = 1024
  dim: int = 64
  joint_weight: float = 1.0
  codebook_weight: float = 0.25
  commitment_weight: float = 1.0
  normalize: Literal["none", "l2"] = "none"
  entropy_weight: float = 0.1
  entropy_temperature: float = 0.01
  codebook_init: book.Init = "standard_normal"
  revive: float = 0.03

  input_width = width = property(lambda self: self.dim)
  num_codebooks = 1
  as_level = "none"

  def __post_init__(self):
    codebook.check_book(self)
    weights = "joint_weight", "codebook_weight", "commitment_weight", "entropy_weight"
    checks.within(self, *weights, at_least=0)
    checks.within(self, "entropy_temperature", above=0)
    super().__post_init__()

  def setup(self):
    self.book = book.of_param(self, metric="dot")

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    z_ND = self.book.normalize(codebook.rows(z, self.dim))
    codes_KD, ids_N = self.book.search(z_ND, train=train)
    q_ND = index_backprop(z_ND, codes_KD, ids_N)
    e_ND = codebook.lookup(codes_KD, ids_N)
    loss, terms = codebook.vq_losses(z_ND, e_ND, self.codebook_weight, self.commitment_weight)
    terms |= {"joint": codebook.squared_error(q_ND, z_ND)}
    penalty, entropies = codebook.weighted_entropies(
      z_ND, codes_KD, self.entropy_weight, self.entropy_temperature, "dot"
    )
    loss += self.joint_weight * terms["joint"] + penalty
    return quantized(z, q_ND, ids_N, loss, terms | entropies, self.codebook_size)

  def embed(self, ids: jax.Array) -> jax.Array:
    return codebook.lookup(self.book.codes, ids)
