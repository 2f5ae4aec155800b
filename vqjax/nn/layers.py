"""Layers of convolutional autoencoders: convolution, group norm, resampling, residual and attention
blocks.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax.errors import UserError
from vqjax.nn.attention import attend

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def check_size(height: int, width: int, factor: int) -> None:
  """Raises UserError where an image of this size cannot be cut into whole codes."""
  if height < factor or width < factor or height % factor or width % factor:
    raise UserError(
      f"image size {height}x{width} is not a multiple of {factor}, the model's downsampling factor: "
      "resize or crop the images."
    )


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


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
    patches = jnp.concatenate(
      [strip[:, r : r + rows, c : c + width] for r in range(3) for c in range(3)], axis=-1
    )  # [B, rows, W, 9 C]
    g_strip = jax.lax.dynamic_slice_in_dim(g, i * rows, rows, axis=1)
    patches, g_strip = (a.reshape(-1, a.shape[-1]) for a in (patches, g_strip))
    return total + jnp.matmul(g_strip.T, patches, preferred_element_type=jnp.float32)

  total = jax.lax.fori_loop(
    0, height // rows, add_strip, jnp.zeros((g.shape[-1], 9 * x.shape[-1]), jnp.float32)
  )
  return einops.rearrange(total, "d (r s c) -> r s c d", r=3, s=3).astype(x.dtype)


def _conv_general_dilated(
  x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
  """What flax's Conv calls; all options but the first four are fixed by `conv`."""
  if kernel.shape[:2] == (3, 3) and tuple(strides) == (1, 1):
    return conv3x3(x, kernel)
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def conv(
  features: int,
  size: int = 3,
  *,
  stride: int = 1,
  padding: Any = "SAME",
  dtype: str,
  name: str | None = None,
) -> nn.Conv:
  """A square convolution with bias; params are float32, the computation `dtype`."""
  return nn.Conv(
    features,
    (size, size),
    (stride, stride),
    padding,
    dtype=jnp.dtype(dtype),
    name=name,
    conv_general_dilated=_conv_general_dilated,
  )


@jax.custom_vjp
def conv_transpose4x4(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Doubles height and width of x [B, H, W, C] by the transpose of a strided convolution; kernel
  [4, 4, C, D].
  """
  return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=_LAYOUT)


def _conv_transpose4x4_bwd(
  saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = saved
  # <transposed(x), g> = <x, strided(g)>: the strided convolution's gradients serve, and XLA has
  # them. On CPUs its own gradient of a transposed convolution's kernel takes forty times as long.
  strided = lambda g, k: jax.lax.conv_general_dilated(
    g, k, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT
  )
  flipped = kernel[::-1, ::-1].swapaxes(2, 3)
  to_x, to_kernel = jax.vjp(functools.partial(strided, g), flipped)
  return to_x, to_kernel(x)[0].swapaxes(2, 3)[::-1, ::-1]


conv_transpose4x4.defvjp(
  lambda x, kernel: (conv_transpose4x4(x, kernel), (x, kernel)), _conv_transpose4x4_bwd
)


class ConvTranspose(nn.Module):
  """A 4 x 4 transposed convolution with bias that doubles height and width; params as flax's."""

  features: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param(
      "kernel", nn.initializers.lecun_normal(), (4, 4, x.shape[-1], self.features)
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
    return conv_transpose4x4(x, kernel) + bias[None, None, None]


def group_norm(
  x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, eps: float
) -> jax.Array:
  """Group normalization (arXiv 1803.08494) of x [B, ..., C]; statistics are float32, the output has
  x's dtype.

  Sums are taken per channel and folded into groups afterwards: x is never reshaped to five axes,
    which costs a copy.
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
  """`group_norm` with params `scale` and `bias`, in 32 groups or, where 32 does not divide C,
  fewer.
  """

  eps: float = 1e-6
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (width,))
    bias = self.param("bias", nn.initializers.zeros, (width,))
    return group_norm(x.astype(self.dtype), scale, bias, math.gcd(32, width), self.eps)


class Downsample(nn.Module):
  """Halves height and width by a 3 x 3 convolution, padded at the bottom and the right only, as
  VQGAN does.
  """

  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return conv(x.shape[-1], stride=2, padding=((0, 1), (0, 1)), dtype=self.dtype, name="conv")(x)


def double(x: jax.Array) -> jax.Array:
  """Doubles height and width of [B, H, W, C] by repeating pixels."""
  return einops.repeat(x, "b h w c -> b (h r) (w s) c", r=2, s=2)


class Upsample(nn.Module):
  """Doubles height and width by repeating pixels, then a 3 x 3 convolution."""

  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return conv(x.shape[-1], dtype=self.dtype, name="conv")(double(x))


class ResnetBlock(nn.Module):
  """Twice norm, swish and 3 x 3 convolution, beside a skip connection that is 1 x 1 where the width
  changes.
  """

  features: int
  dropout: float = 0.0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    h = nn.swish(GroupNorm(dtype=self.dtype, name="norm1")(x))
    h = conv(self.features, dtype=self.dtype, name="conv1")(h)
    h = nn.swish(GroupNorm(dtype=self.dtype, name="norm2")(h))
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    h = conv(self.features, dtype=self.dtype, name="conv2")(h)
    if x.shape[-1] != self.features:
      x = conv(self.features, 1, dtype=self.dtype, name="nin_shortcut")(x)
    return x + h


class AttentionBlock(nn.Module):
  """Self-attention of one head over all positions of [B, H, W, C], beside a skip connection."""

  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    h = GroupNorm(dtype=self.dtype, name="norm")(x)
    q, k, v = (
      einops.rearrange(
        conv(x.shape[-1], 1, dtype=self.dtype, name=name)(h), "b h w c -> b (h w) 1 c"
      )
      for name in ("q", "k", "v")
    )
    h = attend(q, k, v).reshape(x.shape)
    return x + conv(x.shape[-1], 1, dtype=self.dtype, name="proj_out")(h)


class ResidualStack(nn.Module):
  """Residual blocks of ReLU, 3 x 3, ReLU, 1 x 1 (arXiv 1711.00937, section 4.1), then a ReLU."""

  blocks: int
  hidden: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for i in range(self.blocks):
      h = conv(self.hidden, dtype=self.dtype, name=f"block_{i}_conv1")(nn.relu(x))
      x = x + conv(x.shape[-1], 1, dtype=self.dtype, name=f"block_{i}_conv2")(nn.relu(h))
    return nn.relu(x)
