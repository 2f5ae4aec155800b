"""Residual quantization: each level codes what the levels before it left over."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import fields
from vqjax.errors import UserError
from vqjax.nn import codebook
from vqjax.quantizers import Quantized, gumbel


class Model(nn.Module):
  """Sums `depth` levels of any quantizer (arXiv 2107.03312, alg. 1; RQ-VAE, arXiv 2203.01941).
  Coarse levels first.

  Losses add up over levels; metrics are means over them. `embed` also takes ids [..., q] of the
  first q levels only.

  Attributes:
    quantizer: the level's quantizer, with codes and with equal input and output widths.
    depth: number of levels.
    codebooks: "separate" per level, or one "shared" by all.
    dropout: probability that a training step uses only the first n levels, n uniform in 1 … depth
      (arXiv 2107.03312, sec. 3.3), so that fewer codes still decode.
  """

  quantizer: nn.Module = fields.member("quantizers")
  depth: int = 4
  codebooks: Literal["separate", "shared"] = "separate"
  dropout: float = 0.0

  def __post_init__(self):
    if self.depth < 1:
      raise UserError(f"depth: {self.depth} levels; give at least 1.")
    if not self.quantizer.num_codebooks or self.quantizer.input_width != self.quantizer.width:
      raise UserError(
        "quantizer: a residual level needs codes and equal widths in and out; choose one such as 'vq'."
      )
    if isinstance(self.quantizer, gumbel.Model):
      raise UserError(
        "quantizer: 'gumbel' learns its codes through its output, which later levels do not pass on; choose e.g. 'vq'."
      )
    super().__post_init__()

  @property
  def input_width(self) -> int:
    return self.quantizer.input_width

  @property
  def width(self) -> int:
    return self.quantizer.width

  @property
  def codebook_size(self) -> int:
    return self.quantizer.codebook_size

  @property
  def num_codebooks(self) -> int:
    return self.depth * self.quantizer.num_codebooks

  def setup(self):
    shared = self.codebooks == "shared"
    self.levels = [
      self.quantizer if shared else self.quantizer.clone(parent=None) for _ in range(self.depth)
    ]

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    rest = z.astype(jnp.float32)
    keep = self._kept(train)
    total, loss, ids, metrics = jnp.zeros_like(rest), jnp.zeros((), jnp.float32), [], []
    for i, level in enumerate(self.levels):
      q = level(rest, train=train, step=step)
      # The first level passes the gradient on to z, by its own estimator: what follows would add a
      # copy for each level.
      total += keep[i] * (jax.lax.stop_gradient(q.z) if i else q.z)
      loss += keep[i] * q.loss
      rest = rest - jax.lax.stop_gradient(q.z)
      ids.append(q.ids)
      metrics.append(q.metrics)
    ids = codebook.join_ids(ids, self.quantizer.num_codebooks)
    return Quantized(total.astype(z.dtype), ids, loss, codebook.mean_metrics(metrics))

  def _kept(self, train: bool) -> jax.Array:
    """1.0 for the levels that this step uses, 0.0 for the others: [depth]."""
    if not (train and self.dropout):
      return jnp.ones(self.depth, jnp.float32)
    coin, number = jax.random.split(self.make_rng("codes"))
    used = jax.random.randint(number, (), 1, self.depth + 1)
    used = jnp.where(jax.random.bernoulli(coin, self.dropout), used, self.depth)
    return (jnp.arange(self.depth) < used).astype(jnp.float32)

  def embed(self, ids: jax.Array) -> jax.Array:
    parts = codebook.split_ids(ids, self.num_codebooks, self.quantizer.num_codebooks)
    return sum(level.embed(part) for level, part in zip(self.levels, parts))
