"""Diffusion transformer (DiT, arXiv 2212.09748) over patches of a grid of floats or codes."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.latents import Codes, Floats
from vqjax.nn import attention, patches, tokens
from vqjax.priors._block import hidden_width, modulate, norm, stacked

# The network is told times in 0 to 1; its sines were made for steps of a thousand.
_TICKS = 1_000


class Model(nn.Module):
  """Bidirectional blocks, each shifted, scaled and gated by time and condition (adaLN-Zero).

  The defaults are DiT-S/2's. Parameters of the blocks are stacked along a leading axis of `layers`.

  Attributes:
    latent, rows, causal, outputs, dtype: see vqjax/priors/__init__.py; it cannot be causal.
    layers, width, heads: depth, channels, attention heads.
    hidden: channels inside the MLP; None means 4 * width, for swiglu 8/3 * width rounded up to a
      multiple of 256.
    patch: side of the patches that become one position of the attention, of every axis of the grid
      or of each.
    condition: "pooled" adds the mean of the condition's embeddings to that of the time, as DiT does
      with a class; "tokens" puts them before the patches, where attention sees each; "both".
    max_prefix: the longest prefix that "tokens" has room for.
    positions: of patches: "sine", fixed sines and cosines added to them, or "rotary", which turns
      queries and keys.
    mlp: "gelu" is its tanh approximation, as published.
    qk_norm: "rmsnorm" normalises queries and keys per head (arXiv 2302.05442).
    modulation: "adaln" where the scheme tells a time; without one the condition alone modulates.
    dropout: of embeddings and of both residual branches.
    remat: "block" keeps only the blocks' inputs for the backward pass.
  """

  latent: Codes | Floats = fields.program()
  rows: int = fields.program()
  causal: bool = fields.program(False)
  outputs: int = fields.program(0)
  layers: int = 12
  width: int = 384
  heads: int = 6
  hidden: int | None = None
  patch: int | tuple[int, ...] = 2
  condition: Literal["pooled", "tokens", "both"] = "pooled"
  max_prefix: int = fields.program(1)
  positions: Literal["sine", "rotary"] = "sine"
  mlp: Literal["gelu", "swiglu"] = "gelu"
  qk_norm: Literal["none", "rmsnorm"] = "none"
  modulation: Literal["none", "adaln"] = fields.program("adaln")
  dropout: float = 0.0
  remat: Literal["none", "block"] = "none"
  dtype: str = "float32"

  takes: ClassVar[tuple[str, ...]] = ("codes", "floats")
  cached: ClassVar[bool] = False

  def __post_init__(self) -> None:
    self._check()
    super().__post_init__()

  @property
  def sides(self) -> tuple[int, ...]:
    """Of a patch, per axis."""
    axes = len(self.latent.grid)
    return (self.patch,) * axes if isinstance(self.patch, int) else tuple(self.patch)

  @property
  def grid(self) -> tuple[int, ...]:
    """Of patches."""
    return tuple(n // p for n, p in zip(self.latent.grid, self.sides))

  @nn.compact
  def __call__(
    self,
    inputs: jax.Array,
    prefix_BP: jax.Array | None = None,
    *,
    time_B: jax.Array | None = None,
    train: bool,
  ) -> jax.Array:
    """float32 `[B, L, R]`, logits or channels. Raises UserError for a prefix without room, or a
    missing time.
    """
    dense = lambda features, name, **more: nn.Dense(
      features, dtype=self.dtype, kernel_init=nn.initializers.normal(0.02), name=name, **more
    )
    embed = tokens.Embed(max(1, self.rows), self.width, self.dtype, name="embed")
    batch, prefix_BP = len(inputs), self._prefix(inputs, prefix_BP)
    codes = self.latent.kind == "codes"
    x = embed(self.latent.numbered(inputs)) if codes else inputs.astype(self.dtype)
    x = patches.cut(x.reshape(batch, *self.latent.grid, -1), self.sides)
    x = x.reshape(batch, math.prod(self.grid), -1)
    if self.latent.kind == "floats" or math.prod(self.sides) > 1:
      x = dense(self.width, "patch_in")(x)
    x, angles, told_BPC = self._placed(x, embed(prefix_BP))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    cond_BC = jnp.zeros((batch, self.width), self.dtype)
    if self.condition != "tokens" and prefix_BP.shape[1]:
      cond_BC += told_BPC.mean(1)
    if self.modulation == "adaln":
      if time_B is None:
        raise UserError("time: is missing; 'dit' was made for a scheme that tells one.")
      time_B = time_B.astype(jnp.float32)
      told = {"time": time_B}
      if time_B.ndim == 2:  # an average from an earlier time on: the later one, and how far it is
        told = {"time": time_B[:, 1], "span": time_B[:, 1] - time_B[:, 0]}
      for name, value_B in told.items():
        waves = attention.waves(_TICKS * value_B).astype(self.dtype)
        hidden = nn.silu(dense(self.width, f"{name}_in")(waves))
        cond_BC += dense(self.width, f"{name}_out")(hidden)
    cond_BC = nn.silu(cond_BC)
    x = self._blocks()(x, cond_BC, angles, train, None, np.zeros(self.layers, np.int32))[0]
    x = norm("plain", False, self.dtype)(x[:, x.shape[1] - math.prod(self.grid) :])
    zeros = nn.initializers.zeros
    moved = nn.Dense(2 * self.width, dtype=self.dtype, kernel_init=zeros, name="modulate")(cond_BC)
    x = modulate(x, *jnp.split(moved, 2, axis=-1))
    features = self.latent.size if codes else self.outputs
    head = tokens.head(math.prod(self.sides) * features, self.dtype, kernel_init=zeros, name="head")
    x = patches.join(head(x).reshape(batch, *self.grid, -1), self.sides)
    return x.reshape(batch, self.latent.length, features)

  def _prefix(self, inputs: jax.Array, prefix_BP: jax.Array | None) -> jax.Array:
    if inputs.shape[1] != self.latent.length:
      raise UserError(
        f"grid: {self.latent.grid} has {self.latent.length} places, not {inputs.shape[1]}: 'dit' "
        "reads whole grids."
      )
    return jnp.zeros((len(inputs), 0), jnp.int32) if prefix_BP is None else prefix_BP

  def _placed(
    self, x: jax.Array, told_BPC: jax.Array
  ) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """(the sequence with positions, angles of a rotation, the condition's embeddings)."""
    prefix, angles = told_BPC.shape[1], None
    if self.positions == "sine":
      x = x + jnp.asarray(attention.sine_table(self.grid, self.width), x.dtype)[None]
    else:
      angles = jnp.asarray(attention.rotary_table(self.grid, self.width // self.heads))
    if self.condition == "pooled":
      return x, angles, told_BPC
    if prefix > self.max_prefix:
      raise UserError(
        f"max_prefix: {self.max_prefix} is shorter than the prefix of {prefix} tokens; raise it."
      )
    shape, init = (self.max_prefix, self.width), nn.initializers.normal(0.02)
    table = self.param("prefix_table", init, shape)
    x = jnp.concatenate([told_BPC + table[None, :prefix].astype(x.dtype), x], axis=1)
    angles = None if angles is None else jnp.pad(angles, ((prefix, 0), (0, 0)))
    return x, angles, told_BPC

  def _blocks(self) -> nn.Module:
    return stacked(self.layers, self.remat)(
      heads=self.heads,
      hidden=hidden_width(self.hidden, self.width, self.mlp),
      causal=False,
      norm="plain",
      mlp="gelu_tanh" if self.mlp == "gelu" else self.mlp,
      qk_norm=self.qk_norm,
      modulation="adaln",
      bias=True,
      dropout=self.dropout,
      scale=0.02 / math.sqrt(2 * self.layers),
      dtype=jnp.dtype(self.dtype),
      name="blocks",
    )

  def _check(self) -> None:
    checks.positive(self, "layers", "max_prefix", "hidden")
    checks.heads(self)
    checks.dropout(self)
    if self.causal:
      raise UserError("causal: 'dit' sees all positions; use the transformer with this scheme.")
    grid = self.latent.grid
    if len(self.sides) != len(grid) or any(p < 1 or n % p for n, p in zip(grid, self.sides)):
      raise UserError(f"patch: {self.patch} does not divide the latents' grid {grid}.")
    rotary = self.positions == "rotary"
    what, width = ("heads", self.width // self.heads) if rotary else ("width", self.width)
    if width % (2 * len(grid)):
      raise UserError(
        f"{what}: {self.positions} positions on {grid} need a {'head ' * rotary}width that is a "
        f"multiple of {2 * len(grid)}, not {width}."
      )
