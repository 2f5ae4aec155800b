"""Lookup-free quantization: the sign of every channel is a bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import fields
from vqjax.nn import bits, codebook
from vqjax.quantizers import Quantized, quantized


class Model(nn.Module):
  """Signs of the channels, kept in use by an entropy penalty (arXiv 2310.05737, eq. 3 and 4).

  Codes are ±1, and ±2^-i at level i of `residual`, which bounds nothing. The first channel is the
  most significant bit of the id; zero counts as -1.

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
  level: int | None = fields.program(None)  # of `residual`; None stands alone

  input_width = width = property(lambda self: self.dim)
  codebook_size = property(lambda self: 2**self.dim)
  num_codebooks = 1
  as_level = "finer"

  def __post_init__(self):
    bits.check_bits(self)
    super().__post_init__()

  @property
  def scale(self) -> float:
    """The magnitude of a code's channels."""
    return 2.0 ** -(self.level or 0)

  def bounded(self, z: jax.Array) -> jax.Array:
    return z.astype(jnp.float32)

  def at_level(self, level: int) -> Model:
    return self.clone(parent=None, level=level)

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    z_ND = codebook.rows(z, self.dim)
    found = bits.quantize(self, z_ND, self.scale, self.entropy_weight)
    return quantized(z, *found, self.codebook_size)

  def embed(self, ids: jax.Array) -> jax.Array:
    return bits.signs_from_ids(ids, self.dim) * self.scale
