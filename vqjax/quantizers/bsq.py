"""Binary spherical quantization: signs of a latent on the unit sphere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import fields
from vqjax.nn import bits, codebook
from vqjax.quantizers import Quantized, quantized


class Model(nn.Module):
  """Projects to the unit sphere, then takes the corner ±1/sqrt(D) of the nearest code (arXiv
  2406.07548, sec. 3.1).

  The first channel is the most significant bit of the id; zero counts as minus. At level i of
  `residual` codes are ±2^-i/sqrt(D).

  On the sphere a channel is about 1/sqrt(D), so that p saturates at temperatures far below 1, and
  with it the penalty's gradient. The published code (zhaoyue-zephyrus/bsq-vit) has temperature 1,
  entropy weight 0.1 and no commitment term.

  Attributes:
    dim: number of channels and bits; K = 2^dim.
    commitment_weight: of mean (sg q - u)², u the latent on the sphere.
    entropy_weight: of temperature * (mean entropy of p(code | position) - diversity * entropy of
      the mean p) (eq. 7 to 10); the factor is the published code's division by 1 / temperature.
    diversity: weight of the second entropy within the first weight.
    temperature: p = softmax(2 u·code / temperature).
    group_bits: the second entropy is summed over groups of at most this many bits, taken as
      independent.
  """

  dim: int = 18
  commitment_weight: float = 0.25
  entropy_weight: float = 0.1
  diversity: float = 1.0
  temperature: float = 1.0
  group_bits: int = 9
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
    return self.dim**-0.5 * 2.0 ** -(self.level or 0)

  def bounded(self, z: jax.Array) -> jax.Array:
    return codebook.l2_normalize(z.astype(jnp.float32))

  def at_level(self, level: int) -> Model:
    return self.clone(parent=None, level=level)

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    z_ND = codebook.rows(z, self.dim)
    u_ND = self.bounded(z_ND) if self.level is None else z_ND
    found = bits.quantize(self, u_ND, self.scale, self.entropy_weight * self.temperature)
    return quantized(z, *found, self.codebook_size)

  def embed(self, ids: jax.Array) -> jax.Array:
    return bits.signs_from_ids(ids, self.dim) * self.scale
