"""Arithmetic of integers that float32 carries exactly, with gradients that pass straight through
the rounding (arXiv 1308.3432): what is trained is what runs, bit for bit, on every machine.

Numbers are integers times a power of two. Operands of products have seven bits and a sign, so that
the accelerators' coarse products (bfloat16, TensorFloat-32) are exact too, and no sum of products
reaches 2^24, so that its order does not matter (arXiv 1712.05877 has the scheme with int32 sums).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

LARGEST = 127  # of an operand
FAN_IN = (2**24 - 1) // LARGEST**2  # products of operands that one sum can hold
_LARGEST_SUM = 2**16  # of a layer's output, so that hundreds add up below 2^24


def rounded(x: jax.Array, unit: float, largest: int) -> jax.Array:
  """x to the nearest of the integers within ±largest, times `unit`, a power of two. Outside them
  there is no gradient.
  """
  x = jnp.clip(x, -largest * unit, largest * unit)
  # Adding 0 changes nothing; x + (rounded - x) would be off by a bit.
  return jax.lax.stop_gradient(jnp.round(x / unit) * unit) + (x - jax.lax.stop_gradient(x))


def units(kernel_IO: jax.Array) -> jax.Array:
  """The unit of every output's weights [O]: the power of two by which the largest of them is just
  under 128, from 2^-14 to 4.
  """
  # By the bits of the float: logarithms differ between machines.
  most = jax.lax.stop_gradient(jnp.max(jnp.abs(kernel_IO), axis=0)).astype(jnp.float32)
  exponent = jax.lax.bitcast_convert_type(most, jnp.int32) >> 23
  exponent = jnp.clip(exponent - 6, 127 - 14, 127 + 2)
  return jax.lax.bitcast_convert_type(exponent << 23, jnp.float32)


def operand(x: jax.Array, unit: float, arithmetic: str) -> jax.Array:
  """What layers multiply: clipped, and in integers rounded to seven bits and a sign."""
  if arithmetic == "float":
    return jnp.clip(x, -LARGEST * unit, LARGEST * unit)
  return rounded(x, unit, LARGEST)


class Dense(nn.Module):
  """A dense layer from operands, integers within ±127 times a power of two, to multiples of `unit`.

  With arithmetic="float" an ordinary one.
  """

  features: int
  unit: float
  arithmetic: str
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
    bias = bias.reshape((1,) * (x.ndim - 1) + (-1,))
    if self.arithmetic == "float":
      return _dot(x, kernel, self.dtype) + bias
    scale = units(kernel)[None]
    kernel = rounded(kernel / scale, 1.0, LARGEST) * scale
    bias = rounded(bias, self.unit, _LARGEST_SUM)
    starts = range(0, shape[0], FAN_IN)
    parts = [_dot(x[..., i : i + FAN_IN], kernel[i : i + FAN_IN], self.dtype) for i in starts]
    # Each sum is exact; added up before they are rounded they would not be.
    return sum(rounded(part, self.unit, _LARGEST_SUM) for part in parts) + bias


def _dot(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
  x, kernel = x.astype(dtype), kernel.astype(dtype)
  dims = (((x.ndim - 1,), (0,)), ((), ()))
  return jax.lax.dot_general(x, kernel, dims, preferred_element_type=jnp.float32)
