"""Residual quantization: each level codes what the levels before it left over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.nn import codebook
from vqjax.quantizers import Quantized


class Model(nn.Module):
  """Sums `depth` levels of any quantizer (arXiv 2107.03312, alg. 1; RQ-VAE, arXiv 2203.01941).
  Coarse levels first.

  Where codes are fixed, latents are bounded once and every level's codes are finer than those of
  the level before. Losses add up over levels; metrics are means over them, but `usage` and
  `perplexity` of a shared codebook are of all levels together. `embed` also takes ids [..., q] of
  the first q levels only. It cannot be a level of another one: give more depth.

  Attributes:
    quantizer: the level's quantizer, one whose `as_level` is not "none".
    depth: number of levels.
    codebooks: "separate" per level, or one "shared" by all; no difference where codes are fixed.
    dropout: probability that an example of a training step uses only the first n levels, n uniform
      in 1 … depth (arXiv 2107.03312, sec. 3.3), so that fewer codes still decode. A level's loss
      counts by the share of examples that use it.
  """

  quantizer: nn.Module = fields.member("quantizers")
  depth: int = 4
  codebooks: Literal["separate", "shared"] = "separate"
  dropout: float = 0.0

  input_width = width = property(lambda self: self.quantizer.width)
  codebook_size = property(lambda self: self.quantizer.codebook_size)
  num_codebooks = property(lambda self: self.depth * self.quantizer.num_codebooks)
  as_level = "none"

  def __post_init__(self):
    checks.within(self, "depth", at_least=1, at_most=1024)
    checks.within(self, "dropout", at_least=0, at_most=1)
    if self.quantizer.as_level == "none":
      name = type(self.quantizer).__module__.rpartition(".")[-1]
      raise UserError(
        f"quantizer: {name!r} cannot be a level of 'residual'; choose one such as 'vq' or 'fsq'."
      )
    super().__post_init__()

  def setup(self):
    if self.quantizer.as_level == "finer":
      self.levels = [self.quantizer.at_level(i) for i in range(self.depth)]
    elif self.codebooks == "shared":
      self.levels = [self.quantizer] * self.depth
    else:
      self.levels = [self.quantizer.clone(parent=None) for _ in range(self.depth)]

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    finer = self.quantizer.as_level == "finer"
    rest = self.quantizer.bounded(z) if finer else z.astype(jnp.float32)
    kept = self._kept(len(z), train)
    total, loss, ids, metrics = jnp.zeros_like(rest), jnp.zeros((), jnp.float32), [], []
    for level, kept_B in zip(self.levels, kept):
      q = level(rest, train=train, step=step)
      # The first level passes the gradient on to z, by its own estimator: what follows would add a
      # copy for each level. Mapped levels have each its own way back.
      mapped = self.quantizer.as_level == "mapped"
      out = q.z if mapped or not ids else jax.lax.stop_gradient(q.z)
      total += out * jnp.expand_dims(kept_B, range(1, z.ndim))
      loss += q.loss * jnp.mean(kept_B)
      rest = rest - (q.z if mapped else jax.lax.stop_gradient(q.z))
      ids.append(q.ids)
      metrics.append(q.metrics)
    metrics = codebook.mean_metrics(metrics)
    if self.codebooks == "shared" and not finer:
      metrics |= self._usage(ids)
    ids = codebook.join_ids(ids, self.quantizer.num_codebooks)
    return Quantized(total.astype(z.dtype), ids, loss, metrics)

  def _usage(self, ids: Sequence[jax.Array]) -> dict[str, jax.Array]:
    """Usage of the shared codebook by all levels (mean over the level's codebooks, if several)."""
    each = [jnp.stack(ids)]
    if self.quantizer.num_codebooks > 1:
      each = [each[0][..., i] for i in range(self.quantizer.num_codebooks)]
    return codebook.mean_metrics([codebook.usage(x, self.codebook_size) for x in each])

  def _kept(self, batch: int, train: bool) -> jax.Array:
    """1.0 where an example uses a level, 0.0 elsewhere: [depth, B]."""
    if not (train and self.dropout):
      return jnp.ones((self.depth, batch), jnp.float32)
    coin, number = jax.random.split(self.make_rng("codes"))
    used_B = jax.random.randint(number, (batch,), 1, self.depth + 1)
    used_B = jnp.where(jax.random.bernoulli(coin, self.dropout, (batch,)), used_B, self.depth)
    return (jnp.arange(self.depth)[:, None] < used_B[None]).astype(jnp.float32)

  def embed(self, ids: jax.Array) -> jax.Array:
    parts = codebook.split_ids(ids, self.num_codebooks, self.quantizer.num_codebooks)
    return sum(level.embed(part) for level, part in zip(self.levels, parts))
