"""Product quantization: groups of channels are quantized apart."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checks, fields
from vqjax.errors import UserError
from vqjax.nn import codebook
from vqjax.quantizers import Quantized


class Model(nn.Module):
  """Cuts channels into `groups` equal runs and quantizes each by a quantizer of its own (arXiv
  1910.05453, sec. 3.3).

  The loss is the mean over groups, as one quantizer's is the mean over its elements; so are the
  metrics. A shared codebook's metrics are of all groups together.

  Attributes:
    quantizer: the group's quantizer, with codes.
    groups: number of groups; the latent has `groups` times its width.
    codebooks: "separate" per group, or one "shared" by all.
  """

  quantizer: nn.Module = fields.member("quantizers")
  groups: int = 2
  codebooks: Literal["separate", "shared"] = "separate"

  input_width = property(lambda self: self.groups * self.quantizer.input_width)
  width = property(lambda self: self.groups * self.quantizer.width)
  codebook_size = property(lambda self: self.quantizer.codebook_size)
  num_codebooks = property(lambda self: self.groups * self.quantizer.num_codebooks)
  as_level = property(lambda self: self.quantizer.as_level)

  def __post_init__(self):
    checks.within(self, "groups", at_least=1, at_most=1024)
    if not self.quantizer.num_codebooks:
      raise UserError("quantizer: a group needs codes; choose one such as 'vq' or 'fsq'.")
    super().__post_init__()

  def setup(self):
    if self.codebooks == "separate":
      self.parts = [self.quantizer.clone(parent=None) for _ in range(self.groups)]

  def bounded(self, z: jax.Array) -> jax.Array:
    return self.quantizer.bounded(self._cut(z)).reshape(z.shape)

  def at_level(self, level: int) -> Model:
    return self.clone(parent=None, quantizer=self.quantizer.at_level(level))

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    z_GD = self._cut(z)
    if self.codebooks == "shared":
      # Groups are one more axis of the grid, so that the codebook learns once, from all of them.
      q = self.quantizer(z_GD, train=train, step=step)
      ids = q.ids.reshape(*z.shape[:-1], *([self.num_codebooks] if self.num_codebooks > 1 else []))
      return q.replace(z=q.z.reshape(*z.shape[:-1], self.width), ids=ids)
    done = [part(z_GD[..., i, :], train=train, step=step) for i, part in enumerate(self.parts)]
    ids = codebook.join_ids([q.ids for q in done], self.quantizer.num_codebooks)
    return Quantized(
      jnp.concatenate([q.z for q in done], axis=-1),
      ids,
      sum(q.loss for q in done) / self.groups,
      codebook.mean_metrics([q.metrics for q in done]),
    )

  def _cut(self, z: jax.Array) -> jax.Array:
    """[..., groups * D] as [..., groups, D]."""
    if z.shape[-1] != self.input_width:
      raise UserError(
        f"groups: {self.groups} groups read {self.input_width} channels, not {z.shape[-1]}."
      )
    return z.reshape(*z.shape[:-1], self.groups, self.quantizer.input_width)

  def embed(self, ids: jax.Array) -> jax.Array:
    pieces = codebook.split_ids(ids, self.num_codebooks, self.quantizer.num_codebooks)
    parts = self.parts if self.codebooks == "separate" else [self.quantizer] * self.groups
    return jnp.concatenate([part.embed(piece) for part, piece in zip(parts, pieces)], axis=-1)
