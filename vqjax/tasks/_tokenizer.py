"""A trained stage 1 as stage 2 sees it: what it encodes, the shapes of its codes, and its weights."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from vqjax import checkpoint, config as configuration
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.tasks import autoencode


class Tokenizer:
  """The frozen stage 1: its task's functions, its codes' shapes, and its weights as a pytree to
  pass around.

  Args:
    workdir: of the run.
    spec: a batch's shapes of the prior.
    field: what it encodes: "image", or "layout".

  Raises UserError for a run that encodes something else, has not started, or was trained on another
  size.
  """

  def __init__(self, workdir: str, spec: Mapping[str, Any], field: str = "image"):
    self.workdir = pathlib.Path(workdir)
    self.config = configuration.of_run(self.workdir)
    option = {"image": "config.tokenizer", "layout": "config.condition.layout_tokenizer"}[field]
    if self.config.task != "autoencode" or autoencode.reads(self.config) != field:
      kind = {
        "image": "images",
        "layout": "label maps (config.loss.reconstruction=binary_cross_entropy)",
      }[field]
      raise UserError(f"{option}: {workdir} is no tokenizer of {kind}; give the workdir of one.")
    if (trained := configuration.read_spec(self.workdir)) is None:
      raise UserError(f"{option}: {workdir} holds no batch.json; the run has not started yet.")
    self.spec = {field: trained[field]}
    size = trained[field].shape[1:]
    if field in spec and spec[field].shape[1:] != size:
      found = spec[field].shape[1:]
      raise UserError(
        f"config.ops: {field}s are {found}, the tokenizer in {workdir} was trained on {size}; set config.ops.size={size[0]}."
      )
    self.task = autoencode.make(self.config, self.spec)
    self.pixels = math.prod(size)
    self._field = field
    self._ids = jax.eval_shape(
      lambda k, b: self._encode(self._init(k, b), b), jax.random.key(0), self.spec
    )
    if not jax.tree.leaves(self._ids):
      raise UserError(
        f"{option}: {workdir} is an autoencoder without codes; give one whose quantizer has some."
      )

  def _init(self, key: jax.Array, batch: Any) -> Any:
    params, stats = self.task.init(key, batch)
    return {"params": {"model": params["model"]}, "stats": {"model": stats["model"]}}

  def _encode(self, weights: Any, batch: Any) -> Any:
    return self.task.predict["encode"](weights["params"], weights["stats"], {}, batch)["ids"]

  @property
  def levels(self) -> int:
    return len(self._ids) if isinstance(self._ids, tuple) else 1

  def codes(self, level: int) -> Codes:
    if not 0 <= level < self.levels:
      raise UserError(
        f"config.condition.level: {level}; the tokenizer has {self.levels} level(s), counted from 0, coarse first."
      )
    ids = self._ids[level] if isinstance(self._ids, tuple) else self._ids
    size, books = self.task.known["codebook_sizes"][level], self.task.known["num_codebooks"][level]
    return Codes(ids.shape[1:-1] if books > 1 else ids.shape[1:], size, books)

  def shapes(self) -> Any:
    return jax.eval_shape(self._init, jax.random.key(0), self.spec)

  def load(self) -> Any:
    """The weights on the host: averaged ones where an average was kept."""
    abstract, averaged = self.shapes(), bool(self.config["ema_decay"])
    wanted = {"ema": abstract["params"]["model"]} if averaged else {"params": abstract["params"]}
    parts = checkpoint.restore_params(self.workdir, wanted | {"stats": abstract["stats"]})
    return jax.device_get(
      {"params": {"model": parts["ema"]} if averaged else parts["params"], "stats": parts["stats"]}
    )

  def identity(self, weights: Any) -> str:
    """A hash of the model's config and of `weights`, as `load` returns them."""
    model = {"params": weights["params"]["model"], "stats": weights["stats"]["model"]}
    return checkpoint.identity(self.config.model.to_dict(), model)

  def levels_of(self, frozen: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
    """Codes of every level: read from the batch where they were computed before, else computed
    here.
    """
    if "ids" in batch:
      return (
        (batch["ids"],)
        if self.levels == 1
        else tuple(batch[f"ids{i}" if i else "ids"] for i in range(self.levels))
      )
    ids = jax.lax.stop_gradient(self._encode(frozen, {self._field: batch[self._field]}))
    return ids if isinstance(ids, tuple) else (ids,)

  def decode(self, frozen: Any, levels: tuple[jax.Array, ...]) -> jax.Array:
    """Images `[B, H, W, C]` in [-1, 1]."""
    ids = levels if self.levels > 1 else levels[0]
    return self.task.predict["decode"](frozen["params"], frozen["stats"], {}, {"ids": ids})["image"]
