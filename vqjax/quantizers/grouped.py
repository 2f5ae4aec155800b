"""Product quantization: groups of channels are quantized apart."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import fields
from vqjax.errors import UserError
from vqjax.nn import codebook
from vqjax.quantizers import Quantized


class Model(nn.Module):
  """Cuts channels into `groups` equal runs and quantizes each by a quantizer of its own (arXiv
  1910.05453, sec. 3.2).

  The loss is the mean over groups, as one quantizer's is the mean over its elements; so are the
  metrics.

  Attributes:
    quantizer: the group's quantizer, with codes.
    groups: number of groups; the latent has `groups` times its width.
    codebooks: "separate" per group, or one "shared" by all.
  """

  quantizer: nn.Module = fields.member("quantizers")
  groups: int = 2
  codebooks: Literal["separate", "shared"] = "separate"

  def __post_init__(self):
    if self.groups < 1:
      raise UserError(f"groups: {self.groups}; give at least 1.")
    if not self.quantizer.num_codebooks:
      raise UserError("quantizer: a group needs codes; choose one such as 'vq' or 'fsq'.")
    super().__post_init__()

  @property
  def input_width(self) -> int:
    return self.groups * self.quantizer.input_width

  @property
  def width(self) -> int:
    return self.groups * self.quantizer.width

  @property
  def codebook_size(self) -> int:
    return self.quantizer.codebook_size

  @property
  def num_codebooks(self) -> int:
    return self.groups * self.quantizer.num_codebooks

  def setup(self):
    shared = self.codebooks == "shared"
    self.parts = [
      self.quantizer if shared else self.quantizer.clone(parent=None) for _ in range(self.groups)
    ]

  def __call__(self, z: jax.Array, *, train: bool, step: jax.Array | None = None) -> Quantized:
    if z.shape[-1] != self.input_width:
      raise UserError(
        f"groups: {self.groups} groups read {self.input_width} channels, not {z.shape[-1]}."
      )
    pieces = jnp.split(z, self.groups, axis=-1)
    done = [part(piece, train=train, step=step) for part, piece in zip(self.parts, pieces)]
    ids = codebook.join_ids([q.ids for q in done], self.quantizer.num_codebooks)
    loss = sum(q.loss for q in done) / self.groups
    return Quantized(
      jnp.concatenate([q.z for q in done], axis=-1),
      ids,
      loss,
      codebook.mean_metrics([q.metrics for q in done]),
    )

  def embed(self, ids: jax.Array) -> jax.Array:
    pieces = codebook.split_ids(ids, self.num_codebooks, self.quantizer.num_codebooks)
    return jnp.concatenate([part.embed(piece) for part, piece in zip(self.parts, pieces)], axis=-1)
