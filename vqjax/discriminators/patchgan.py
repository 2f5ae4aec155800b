"""PatchGAN (arXiv 1611.07004): one logit per overlapping patch, as pix2pix and VQGAN (arXiv
2012.09841) use it.
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.nn import layers


class Model(nn.Module):
  """`n_layers` halvings, then two convolutions at stride 1; each patch sees 70 pixels at
  n_layers=3.

  Submodules are named after taming-transformers' `main.N`, so that published weights map one to
  one.

  Attributes:
    channels: width of the first layer; doubles per layer, up to eight times.
    n_layers: convolutions of stride 2.
    time_layers: how many of them halve the first axis too, for video of few frames; None is all.
    norm: "batch" uses the whole (global) batch in training and running statistics otherwise: call
      it on the real images first, then on the reconstructions, as the published models were
      trained. "group" has 32 groups, or fewer where 32 does not divide the width.
    axes: of the grid that it reads: 1, 2 or 3.
    dtype: compute dtype; norm statistics and logits are float32.
  """

  channels: int = 64
  n_layers: int = 3
  time_layers: int | None = None
  norm: Literal["batch", "group", "none"] = "batch"
  axes: int = fields.program(2)
  dtype: str = "float32"

  def __post_init__(self):
    checks.axes(self, "patchgan", 1, 2, 3)
    checks.positive(self, "channels", "n_layers")
    if self.time_layers is not None and not 0 <= self.time_layers <= self.n_layers:
      raise UserError(f"time_layers: {self.time_layers} is outside 0 to {self.n_layers}, n_layers.")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """[B, ..., C] -> logits [B, ..., 1], every side over 2^n_layers (the first: 2^time_layers) and
    less 1 for every convolution of stride 1, and the activations
    after each hidden layer.

    Raises:
      UserError: x is too small for a single patch, or has another number of axes.
    """
    x = x.astype(self.dtype)
    checks.rank(x.shape[1:-1], self.axes)
    halved = self.n_layers if self.time_layers is None else self.time_layers
    # Each convolution of stride 1 takes a position off.
    smallest = ((3 + self.n_layers - halved) * 2**halved,) + (3 * 2**self.n_layers,) * (
      self.axes - 1
    )
    if any(n < least for n, least in zip(x.shape[1:-1], smallest)):
      needed = smallest[:1] if len(set(smallest)) == 1 else smallest
      raise UserError(
        f"size {checks.times(x.shape[1:-1])} leaves no patch after n_layers={self.n_layers}: "
        f"give sides of at least {checks.times(needed)} or fewer n_layers."
      )
    features = []
    position = 0  # in taming's nn.Sequential, which counts activations and norms too
    for i in range(self.n_layers + 1):
      normed = self.norm != "none" and i > 0
      strides = (2 if i < halved else 1,) + (2 if i < self.n_layers else 1,) * (self.axes - 1)
      # A batch norm's own bias follows, and the published models leave this one out.
      use_bias = not (normed and self.norm == "batch")
      x = self._conv(self.channels * min(2**i, 8), strides, use_bias, position)(x)
      if normed:
        position += 1
        x = self._norm(position, train)(x)
      x = nn.leaky_relu(x, 0.2)
      features.append(x)
      position += 2
    logits = self._conv(1, (1,) * self.axes, True, position)(x)
    return logits.astype(jnp.float32), tuple(features)

  def _conv(
    self, features: int, strides: tuple[int, ...], use_bias: bool, position: int
  ) -> nn.Conv:
    return nn.Conv(
      features,
      (4,) * self.axes,
      strides,
      padding=1,
      use_bias=use_bias,
      dtype=jnp.dtype(self.dtype),
      kernel_init=nn.initializers.normal(0.02),
      name=f"main_{position}",
    )

  def _norm(self, position: int, train: bool) -> nn.Module:
    name = f"main_{position}"
    if self.norm == "batch":
      return BatchNorm(train=train, dtype=self.dtype, name=name)
    return layers.GroupNorm(eps=1e-5, dtype=self.dtype, name=name)


class BatchNorm(nn.Module):
  """Batch norm over all axes but the last, with PyTorch's conventions (arXiv 1502.03167).

  Unlike flax's, the running variance gathers the unbiased batch variance, as in the published
  checkpoints. Under jit with a sharded batch the means are over the global batch.
  """

  train: bool
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises x [..., C]; updates "batch_stats" when `train` is true and the collection is
    mutable.
    """
    shape = x.shape[-1:]
    scale = self.param("scale", _normal_around_one, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
    running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
    x32 = x.astype(jnp.float32)
    if self.train:
      axes = tuple(range(x.ndim - 1))
      mean = x32.mean(axes)
      # The mean of squares takes one pass over memory together with the mean.
      var = jnp.maximum((x32**2).mean(axes) - mean**2, 0.0)
      if self.is_mutable_collection("batch_stats") and not self.is_initializing():
        count = x.size // x.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
        running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
    else:
      mean, var = running_mean.value, running_var.value
    factor = jax.lax.rsqrt(var + self.epsilon) * scale
    lead = (None,) * (x.ndim - 1)
    return ((x32 - mean[lead]) * factor[lead] + bias[lead]).astype(self.dtype)


def _normal_around_one(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  return 1.0 + 0.02 * jax.random.normal(key, shape, jnp.float32)
