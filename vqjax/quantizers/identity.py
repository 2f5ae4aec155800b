"""No quantization: a plain autoencoder."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks
from vqjax.errors import UserError
from vqjax.quantizers import Quantized, noisy


class Model(nn.Module):
  """Returns its input. Without codes it cannot be a level of `residual`.

  Attributes:
    dim: channels of the latent.
    noise: in training the decoder sees latents with noise, of a deviation drawn for each example
      between 0 and this, so that it forgives what a prior over them gets wrong.
  """

  dim: int = 64
  noise: float = 0.0

  input_width = width = property(lambda self: self.dim)
  codebook_size = 0
  num_codebooks = 0
  as_level = "none"

  def __post_init__(self):
    checks.within(self, "dim", at_least=1)
    checks.within(self, "noise", at_least=0)
    super().__post_init__()

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    z = noisy(z, self.noise, self) if train else z
    return Quantized(z, None, jnp.zeros((), jnp.float32), {})

  def embed(self, ids: Any) -> jax.Array:
    raise UserError(
      "quantizer: 'identity' has no codes to embed; choose one that does, such as 'vq' or 'fsq'."
    )
