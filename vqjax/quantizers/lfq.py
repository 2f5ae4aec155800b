"""Lookup-free quantization: the sign of every channel is a bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax.nn import bits, codebook
from vqjax.quantizers import Quantized


class Model(nn.Module):
  """Signs of the channels, kept in use by an entropy penalty (arXiv 2310.05737, eq. 3 and 4).

  Codes are ±1; the first channel is the most significant bit of the id; zero counts as -1.

  Attributes:
    dim: number of channels and bits; K = 2^dim.
    commitment_weight: of mean (sg q - z)².
    entropy_weight: of mean entropy of p(code | position) - diversity * entropy of the mean p.
    diversity: weight of the second entropy within the first weight.
    temperature: p = softmax(2 z·code / temperature).
    group_bits: entropies over all 2^dim codes up to this many bits; above, the second one sums over
      groups of bits.
  """

  dim: int = 10
  commitment_weight: float = 0.25
  entropy_weight: float = 0.1
  diversity: float = 1.0
  temperature: float = 0.01
  group_bits: int = 10

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
    z_ND = codebook.rows(z, self.dim)
    q_ND = jnp.where(z_ND > 0, 1.0, -1.0)
    ids_N = bits.ids_from_signs(z_ND)
    loss, metrics = bits.losses(
      z_ND,
      q_ND,
      1.0,
      commitment_weight=self.commitment_weight,
      entropy_weight=self.entropy_weight,
      diversity=self.diversity,
      temperature=self.temperature,
      group_bits=self.group_bits,
    )
    out = codebook.straight_through(z_ND, q_ND).reshape(z.shape).astype(z.dtype)
    return Quantized(
      out, ids_N.reshape(z.shape[:-1]), loss, metrics | codebook.usage(ids_N, self.codebook_size)
    )

  def embed(self, ids: jax.Array) -> jax.Array:
    return bits.signs_from_ids(ids, self.dim)
