"""Gated PixelCNN over codes: a vertical and a horizontal stack of masked convolutions (arXiv
1606.05328).
"""

from __future__ import annotations

import functools

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from vqjax import checks, fields
from vqjax.latents import Codes
from vqjax.nn import tokens
from vqjax.priors import _books


def _gate(x: jax.Array) -> jax.Array:
  """tanh(a) * sigmoid(b) over the halves of the channels (eq. 2)."""
  a, b = jnp.split(x, 2, axis=-1)
  return nn.tanh(a) * nn.sigmoid(b)


class Layer(nn.Module):
  """One gated layer (figure 2). Neither stack may see what its input has not been shifted to hide.

  The vertical stack at (r, c) sees its input's rows up to r, the horizontal one columns up to c of
  its row.
  """

  kernel: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, v_BHWC: jax.Array, h_BHWC: jax.Array, cond_BHWC: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    width, half = h_BHWC.shape[-1], self.kernel // 2
    conv = functools.partial(nn.Conv, dtype=self.dtype)
    v = conv(
      2 * width, (half + 1, self.kernel), padding=((half, 0), (half, half)), name="vertical"
    )(v_BHWC)
    h = conv(2 * width, (1, half + 1), padding=((0, 0), (half, 0)), name="horizontal")(h_BHWC)
    h = h + conv(2 * width, (1, 1), name="across")(v)
    v = v + conv(2 * width, (1, 1), use_bias=False, name="vertical_cond")(cond_BHWC)
    h = h + conv(2 * width, (1, 1), use_bias=False, name="horizontal_cond")(cond_BHWC)
    return _gate(v), h_BHWC + conv(width, (1, 1), name="out")(_gate(h))


class Model(nn.Module):
  """Gated PixelCNN. Causal, uncached.

  The condition enters every layer as a bias (eq. 4): the sum of the prefix tokens' embeddings, and
  where the prefix ends in a coarser grid of codes, that grid, per position.

  Attributes:
    latent, rows, causal, dtype: see vqjax/priors/__init__.py; the latent's steps
      lie on one or two axes.
    layers, width: gated layers and channels.
    kernel: odd width of the convolutions.
    dropout: after every layer.
    prefix_grid: shape of the coarser grid at the prefix's end; () for none.
  """

  latent: Codes = fields.program()
  rows: int = fields.program()
  causal: bool = fields.program(True)
  layers: int = 12
  width: int = 128
  kernel: int = 5
  dropout: float = 0.0
  prefix_grid: tuple[int, ...] = fields.program(())
  dtype: str = "float32"

  cached = False

  def __post_init__(self) -> None:
    checks.positive(self, "layers", "width", "kernel")
    checks.dropout(self)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    ids_BL: jax.Array,
    prefix_BP: jax.Array | None = None,
    *,
    time_B: jax.Array | None = None,
    train: bool,
  ) -> jax.Array:
    """Logits `[B, L, K]`, float32.

    Raises UserError for a grid, kernel or prefix that does not fit.
    """
    del time_B
    height, columns = tokens.image_grid(self.latent.step_grid, self.causal, self.kernel)
    embed = tokens.Embed(self.rows, self.width, self.dtype, name="embed")
    dtype = jnp.dtype(self.dtype)
    x = _books.embedded(embed, self.latent, ids_BL)
    x = einops.rearrange(x, "b (h w) c -> b h w c", h=height, w=columns)
    picture_BP, coarse_BHW = tokens.split_prefix(prefix_BP, len(ids_BL), self.prefix_grid)
    cond = embed(picture_BP).sum(1)[:, None, None]
    if coarse_BHW is not None:
      cond = cond + tokens.upsample(embed(coarse_BHW), (height, columns))
    v = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    h = jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
    for i in range(self.layers):
      v, h = Layer(self.kernel, dtype, name=f"layer_{i}")(v, h, cond)
      h = nn.Dropout(self.dropout, deterministic=not train)(h)
    h = nn.relu(nn.Dense(self.width, dtype=dtype, name="hidden")(nn.relu(h)))
    h = einops.rearrange(h, "b h w c -> b (h w) c")
    return self.latent.collect(_books.Head(self.latent, dtype, name="head")(h))
