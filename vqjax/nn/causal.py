"""Convolutions whose first grid axis is time, padded on both sides or in the past alone (the causal
convolutions of MAGVIT-2, arXiv 2310.05737, section 3.1), and what they are computed by.

Where time is causal, a stride of f makes 1 + k f steps of time into 1 + k, the first from the first
step alone, and back: one frame is a picture, and what comes later changes nothing before it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from vqjax.nn import target

Time = Literal["same", "causal"]
Pads = tuple[tuple[int, int], ...]


def each(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
  """One number for every axis, or one for each."""
  return (value,) * axes if isinstance(value, int) else tuple(value)


def pads(lengths: Sequence[int], sizes: Sequence[int], strides: Sequence[int], time: Time) -> Pads:
  """What "SAME" pads on every axis; of causal time, all of it before the first step."""
  same = [tuple(pad) for pad in jax.lax.padtype_to_pads(lengths, sizes, strides, "SAME")]
  return ((sizes[0] - 1, 0), *same[1:]) if time == "causal" else tuple(same)


def transposed_pads(sizes: Sequence[int], strides: Sequence[int], time: Time) -> Pads:
  """Pads of the dilated input of a transposed convolution that multiplies every axis by its stride
  (n steps of causal time become 1 + (n - 1) * stride), for sizes of stride + 2.
  """
  same = tuple((s, s) for s in strides)
  causal = (sizes[0] - strides[0], strides[0] - 1)
  return (causal, *same[1:]) if time == "causal" else same


def layout(axes: int) -> tuple[str, str, str]:
  """Dimension numbers of a convolution over 1, 2 or 3 grid axes, channels last."""
  grid = "DHW"[-axes:]
  return f"N{grid}C", f"{grid}IO", f"N{grid}C"


def unfolded(x: jax.Array, size: int, stride: int, pad: tuple[int, int]) -> jax.Array:
  """Windows of time side by side in the channels: [B, T, ..., C] -> [B, T', ..., size C]."""
  x = jnp.pad(x, ((0, 0), pad) + ((0, 0),) * (x.ndim - 2))
  last = x.shape[1] - size
  return jnp.concatenate([x[:, i : i + last + 1 : stride] for i in range(size)], axis=-1)


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], pads: Pads) -> jax.Array:
  """Convolution of [B, ..., C] with a kernel [..., C, D]."""
  axes = x.ndim - 2
  if axes == 3 and target.platform() == "cpu":
    # XLA's own takes 2.5 to 3 times as long on CPUs.
    x = unfolded(x, kernel.shape[0], strides[0], pads[0])
    return _by_frame(
      lambda x, k: convolve(x, k, strides[1:], pads[1:]), x, _unfolded_kernel(kernel)
    )
  return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=layout(axes))


def _unfolded_kernel(kernel: jax.Array) -> jax.Array:
  """[T, H, W, C, D] -> [H, W, T C, D], as `unfolded` lays the channels out."""
  kernel = jnp.moveaxis(kernel, 0, 2)
  return kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1])


def _by_frame(fn, x: jax.Array, kernel: jax.Array) -> jax.Array:
  out = fn(x.reshape(-1, *x.shape[2:]), kernel)
  return out.reshape(*x.shape[:2], *out.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def transposed(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], pads: Pads) -> jax.Array:
  """The transpose of a strided convolution of [B, ..., C] with a kernel [..., C, D]; `pads` are of
  the dilated input.
  """
  if x.ndim == 5 and strides[0] == 1 and target.platform() == "cpu":
    x = unfolded(x, kernel.shape[0], 1, pads[0])
    frames = lambda x, k: transposed(x, k, strides[1:], pads[1:])
    return _by_frame(frames, x, _unfolded_kernel(kernel))
  return jax.lax.conv_transpose(x, kernel, strides, pads, dimension_numbers=layout(x.ndim - 2))


def _transposed_bwd(
  strides: tuple[int, ...], pads: Pads, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = saved
  axes = x.ndim - 2
  # <transposed(x), g> = <x, strided(g)>: the strided convolution's gradients serve, and XLA has
  # them. On CPUs its own gradient of a transposed convolution's kernel takes forty times as long.
  front = [size - 1 - pad[0] for size, pad in zip(kernel.shape, pads)]
  back = [
    (n - 1) * s + size - m - f
    for n, s, size, m, f in zip(x.shape[1:-1], strides, kernel.shape, g.shape[1:-1], front)
  ]
  strided = lambda g, k: convolve(g, k, strides, tuple(zip(front, back)))
  turned = lambda k: jnp.flip(k, range(axes)).swapaxes(-2, -1)
  to_x, to_kernel = jax.vjp(functools.partial(strided, g), turned(kernel))
  return to_x, turned(to_kernel(x)[0])


transposed.defvjp(
  lambda x, kernel, strides, pads: (transposed(x, kernel, strides, pads), (x, kernel)),
  _transposed_bwd,
)


def frames(x: jax.Array, time: Time) -> jax.Array:
  """What statistics and attention may see together: all of [B, T, ..., C], or where time is causal
  each step of it by itself, [B T, ..., C].
  """
  return x.reshape(-1, *x.shape[2:]) if time == "causal" else x


def first_steps(factor: int, time: Time) -> int:
  """How many steps of time the first of a grid stands for, where the others stand for `factor`."""
  return 1 if time == "causal" else factor
