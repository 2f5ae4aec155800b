"""Layers of autoencoders on grids of any number of axes (1 of sound, 2 of images, 3 of video):
convolution, group norm, resampling, residual and attention blocks.

The number of axes is that of the input, `[B, ..., C]`; kernels are cubes of as many axes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks
from vqjax.errors import UserError
from vqjax.nn import patches
from vqjax.nn.attention import attend


def check_size(size: Sequence[int], factors: Sequence[int]) -> None:
  """Raises UserError where a grid of this size cannot be cut into whole codes.

  Args:
    size: of the grid that a model reads, one side per axis.
    factors: what each side must be a multiple of.
  """
  checks.rank(size, len(factors))
  if any(n < f or n % f for n, f in zip(size, factors, strict=True)):
    needed = factors[:1] if len(set(factors)) == 1 else factors
    raise UserError(
      f"size {checks.times(size)} is not a multiple of {checks.times(needed)}, the model's "
      "downsampling factor: resize or crop what it reads."
    )


def layout(axes: int) -> tuple[str, str, str]:
  """Dimension numbers of a convolution over 1, 2 or 3 grid axes, channels last."""
  grid = "DHW"[-axes:]
  return f"N{grid}C", f"{grid}IO", f"N{grid}C"


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout(2))


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves x [B, H, W, C] with kernel [3, 3, C, D] at stride 1, zero padded to the same size."""
  return _convolve(x, kernel)


def _conv3x3_bwd(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
  x, kernel = saved
  _, to_x = jax.vjp(lambda x: _convolve(x, kernel), x)
  # XLA's own gradient of the kernel takes twice as long on CPUs. Small images do not pay for
  # compiling a loop.
  on_cpu = _kernel_gradient_by_strips if math.prod(x.shape[1:]) >= 2**15 else _kernel_gradient
  to_kernel = jax.lax.platform_dependent(x, g, cpu=on_cpu, default=_kernel_gradient)
  return *to_x(g), to_kernel.astype(kernel.dtype)


conv3x3.defvjp(lambda x, kernel: (_convolve(x, kernel), (x, kernel)), _conv3x3_bwd)


def _kernel_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
  zeros = jnp.zeros((3, 3, x.shape[-1], g.shape[-1]), x.dtype)
  return jax.vjp(lambda kernel: _convolve(x, kernel), zeros)[1](g)[0]


def _kernel_gradient_by_strips(x: jax.Array, g: jax.Array) -> jax.Array:
  """As one matrix product per few rows of the image, whose 3 x 3 patches fit in the cache."""
  height, width = x.shape[1:3]
  rows = math.gcd(height, 2)
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

  def add_strip(i: jax.Array, total: jax.Array) -> jax.Array:
    strip = jax.lax.dynamic_slice_in_dim(padded, i * rows, rows + 2, axis=1)
    windows = jnp.concatenate(
      [strip[:, r : r + rows, c : c + width] for r in range(3) for c in range(3)], axis=-1
    )  # [B, rows, W, 9 C]
    g_strip = jax.lax.dynamic_slice_in_dim(g, i * rows, rows, axis=1)
    windows, g_strip = (a.reshape(-1, a.shape[-1]) for a in (windows, g_strip))
    return total + jnp.matmul(g_strip.T, windows, preferred_element_type=jnp.float32)

  total = jax.lax.fori_loop(
    0, height // rows, add_strip, jnp.zeros((g.shape[-1], 9 * x.shape[-1]), jnp.float32)
  )
  return einops.rearrange(total, "d (r s c) -> r s c d", r=3, s=3).astype(x.dtype)


class Conv(nn.Module):
  """A convolution with bias over all grid axes of [B, ..., C]; params are float32 and as flax's.

  Attributes:
    features: width of the output.
    size: of the kernel, on every axis.
    stride: on every axis.
    padding: "SAME", or how many zeros before and behind every axis.
    dtype: compute dtype.
  """

  features: int
  size: int = 3
  stride: int = 1
  padding: Literal["SAME"] | tuple[int, int] = "SAME"
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    axes = x.ndim - 2
    x, kernel, bias = _parameters(self, x, self.size)
    if (axes, self.size, self.stride, self.padding) == (2, 3, 1, "SAME"):
      return conv3x3(x, kernel) + bias
    padding = "SAME" if self.padding == "SAME" else (self.padding,) * axes
    strides = (self.stride,) * axes
    return bias + jax.lax.conv_general_dilated(
      x, kernel, strides, padding, dimension_numbers=layout(axes)
    )


def _parameters(
  layer: Conv | ConvTranspose, x: jax.Array, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What to compute with: the input [B, ..., C], kernel [size, ..., C, D] and bias [1, ..., D]."""
  shape = (size,) * (x.ndim - 2) + (x.shape[-1], layer.features)
  kernel = layer.param("kernel", nn.initializers.lecun_normal(), shape)
  bias = layer.param("bias", nn.initializers.zeros, shape[-1:])
  x, kernel, bias = (a.astype(layer.dtype) for a in (x, kernel, bias))
  return x, kernel, jnp.expand_dims(bias, range(x.ndim - 1))


@jax.custom_vjp
def conv_transpose4(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Doubles every grid axis of x [B, ..., C] by the transpose of a strided convolution; kernel
  [4, ..., C, D].
  """
  axes = x.ndim - 2
  return jax.lax.conv_transpose(x, kernel, (2,) * axes, "SAME", dimension_numbers=layout(axes))


def _conv_transpose4_bwd(
  saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = saved
  axes = x.ndim - 2
  # <transposed(x), g> = <x, strided(g)>: the strided convolution's gradients serve, and XLA has
  # them. On CPUs its own gradient of a transposed convolution's kernel takes forty times as long.
  strided = lambda g, k: jax.lax.conv_general_dilated(
    g, k, (2,) * axes, ((1, 1),) * axes, dimension_numbers=layout(axes)
  )
  turned = lambda k: jnp.flip(k, range(axes)).swapaxes(-2, -1)
  to_x, to_kernel = jax.vjp(functools.partial(strided, g), turned(kernel))
  return to_x, turned(to_kernel(x)[0])


conv_transpose4.defvjp(
  lambda x, kernel: (conv_transpose4(x, kernel), (x, kernel)), _conv_transpose4_bwd
)


class ConvTranspose(nn.Module):
  """A transposed convolution of size 4 with bias that doubles every grid axis; params as flax's."""

  features: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x, kernel, bias = _parameters(self, x, 4)
    return conv_transpose4(x, kernel) + bias


def group_norm(
  x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, eps: float
) -> jax.Array:
  """Group normalization (arXiv 1803.08494) of x [B, ..., C]; statistics are float32, the output has
  x's dtype.

  Sums are taken per channel and folded into groups afterwards: splitting the channels of x itself
  costs a copy.
  """
  axes = tuple(range(1, x.ndim - 1))
  expand = functools.partial(jnp.expand_dims, axis=axes)
  x32 = x.astype(jnp.float32)
  mean_BC = x32.mean(axes)
  if x.dtype == jnp.float32:
    var_BC = jnp.square(x32 - expand(mean_BC)).mean(axes)
  else:
    # One pass, which XLA fuses into the convolution before. It cancels where the mean is hundreds
    # of times the spread, and there 16 bits have lost the spread already.
    var_BC = jnp.square(x32).mean(axes) - jnp.square(mean_BC)
  mean_BGc, var_BGc = (einops.rearrange(a, "b (g c) -> b g c", g=groups) for a in (mean_BC, var_BC))
  mean_BG1 = mean_BGc.mean(-1, keepdims=True)
  var_BG1 = (var_BGc + jnp.square(mean_BGc - mean_BG1)).mean(-1, keepdims=True)
  mean_BC, factor_BC = (
    einops.repeat(a, "b g 1 -> b (g c)", c=x.shape[-1] // groups)
    for a in (mean_BG1, jax.lax.rsqrt(jnp.maximum(var_BG1, 0.0) + eps))
  )
  return ((x32 - expand(mean_BC)) * expand(factor_BC * scale[None]) + expand(bias[None])).astype(
    x.dtype
  )


class GroupNorm(nn.Module):
  """`group_norm` with params `scale` and `bias`, in `groups` groups or, where that does not divide
  C, fewer.
  """

  groups: int = 32
  eps: float = 1e-6
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (width,))
    bias = self.param("bias", nn.initializers.zeros, (width,))
    return group_norm(x.astype(self.dtype), scale, bias, math.gcd(self.groups, width), self.eps)


class Downsample(nn.Module):
  """Halves every grid axis by a convolution of size 3, padded behind (at the bottom and the right)
  only, as VQGAN does.
  """

  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return Conv(x.shape[-1], stride=2, padding=(0, 1), dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
  """Doubles every grid axis by repeating positions, then a convolution of size 3."""

  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return Conv(x.shape[-1], dtype=self.dtype, name="conv")(patches.double(x))


class ResnetBlock(nn.Module):
  """Twice norm, swish and a convolution of size 3, beside a skip connection that is one of size 1
  where the width changes.
  """

  features: int
  dropout: float = 0.0
  dtype: str = "float32"
  groups: int = 32  # of its norms

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    h = nn.swish(GroupNorm(self.groups, dtype=self.dtype, name="norm1")(x))
    h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
    h = nn.swish(GroupNorm(self.groups, dtype=self.dtype, name="norm2")(h))
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    h = Conv(self.features, dtype=self.dtype, name="conv2")(h)
    if x.shape[-1] != self.features:
      x = Conv(self.features, 1, dtype=self.dtype, name="nin_shortcut")(x)
    return x + h


class AttentionBlock(nn.Module):
  """Self-attention of one head over all positions of [B, ..., C], beside a skip connection."""

  dtype: str = "float32"
  groups: int = 32  # of its norm

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    h = GroupNorm(self.groups, dtype=self.dtype, name="norm")(x)
    q, k, v = (
      einops.rearrange(
        Conv(x.shape[-1], 1, dtype=self.dtype, name=name)(h), "b ... c -> b (...) 1 c"
      )
      for name in ("q", "k", "v")
    )
    h = attend(q, k, v).reshape(x.shape)
    return x + Conv(x.shape[-1], 1, dtype=self.dtype, name="proj_out")(h)


class ResidualStack(nn.Module):
  """Residual blocks: ReLU, size 3, ReLU, size 1 (arXiv 1711.00937, section 4.1), then a ReLU."""

  blocks: int
  hidden: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for i in range(self.blocks):
      h = Conv(self.hidden, dtype=self.dtype, name=f"block_{i}_conv1")(nn.relu(x))
      x = x + Conv(x.shape[-1], 1, dtype=self.dtype, name=f"block_{i}_conv2")(nn.relu(h))
    return nn.relu(x)
