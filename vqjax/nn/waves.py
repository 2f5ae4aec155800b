"""Layers of autoencoders of sound [B, T, C]: convolutions that are causal or centred, of any
length, with normalised weights; transposed ones; Snake; an LSTM.

Their lengths and edges are those of EnCodec (arXiv 2210.13438) and DAC (arXiv 2306.06546).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax.nn import layers

Time = Literal["causal", "centred"]
Edges = Literal["zeros", "reflect"]
Norm = Literal["none", "weight", "group"]


def kernel_of(layer: Any, shape: tuple[int, int, int], axis: int) -> jax.Array:
  """The parameter `kernel` [size, C, D]; with weight normalisation (arXiv 1602.07868) `gain` times
  its direction, where a direction spans all axes but `axis`.
  """
  kernel = layer.param("kernel", nn.initializers.lecun_normal(), shape)
  if layer.norm != "weight":
    return kernel
  others = tuple(i for i in range(3) if i != axis)
  norm = jnp.sqrt(jnp.sum(jnp.square(kernel), others, keepdims=True))
  gain = layer.param("gain", lambda key: norm.reshape(-1))
  return kernel * (jnp.expand_dims(gain, others) / jnp.maximum(norm, 1e-12))


def _bias(layer: Any, x: jax.Array) -> jax.Array:
  bias = layer.param("bias", nn.initializers.zeros, (layer.features,))
  x = x + bias.astype(x.dtype)[None, None]
  if layer.norm != "group":
    return x
  scale = layer.param("norm_scale", nn.initializers.ones, (layer.features,))
  shift = layer.param("norm_bias", nn.initializers.zeros, (layer.features,))
  return layers.group_norm(x, scale, shift, 1, 1e-5)


def pad(x: jax.Array, left: int, right: int, edges: Edges) -> jax.Array:
  """[B, T, C] with what stands beyond its edges. A sound too short to be reflected so far goes on
  with silence first, as EnCodec has it.
  """
  if edges == "zeros":
    return jnp.pad(x, ((0, 0), (left, right), (0, 0)))
  more = max(0, max(left, right) + 1 - x.shape[1])
  x = jnp.pad(x, ((0, 0), (0, more), (0, 0)))
  x = jnp.pad(x, ((0, 0), (left, right), (0, 0)), mode="reflect")
  return x[:, : x.shape[1] - more]


def split(total: int, time: Time) -> tuple[int, int]:
  """How many of `total` positions stand before and behind: all before where time is causal."""
  behind = 0 if time == "causal" else total // 2
  return total - behind, behind


def _strided(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
  """The convolution of a padded x. Where windows of twice the stride overlap by half, it is a
  convolution of size 2 over blocks of `stride`, which every backend has fast, gradients included.
  """
  size, width, features = kernel.shape
  if stride > 1 and size == 2 * stride and dilation == 1 and not x.shape[1] % stride:
    x = x.reshape(x.shape[0], -1, stride * width)
    kernel, stride = kernel.reshape(2, stride * width, features), 1
  return jax.lax.conv_general_dilated(
    x, kernel, (stride,), "VALID", rhs_dilation=(dilation,), dimension_numbers=layers.layout(1)
  )


class Conv(nn.Module):
  """A convolution with bias, [B, T, C] -> [B, ceil(T / stride), features].

  Attributes:
    features: width of the output.
    size, stride, dilation: of the kernel.
    time: "causal" pads before the sound alone.
    edges: what stands beyond the sound.
    norm: "weight" normalises the kernel for each output; "group" the output, in one group.
    dtype: compute dtype.
  """

  features: int
  size: int
  stride: int = 1
  dilation: int = 1
  time: Time = "centred"
  edges: Edges = "zeros"
  norm: Norm = "weight"
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = kernel_of(self, (self.size, x.shape[-1], self.features), 2).astype(self.dtype)
    before, behind = split((self.size - 1) * self.dilation + 1 - self.stride, self.time)
    x = pad(x.astype(self.dtype), before, behind + -x.shape[1] % self.stride, self.edges)
    return _bias(self, _strided(x, kernel, self.stride, self.dilation))


class ConvTranspose(nn.Module):
  """A transposed convolution with bias of size 2 * stride, [B, T, C] -> [B, T * stride, features].

  Attributes:
    features, stride, time, norm, dtype: as for `Conv`; weights are normalised for each input.
    trim: "exact", or "even": as much is cut behind as before, so that an odd stride loses a sample
      (DAC).
  """

  features: int
  stride: int
  time: Time = "centred"
  trim: Literal["exact", "even"] = "exact"
  norm: Norm = "weight"
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    (batch, length, width), stride = x.shape, self.stride
    kernel = kernel_of(self, (2 * stride, width, self.features), 1).astype(self.dtype)
    # Each position makes two blocks of `stride`, and neighbours overlap by one of them.
    kernel = jnp.moveaxis(kernel, 1, 0).reshape(width, -1)
    made = (x.astype(self.dtype) @ kernel).reshape(batch, length, 2, stride, self.features)
    ends = ((0, 0), (0, 1), (0, 0), (0, 0))
    made = jnp.pad(made[:, :, 0], ends) + jnp.pad(made[:, :, 1], (ends[0], (1, 0), *ends[2:]))
    y = _bias(self, made.reshape(batch, -1, self.features))
    # Cut where `Conv` pads nothing: a causal one knows all of its past, and none of its future.
    before, behind = (0, stride) if self.time == "causal" else split(stride, self.time)
    behind = max(before, behind) if self.trim == "even" else behind
    return y[:, before : y.shape[1] - behind]


class Snake(nn.Module):
  """x + sin²(alpha x) / alpha, with an alpha for each channel (arXiv 2006.08195)."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    alpha = self.param("alpha", nn.initializers.ones, x.shape[-1:]).astype(x.dtype)[None, None]
    return x + sine_squared(alpha * x) / (alpha + 1e-9)


def sine_squared(x: jax.Array) -> jax.Array:
  """sin²(x) to 3e-7 for |x| up to 10,000, in x's dtype.

  As its series about the nearest multiple of π: XLA's sine is good for any argument, and takes
  thirteen times as long on CPUs as one that need not be.
  """
  x32 = x.astype(jnp.float32)
  turns = jnp.round(x32 / math.pi)
  # π in two parts, the first with so few bits that its product with `turns` is exact.
  square = jnp.square((x32 - turns * 3.140625) - turns * (math.pi - 3.140625))
  terms = [(-1) ** (n + 1) * 2 ** (2 * n - 1) / math.factorial(2 * n) for n in range(1, 10)]
  return (square * jnp.polyval(jnp.float32(terms[::-1]), square)).astype(x.dtype)


class Lstm(nn.Module):
  """Layers of an LSTM along time beside a skip connection, [B, T, C] -> [B, T, C].

  Gates are input, forget, cell, output; the state is float32.
  """

  layers: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width, h = x.shape[-1], x
    for i in range(self.layers):
      params = {}
      for name in ("input", "state"):
        init = nn.initializers.lecun_normal()
        params[name] = self.param(f"{name}_{i}", init, (width, 4 * width)).astype(self.dtype)
      bias = self.param(f"bias_{i}", nn.initializers.zeros, (4 * width,))
      h = _run_lstm(h.astype(self.dtype), params, bias)
    return x + h.astype(x.dtype)


def _run_lstm(x: jax.Array, params: dict[str, jax.Array], bias: jax.Array) -> jax.Array:
  read = jnp.swapaxes(x @ params["input"], 0, 1).astype(jnp.float32) + bias[None, None]

  def step(carry: tuple[jax.Array, jax.Array], read_BG: jax.Array) -> Any:
    h, cell = carry
    gates = read_BG + (h.astype(x.dtype) @ params["state"]).astype(jnp.float32)
    let_in, keep, new, show = jnp.split(gates, 4, axis=-1)
    cell = nn.sigmoid(keep) * cell + nn.sigmoid(let_in) * jnp.tanh(new)
    h = nn.sigmoid(show) * jnp.tanh(cell)
    return (h, cell), h

  zeros = jnp.zeros((x.shape[0], x.shape[-1]), jnp.float32)
  _, made = jax.lax.scan(step, (zeros, zeros), read)
  return jnp.swapaxes(made, 0, 1)
