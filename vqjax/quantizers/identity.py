"""No quantization: a plain autoencoder."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax.errors import UserError
from vqjax.nn import codebook
from vqjax.quantizers import Quantized


class Model(nn.Module):
  """Returns its input.

  Attributes:
    dim: channels of the latent.
  """

  dim: int = 64

  codebook_size = 0
  num_codebooks = 0

  def __post_init__(self):
    codebook.check_sizes(self, "dim")
    super().__post_init__()

  @property
  def input_width(self) -> int:
    return self.dim

  @property
  def width(self) -> int:
    return self.dim

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    return Quantized(z, None, jnp.zeros((), jnp.float32), {})

  def embed(self, ids: Any) -> jax.Array:
    raise UserError(
      "quantizer: 'identity' has no codes to embed; choose one with a codebook, such as 'vq' or 'fsq'."
    )
