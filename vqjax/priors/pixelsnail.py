"""PixelSNAIL over codes: causal convolutions and causal attention (arXiv 1712.09763), the priors of
VQ-VAE-2.
"""

from __future__ import annotations

from typing import Literal

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, fields
from vqjax.latents import Codes
from vqjax.nn import attention, tokens
from vqjax.priors import _books


def causal_mask(kernel: int, centre: bool) -> np.ndarray:
  """The 0/1 mask `[kernel // 2 + 1, kernel]` of what precedes the last row's middle in raster
  order, or is it.
  """
  mask = np.ones((kernel // 2 + 1, kernel), np.float32)
  mask[-1, kernel // 2 + centre :] = 0
  return mask


def _gate(x: jax.Array) -> jax.Array:
  a, b = jnp.split(x, 2, axis=-1)
  return a * nn.sigmoid(b)


class CausalConv(nn.Module):
  """Convolution `[B, H, W, C]` -> `[B, H, W, features]` that sees earlier positions, with `centre`
  its own too.
  """

  features: int
  kernel: int
  centre: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    mask, half = causal_mask(self.kernel, self.centre), self.kernel // 2
    shape = (*mask.shape, x.shape[-1], self.features)
    mask = jnp.asarray(np.broadcast_to(mask[..., None, None], shape))
    padding = ((half, 0), (half, half))
    return nn.Conv(
      self.features, mask.shape[:2], padding=padding, mask=mask, dtype=self.dtype, name="conv"
    )(x)


class Residual(nn.Module):
  """Two causal convolutions with the condition between them, gated, added to the input."""

  kernel: int
  dropout: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, cond: jax.Array, train: bool) -> jax.Array:
    width = x.shape[-1]
    h = CausalConv(width, self.kernel, True, self.dtype, name="conv_1")(nn.elu(x))
    h = nn.elu(h + nn.Dense(width, use_bias=False, dtype=self.dtype, name="cond")(cond))
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    return x + _gate(CausalConv(2 * width, self.kernel, True, self.dtype, name="conv_2")(h))


class Attention(nn.Module):
  """Causal attention over the grid, which also sees the code before each position, and where it is.
  Gated, added.
  """

  heads: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BHWC: jax.Array, before_BHWC: jax.Array) -> jax.Array:
    b, height, columns, width = x_BHWC.shape
    place = np.stack(
      np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, columns), indexing="ij"), axis=-1
    )
    place = jnp.broadcast_to(jnp.asarray(place, x_BHWC.dtype), (b, height, columns, 2))
    x = einops.rearrange(
      jnp.concatenate([x_BHWC, before_BHWC, place], axis=-1), "b h w c -> b (h w) c"
    )
    q, k, v = (
      einops.rearrange(
        nn.Dense(width, dtype=self.dtype, name=name)(x), "b l (n d) -> b l n d", n=self.heads
      )
      for name in ("query", "key", "value")
    )
    h = einops.rearrange(
      attention.attend(q, k, v, "causal"), "b (h w) n d -> b h w (n d)", h=height
    )
    h = jnp.concatenate([nn.elu(x_BHWC), h], axis=-1)
    return x_BHWC + _gate(nn.Dense(2 * width, dtype=self.dtype, name="out")(h))


class Model(nn.Module):
  """PixelSNAIL. Causal, uncached.

  The condition enters every residual block: the sum of the prefix tokens' embeddings, and where the
  prefix ends in a coarser grid of codes, that grid after `prefix_layers` residual convolutions,
  repeated to this grid's size.

  Attributes:
    latent, rows, causal, dtype: see vqjax/priors/__init__.py; the latent's steps
      lie on one or two axes.
    blocks: each is `residuals` gated residual blocks and, with attention="causal", one attention.
    width, heads, kernel: channels, attention heads, odd width of the convolutions.
    attention: "none" leaves it out, as VQ-VAE-2's prior of its largest level does (arXiv
      1906.00446, table 5). A position then sees, of the row n above it, no more than n * (kernel //
      2) columns to its right.
    dropout: inside the residual blocks.
    prefix_grid: shape of the coarser grid at the prefix's end; () for none.
    prefix_layers: residual 3x3 convolutions on the coarser grid.
  """

  latent: Codes = fields.program()
  rows: int = fields.program()
  causal: bool = fields.program(True)
  blocks: int = 4
  residuals: int = 4
  width: int = 128
  heads: int = 8
  kernel: int = 5
  attention: Literal["causal", "none"] = "causal"
  dropout: float = 0.0
  prefix_grid: tuple[int, ...] = fields.program(())
  prefix_layers: int = 2
  dtype: str = "float32"

  cached = False

  def __post_init__(self) -> None:
    checks.positive(self, "blocks", "residuals", "width", "kernel")
    checks.within(self, "prefix_layers", at_least=0)
    if self.attention == "causal":
      checks.heads(self)
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
    grid = tokens.image_grid(self.latent.step_grid, self.causal, self.kernel)
    dtype = jnp.dtype(self.dtype)
    embed = tokens.Embed(self.rows, self.width, self.dtype, name="embed")
    cond = self._condition(embed, prefix_BP, len(ids_BL), grid)
    x = _books.embedded(embed, self.latent, ids_BL)
    before, x = (
      einops.rearrange(y, "b (h w) c -> b h w c", h=grid[0])
      for y in (jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1], x)
    )
    x = CausalConv(self.width, self.kernel, False, dtype, name="first")(x)
    for i in range(self.blocks):
      for j in range(self.residuals):
        x = Residual(self.kernel, self.dropout, dtype, name=f"residual_{i}_{j}")(x, cond, train)
      if self.attention == "causal":
        x = Attention(self.heads, dtype, name=f"attention_{i}")(x, before)
    x = einops.rearrange(nn.elu(x), "b h w c -> b (h w) c")
    return self.latent.collect(_books.Head(self.latent, dtype, name="head")(x))

  def _condition(
    self, embed: nn.Module, prefix_BP: jax.Array | None, batch: int, grid: tuple[int, int]
  ) -> jax.Array:
    picture_BP, coarse_BHW = tokens.split_prefix(prefix_BP, batch, self.prefix_grid)
    cond = embed(picture_BP).sum(1)[:, None, None]
    if coarse_BHW is None:
      return cond
    x = embed(coarse_BHW)
    for i in range(self.prefix_layers):
      x = x + nn.Conv(self.width, (3, 3), dtype=jnp.dtype(self.dtype), name=f"prefix_{i}")(
        nn.elu(x)
      )
    return cond + tokens.upsample(x, grid)
