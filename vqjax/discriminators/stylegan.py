"""StyleGAN2's residual discriminator (arXiv 1912.04958), as MaskGIT's tokenizer (arXiv 2202.04200)
uses it.
"""

from __future__ import annotations

import math

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from vqjax import checks, fields
from vqjax.errors import UserError


class Model(nn.Module):
  """Residual blocks halve the image until its smaller side is 4 or less; one logit per image.

  Halving is a 2x2 mean; weights have plain initialisation rather than StyleGAN2's equalised
  learning rate. The last layers are dense, so a model serves the image size it was initialised
  with; sides are multiples of 4.

  Attributes:
    channels: width at full resolution; doubles per block up to `max_channels`.
    group: images whose spread the minibatch statistic measures (arXiv 1710.10196, section 3):
      consecutive ones, so that a group stays on its device. A batch it does not divide uses their
      greatest common divisor; 1 sees no spread.
    axes: of the grid that it reads; it knows images alone, so 2.
    dtype: compute dtype; the minibatch statistic and the logits are float32.
  """

  channels: int = 64
  max_channels: int = 512
  group: int = 4
  axes: int = fields.program(2)
  dtype: str = "float32"

  def __post_init__(self):
    checks.axes(self, "stylegan", 2)
    checks.positive(self, "channels", "max_channels", "group")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns logits [B, 1] and the activations after each block.

    Raises:
      UserError: a side of the image is not a multiple of 4.
    """
    del train  # nothing here behaves differently in training
    checks.rank(x.shape[1:-1], self.axes)
    if x.shape[1] % 4 or x.shape[2] % 4:
      raise UserError(
        f"size {checks.times(x.shape[1:-1])}: sides must be multiples of 4; "
        "crop or resize the images."
      )
    dtype = jnp.dtype(self.dtype)
    x = nn.leaky_relu(
      nn.Conv(self.channels, (3, 3), dtype=dtype, name="stem")(x.astype(dtype)), 0.2
    )
    features = []
    blocks = max(0, math.ceil(math.log2(min(x.shape[1:3]) / 4)))
    for i in range(blocks):
      width = min(self.channels * 2 ** (i + 1), self.max_channels)
      x = Block(width, self.dtype, name=f"block_{i}")(x)
      features.append(x)
    width = x.shape[-1]
    x = jnp.concatenate([x, minibatch_spread(x, math.gcd(x.shape[0], self.group))], axis=-1)
    x = nn.leaky_relu(nn.Conv(width, (3, 3), dtype=dtype, name="conv")(x), 0.2)
    features.append(x)
    x = einops.rearrange(x, "b h w c -> b (h w c)")
    x = nn.leaky_relu(nn.Dense(width, dtype=dtype, name="dense")(x), 0.2)
    return nn.Dense(1, dtype=dtype, name="logit")(x).astype(jnp.float32), tuple(features)


class Block(nn.Module):
  """Two convolutions and a halving beside a halved 1x1 skip; the sum is scaled to keep the
  variance.
  """

  width: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [B, H, W, C] to [B, ceil(H/2), ceil(W/2), width]."""
    dtype = jnp.dtype(self.dtype)
    h = nn.leaky_relu(nn.Conv(x.shape[-1], (3, 3), dtype=dtype, name="conv_0")(x), 0.2)
    h = nn.leaky_relu(nn.Conv(self.width, (3, 3), dtype=dtype, name="conv_1")(_halve(h)), 0.2)
    skip = nn.Conv(self.width, (1, 1), use_bias=False, dtype=dtype, name="skip")(_halve(x))
    return (h + skip) * math.sqrt(0.5)


def minibatch_spread(x: jax.Array, group: int) -> jax.Array:
  """The mean over pixels and channels of the standard deviation within each group: x [B, H, W, C]
  -> [B, H, W, 1].

  Raises:
    ValueError: `group` does not divide B.
  """
  x_MGHWC = einops.rearrange(x.astype(jnp.float32), "(m g) h w c -> m g h w c", g=group)
  spread_MHWC = jnp.sqrt(x_MGHWC.var(axis=1) + 1e-8)
  spread_M = spread_MHWC.mean(axis=(1, 2, 3))
  return einops.repeat(spread_M, "m -> (m g) h w 1", g=group, h=x.shape[1], w=x.shape[2]).astype(
    x.dtype
  )


def _halve(x: jax.Array) -> jax.Array:
  return nn.avg_pool(x, (2, 2), (2, 2), padding="SAME", count_include_pad=False)
