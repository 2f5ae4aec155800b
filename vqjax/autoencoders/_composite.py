"""Encoder, quantizer and decoder as one model: the methods that autoencoders have in common.

Each is a plain function of the model, which becomes a method where a class names it:

    class Model(nn.Module):
      …
      grid = composite.grid
      decode = composite.decode
      __call__ = composite.reconstruct
      tokens = composite.tokens
      from_tokens = composite.from_tokens
      latents = composite.latents
      from_latents = composite.from_latents
      latents_width = property(composite.latents_width)

The class itself has the field `quantizer`, `factors`, `encode(x, *, train)` and
`run_decoder(z, train) -> (recon, the last layer's input)`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from vqjax.nn import layers
from vqjax.quantizers import Quantized


def grid(model: Any, *size: int) -> tuple[int, ...]:
  """The grid of codes for one example of this size, a side per axis.

  Raises UserError where the size is not a multiple of `model.factors`, after what the first codes
  stand for (`model.first`, where they stand for less).
  """
  layers.check_size(size, model.factors, first := getattr(model, "first", model.factors))
  return tuple(1 + (n - a) // f for n, f, a in zip(size, model.factors, first, strict=True))


def decode(model: Any, z: Any, *, train: bool = False) -> jax.Array:
  """Quantized latents [B, ..., quantizer.width] -> float32 [B, ..., out_channels].

  With `train`, sows the last layer's input, where VQGAN's adaptive weight is measured.
  """
  recon, last_input = model.run_decoder(z, train)
  if train:
    model.sow("intermediates", "last_input", last_input)
  return recon.astype(jnp.float32)


def reconstruct(
  model: Any, x: jax.Array, *, train: bool, step: jax.Array | None = None
) -> tuple[jax.Array, Quantized]:
  """[B, ..., C] in [-1, 1] -> (float32 [B, ..., out_channels], what the quantizer made of it)."""
  quantized = model.quantizer(model.encode(x, train=train), train=train, step=step)
  return model.decode(quantized.z, train=train), quantized


def tokens(model: Any, x: jax.Array) -> jax.Array:
  """[B, ..., C] in [-1, 1] -> ids on the grid, int32."""
  return model.quantizer(model.encode(x), train=False).ids


def from_tokens(model: Any, ids: jax.Array) -> jax.Array:
  """Ids on the grid -> float32 [B, ..., out_channels]."""
  return model.decode(model.quantizer.embed(ids))


def latents(model: Any, x: jax.Array, *, draw: bool = False) -> jax.Array:
  """[B, ..., C] in [-1, 1] -> what a prior over floats learns, float32 [B, ..., latents_width].

  It stands before a quantizer that has codes. With `draw`, a posterior is sampled (rng stream
  "codes"); else its mean is taken.
  """
  z, quantizer = model.encode(x), model.quantizer
  z = quantizer.posterior(z, draw=draw) if hasattr(quantizer, "posterior") else z
  return z.astype(jnp.float32)


def latents_width(model: Any) -> int:
  """Channels of `latents`."""
  quantizer = model.quantizer
  return quantizer.width if hasattr(quantizer, "posterior") else quantizer.input_width


def from_latents(model: Any, z: jax.Array) -> jax.Array:
  """What `latents` gives -> float32 [B, ..., out_channels], past the quantizer's codes, if any."""
  quantizer = model.quantizer
  return model.decode(quantizer(z, train=False).z if quantizer.codebook_size else z)
