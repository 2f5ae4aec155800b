"""Binary spherical quantization: signs of a latent on the unit sphere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax.nn import bits, codebook
from vqjax.quantizers import Quantized


class Model(nn.Module):
  """Projects to the unit sphere, then takes the corner ±1/sqrt(D) of the nearest code (arXiv
  2406.07548, sec. 3.1).

  The first channel is the most significant bit of the id; zero counts as minus.

  Attributes:
    dim: number of channels and bits; K = 2^dim.
    commitment_weight: of mean (sg q - u)², u the latent on the sphere.
    entropy_weight: of mean entropy of p(code | position) - diversity * entropy of the mean p (eq. 7
      to 10).
    diversity: weight of the second entropy within the first weight.
    temperature: p = softmax(2 u·code / temperature).
    group_bits: the second entropy is summed over groups of at most this many bits, taken as
      independent.
  """

  dim: int = 18
  commitment_weight: float = 0.25
  entropy_weight: float = 0.1
  diversity: float = 1.0
  temperature: float = 0.01
  group_bits: int = 9

  num_codebooks = 1

  def __post_init__(self):
    bits.check_bits(self.dim)
    super().__post_init__()

  @property
  def input_width(self) -> int:
    return self.dim

  @property
  def width(self) -> int:
    return self.dim

  @property
  def codebook_size(self) -> int:
    return 2**self.dim

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    scale = self.dim**-0.5
    u_ND = codebook.l2_normalize(codebook.rows(z, self.dim))
    q_ND = jnp.where(u_ND > 0, scale, -scale)
    ids_N = bits.ids_from_signs(u_ND)
    loss, metrics = bits.losses(
      u_ND,
      q_ND,
      scale,
      commitment_weight=self.commitment_weight,
      entropy_weight=self.entropy_weight,
      diversity=self.diversity,
      temperature=self.temperature,
      group_bits=self.group_bits,
    )
    out = codebook.straight_through(u_ND, q_ND).reshape(z.shape).astype(z.dtype)
    return Quantized(
      out, ids_N.reshape(z.shape[:-1]), loss, metrics | codebook.usage(ids_N, self.codebook_size)
    )

  def embed(self, ids: jax.Array) -> jax.Array:
    return bits.signs_from_ids(ids, self.dim) * self.dim**-0.5
