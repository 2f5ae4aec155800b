"""Layers of autoencoders on grids of any number of axes (1 of sound, 2 of images, 3 of video):
convolution, group norm, resampling, residual and attention blocks.

The number of axes is that of the input, `[B, ..., C]`; kernels are cubes of as many axes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks
from vqjax.errors import UserError
from vqjax.nn import causal, patches, target
from vqjax.nn.attention import attend
from vqjax.nn.causal import layout


def check_size(
  size: Sequence[int], factors: Sequence[int], first: Sequence[int] | None = None
) -> None:
  """Raises UserError where a grid of this size cannot be cut into whole codes.

  Args:
    size: of the grid that a model reads, one side per axis.
    factors: what each side must be a multiple of.
    first: where the first code stands for fewer positions (causal time), for how many.
  """
  first = factors if first is None else first
  checks.rank(size, len(factors))
  if any(n < a or (n - a) % f for n, f, a in zip(size, factors, first, strict=True)):
    needed = factors[:1] if len(set(factors)) == 1 else factors
    late = "" if first[0] == factors[0] else f" after the first {first[0]} of time"
    raise UserError(
      f"size {checks.times(size)} is not a multiple of {checks.times(needed)}{late}, the model's "
      "downsampling factor: resize or crop what it reads."
    )


def gelu(x: jax.Array) -> jax.Array:
  """x times the normal distribution's probability of less than x (arXiv 1606.08415, eq. 2).

  By erf: `jax.nn.gelu` has erfc, whose tails beside 0 nobody needs here, at four times its price.
  """
  return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


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
    size: of the kernel, on every axis or on each.
    stride: likewise.
    padding: "SAME", or how many zeros before and behind every axis but causal time.
    time: "causal" pads the first axis before its first step only, see vqjax/nn/causal.py.
    dtype: compute dtype.
  """

  features: int
  size: int | tuple[int, ...] = 3
  stride: int | tuple[int, ...] = 1
  padding: Literal["SAME"] | tuple[int, int] = "SAME"
  time: causal.Time = "same"
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    axes = x.ndim - 2
    sizes, strides = (causal.each(n, axes) for n in (self.size, self.stride))
    x, kernel, bias = _parameters(self, x, sizes)
    pads = causal.pads(x.shape[1:-1], sizes, strides, self.time)
    if self.padding != "SAME":
      # An axis that keeps its length has nothing to be cut behind.
      given = tuple(self.padding if s > 1 else pad for s, pad in zip(strides, pads))
      pads = (pads[0], *given[1:]) if self.time == "causal" else given
    if (sizes, strides, pads) == ((3, 3), (1, 1), ((1, 1), (1, 1))):
      return conv3x3(x, kernel) + bias
    return bias + causal.convolve(x, kernel, strides, pads)


def _parameters(
  layer: Conv | ConvTranspose | _ConvOfRepeated,
  x: jax.Array,
  sizes: tuple[int, ...],
  changed: Callable[[jax.Array], jax.Array] = lambda kernel: kernel,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What to compute with: the input [B, ..., C], what `changed` makes of the float32 kernel
  [*sizes, C, D], and the bias [1, ..., D].
  """
  shape = (*sizes, x.shape[-1], layer.features)
  kernel = changed(layer.param("kernel", nn.initializers.lecun_normal(), shape))
  bias = layer.param("bias", nn.initializers.zeros, shape[-1:])
  x, kernel, bias = (a.astype(layer.dtype) for a in (x, kernel, bias))
  return x, kernel, jnp.expand_dims(bias, range(x.ndim - 1))


class ConvTranspose(nn.Module):
  """A transposed convolution with bias that multiplies every grid axis by its stride; params as
  flax's, of size stride + 2 on every axis.
  """

  features: int
  dtype: str
  stride: int | tuple[int, ...] = 2
  time: causal.Time = "same"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    strides = causal.each(self.stride, x.ndim - 2)
    sizes = tuple(s + 2 for s in strides)
    x, kernel, bias = _parameters(self, x, sizes)
    pads = causal.transposed_pads(sizes, strides, self.time)
    return causal.transposed(x, kernel, strides, pads) + bias


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
  C, fewer; where time is causal, of each frame by itself.
  """

  groups: int = 32
  eps: float = 1e-6
  dtype: str = "float32"
  time: causal.Time = "same"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (width,))
    bias = self.param("bias", nn.initializers.zeros, (width,))
    seen, groups = causal.frames(x.astype(self.dtype), self.time), math.gcd(self.groups, width)
    return group_norm(seen, scale, bias, groups, self.eps).reshape(x.shape)


class Downsample(nn.Module):
  """Divides every grid axis by its stride with a convolution of size 3, padded behind (at the
  bottom and the right) only, as VQGAN does.
  """

  dtype: str = "float32"
  stride: int | tuple[int, ...] = 2
  time: causal.Time = "same"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    fields = dict(padding=(0, 1), time=self.time, dtype=self.dtype)
    return Conv(x.shape[-1], stride=self.stride, name="conv", **fields)(x)


class Upsample(nn.Module):
  """Multiplies every grid axis by its stride, repeating positions (of causal time all but the
  first), then a convolution of size 3, of as many channels unless `features` says otherwise.
  """

  dtype: str = "float32"
  stride: int | tuple[int, ...] = 2
  time: causal.Time = "same"
  features: int | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    strides = causal.each(self.stride, x.ndim - 2)
    fields = dict(features=self.features or x.shape[-1], time=self.time, dtype=self.dtype)
    if target.platform() == "cpu":
      return Conv(name="conv", **fields)(repeat(x, strides, self.time))
    if self.time == "causal":
      x, strides = repeat(x, (strides[0], *(1 for _ in strides[1:])), "causal"), (1, *strides[1:])
    return _ConvOfRepeated(strides=strides, name="conv", **fields)(x)


def repeat(x: jax.Array, strides: tuple[int, ...], time: causal.Time = "same") -> jax.Array:
  """x [B, ..., C] with every position `strides` times; where time is causal, the first once."""
  return patches.repeat(x, strides)[:, strides[0] - causal.first_steps(strides[0], time) :]


class _ConvOfRepeated(nn.Module):
  """`Conv` of size 3 after every position is repeated `strides` times, without the repeated array:
  one transposed convolution, whose kernel is the sum of those taps that meet one position. Of
  causal time the stride is 1. Where every side is doubled it has 4 products for every 9.
  """

  features: int
  strides: tuple[int, ...]
  time: causal.Time
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    sizes = (3,) * len(self.strides)
    x, kernel, bias = _parameters(self, x, sizes, functools.partial(_merged, strides=self.strides))
    pads = causal.transposed_pads(kernel.shape[:-2], self.strides, self.time)
    return causal.transposed(x, kernel, self.strides, pads) + bias


def _merged(kernel: jax.Array, strides: tuple[int, ...]) -> jax.Array:
  """A kernel [3, ..., C, D] convolved with ones of `strides`: [2 + stride, ..., C, D]."""
  for axis, stride in enumerate(strides):
    pad = lambda i: [(i, stride - 1 - i) if a == axis else (0, 0) for a in range(kernel.ndim)]
    kernel = sum(jnp.pad(kernel, pad(i)) for i in range(stride))
  return kernel


class ResnetBlock(nn.Module):
  """Twice norm, swish and a convolution of size 3, beside a skip connection that is one of size 1
  where the width changes.
  """

  features: int
  dropout: float = 0.0
  dtype: str = "float32"
  groups: int = 32  # of its norms
  time: causal.Time = "same"

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    fields = dict(time=self.time, dtype=self.dtype)
    h = nn.swish(GroupNorm(self.groups, name="norm1", **fields)(x))
    h = Conv(self.features, name="conv1", **fields)(h)
    h = nn.swish(GroupNorm(self.groups, name="norm2", **fields)(h))
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    h = Conv(self.features, name="conv2", **fields)(h)
    if x.shape[-1] != self.features:
      x = Conv(self.features, 1, dtype=self.dtype, name="nin_shortcut")(x)
    return x + h


class AttentionBlock(nn.Module):
  """Self-attention of one head over all positions of [B, ..., C] (where time is causal, over those
  of each frame), beside a skip connection.
  """

  dtype: str = "float32"
  groups: int = 32  # of its norm
  time: causal.Time = "same"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    norm = GroupNorm(self.groups, dtype=self.dtype, time=self.time, name="norm")
    h = causal.frames(norm(x), self.time)
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
  time: causal.Time = "same"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for i in range(self.blocks):
      conv1 = Conv(self.hidden, time=self.time, dtype=self.dtype, name=f"block_{i}_conv1")
      h = conv1(nn.relu(x))
      x = x + Conv(x.shape[-1], 1, dtype=self.dtype, name=f"block_{i}_conv2")(nn.relu(h))
    return nn.relu(x)
