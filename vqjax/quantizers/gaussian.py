"""A Gaussian posterior for a VAE: reparameterised samples and the analytic KL to the standard
normal.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks
from vqjax.errors import UserError
from vqjax.quantizers import Quantized, noisy


class Model(nn.Module):
  """Samples z = mean + std * noise in training and returns the mean otherwise (arXiv 1312.6114, eq.
  10).

  The input holds `dim` means, then `dim` log-variances (clipped to [-30, 20]). Without codes it
  cannot be a level of `residual`.

  Attributes:
    dim: channels of the latent.
    kl_weight: weight of the KL, which is summed over channels and averaged over positions, in nats.
    noise: in training the decoder sees samples with more noise, of a deviation drawn for each
      example between 0 and this, so that it forgives what a prior over them gets wrong.
  """

  dim: int = 64
  kl_weight: float = 1e-4
  noise: float = 0.0

  input_width = property(lambda self: 2 * self.dim)
  width = property(lambda self: self.dim)
  codebook_size = 0
  num_codebooks = 0
  as_level = "none"

  def __post_init__(self):
    checks.within(self, "dim", at_least=1)
    checks.within(self, "kl_weight", "noise", at_least=0)
    super().__post_init__()

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    mean, log_var = self._moments(z)
    kl = jnp.mean(0.5 * jnp.sum(mean**2 + jnp.exp(log_var) - 1.0 - log_var, axis=-1))
    sample = mean
    if train:
      sample = noisy(self._draw(mean, log_var), self.noise, self)
    return Quantized(sample.astype(z.dtype), None, self.kl_weight * kl, {"kl": kl})

  def posterior(self, z: jax.Array, *, draw: bool) -> jax.Array:
    """The mean, or with `draw` a sample (rng stream "codes"), float32 [B, ..., dim]."""
    mean, log_var = self._moments(z)
    return self._draw(mean, log_var) if draw else mean

  def _moments(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    if z.shape[-1] != self.input_width:
      raise UserError(
        f"dim: 'gaussian' of {self.dim} channels reads {self.input_width}, not {z.shape[-1]}."
      )
    mean, log_var = jnp.split(z.astype(jnp.float32), 2, axis=-1)
    return mean, jnp.clip(log_var, -30.0, 20.0)

  def _draw(self, mean: jax.Array, log_var: jax.Array) -> jax.Array:
    return mean + jnp.exp(0.5 * log_var) * jax.random.normal(self.make_rng("codes"), mean.shape)

  def embed(self, ids: Any) -> jax.Array:
    raise UserError(
      "quantizer: 'gaussian' has no codes to embed; choose one that does, such as 'vq' or 'fsq'."
    )
