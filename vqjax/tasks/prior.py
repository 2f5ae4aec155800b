"""Stage 2: learn the distribution of a frozen tokenizer's codes, under any condition that can be written as a prefix."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import checkpoint, config as configuration
from vqjax.build import build, check_fields, module
from vqjax.errors import UserError
from vqjax.generation import Network, _guidance
from vqjax.tasks import Task, autoencode, conditions


def make(config: Mapping[str, Any], spec: Mapping[str, Any]) -> Task:
  """The task for a completed config and a batch's shapes.

  Raises:
    UserError: no tokenizer, or anything in config.model, config.scheme or config.condition that does not fit it.
  """
  if not config["tokenizer"]:
    raise UserError("config.tokenizer: is not set; give the workdir of a trained or converted tokenizer.")
  if not config["scheme"]:
    raise UserError("config.scheme: is not set; for example config.scheme.name=autoregressive.")
  if config["loss"]:
    raise UserError(f"config.loss: a prior's loss comes from config.scheme; remove {', '.join(config['loss'])}.")
  tokenizer = Tokenizer(config["tokenizer"], spec)
  check_fields(conditions.Condition, dict(config["condition"] or {}), "config.condition")
  condition = conditions.Condition(**(config["condition"] or {}))
  codes = tokenizer.codes(condition.level)
  scheme = build("generation", config["scheme"], "config.scheme", num_codes=codes.vocabulary)
  prefix = conditions.Prefix(condition, codes.vocabulary + scheme.extra_ids, tokenizer, spec)
  model = build("priors", config["model"], "config.model", **_fixed(config["model"], scheme, codes, prefix))
  _check_cache(config["data"], tokenizer)
  run = _Prior(model, scheme, tokenizer, codes, prefix)
  can_bound = hasattr(scheme, "bound")
  return Task(
      init=run.init, loss=run.loss, frozen=tokenizer.load, frozen_shapes=tokenizer.shapes,
      predict={"encode": run.encode, "decode": run.decode, "preview": run.preview} | ({"likelihood": run.likelihood} if can_bound else {}),
      prepare=prefix.prepare,
      evaluators=("likelihood",) if can_bound else (),
      known={"pixels": math.prod(spec["image"].shape[1:])} if "image" in spec else {"pixels": tokenizer.pixels},
      extra=run)


def _check_cache(data: Mapping[str, Any], tokenizer: Tokenizer) -> None:
  """Raises UserError where cached codes were made by other weights than the tokenizer's."""
  if data["name"] != "codes":
    return
  made_by = json.loads((pathlib.Path(data["path"]) / "manifest.json").read_text())["tokenizer"]
  if made_by != (own := tokenizer.identity()):
    raise UserError(
        f"config.data.path: the codes in {data['path']} were made by tokenizer {made_by}, config.tokenizer={tokenizer.workdir} is {own}; "
        "write them again with python -m vqjax.tokenize.")


def _fixed(config: Mapping[str, Any], scheme: Any, codes: Codes, prefix: conditions.Prefix) -> dict[str, Any]:
  """The fields of a prior network that the tokenizer, the scheme and the condition decide."""
  values = {
      "vocab_size": prefix.rows, "out_size": codes.vocabulary, "grid": codes.grid, "causal": scheme.causal,
      "max_prefix": max(1, prefix.length), "prefix_grid": prefix.grid,
      "modulation": "adaln" if scheme.timed else "none",
  }
  name = config.get("name")
  fields = {f.name for f in dataclasses.fields(module("priors", name).Model)} if name else values.keys()
  return {k: v for k, v in values.items() if k in fields}


@dataclasses.dataclass(frozen=True)
class Codes:
  """One level of a tokenizer's codes as a sequence: `books` codes per position, flattened with an offset per book."""

  shape: tuple[int, ...]
  size: int
  books: int

  @property
  def grid(self) -> tuple[int, ...]:
    return (*self.shape, self.books) if self.books > 1 else self.shape

  @property
  def vocabulary(self) -> int:
    return self.size * self.books

  @property
  def length(self) -> int:
    return math.prod(self.grid)

  def flatten(self, ids: jax.Array) -> jax.Array:
    """`[B, ...grid]` codes to `[B, L]`; code k of book q becomes q·K + k."""
    offsets = jnp.arange(self.books) * self.size if self.books > 1 else jnp.zeros(1, jnp.int32)
    return (ids.reshape(-1, self.books) + offsets[None]).reshape(ids.shape[0], -1)

  def unflatten(self, ids_BL: jax.Array) -> jax.Array:
    return (ids_BL % self.size).reshape(ids_BL.shape[0], *self.grid)

  def allow(self, logits_BLV: jax.Array) -> jax.Array:
    """Logits with -1e9 where a code belongs to another book than its position."""
    if self.books == 1:
      return logits_BLV
    book_L = jnp.arange(self.length) % self.books
    return jnp.where((jnp.arange(self.vocabulary) // self.size)[None] == book_L[:, None], logits_BLV, -1e9)


class Tokenizer:
  """The frozen stage 1: its task's functions, its codes' shapes, and its weights as a pytree to pass around."""

  def __init__(self, workdir: str, spec: Mapping[str, Any]):
    self.workdir = pathlib.Path(workdir)
    self.config = configuration.of_run(self.workdir)
    self.spec = {"image": configuration.read_spec(self.workdir)["image"]}
    if "image" in spec and spec["image"].shape[1:] != self.spec["image"].shape[1:]:
      size = self.spec["image"].shape[1:]
      raise UserError(f"config.ops: images are {spec['image'].shape[1:]}, the tokenizer in {workdir} was trained on {size}; set config.ops.size={size[0]}.")
    self.task = autoencode.make(self.config, self.spec)
    self.pixels = math.prod(self.spec["image"].shape[1:])
    self._ids = jax.eval_shape(lambda k, b: self._encode(self._init(k, b), b), jax.random.key(0), self.spec)

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
      raise UserError(f"config.condition.level: {level}; the tokenizer has {self.levels} level(s), counted from 0, coarse first.")
    ids = self._ids[level] if isinstance(self._ids, tuple) else self._ids
    size, books = self.task.known["codebook_sizes"][level], self.task.known["num_codebooks"][level]
    return Codes(ids.shape[1:-1] if books > 1 else ids.shape[1:], size, books)

  def shapes(self) -> Any:
    return jax.eval_shape(self._init, jax.random.key(0), self.spec)

  def load(self) -> Any:
    """The weights on the host: averaged ones where an average was kept."""
    abstract = self.shapes()
    parts = checkpoint.restore_params(self.workdir, {"params": abstract["params"], "stats": abstract["stats"]})
    if self.config["ema_decay"]:
      parts["params"]["model"] = checkpoint.restore_params(self.workdir, {"ema": abstract["params"]["model"]})["ema"]
    return jax.device_get({"params": {"model": parts["params"]["model"]}, "stats": {"model": parts["stats"]["model"]}})

  def identity(self) -> str:
    weights = self.load()
    model = {"params": weights["params"]["model"], "stats": weights["stats"]["model"]}
    return checkpoint.identity(self.config.model.to_dict(), jax.tree.map(jnp.asarray, model))

  def levels_of(self, frozen: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
    """Codes of every level: read from the batch where they were computed before, else computed here."""
    if "ids" in batch:
      return (batch["ids"],) if self.levels == 1 else tuple(batch[f"ids{i}" if i else "ids"] for i in range(self.levels))
    ids = jax.lax.stop_gradient(self._encode(frozen, {"image": batch["image"]}))
    return ids if isinstance(ids, tuple) else (ids,)

  def decode(self, frozen: Any, levels: tuple[jax.Array, ...]) -> jax.Array:
    """Images `[B, H, W, C]` in [-1, 1]."""
    ids = levels if self.levels > 1 else levels[0]
    return self.task.predict["decode"](frozen["params"], frozen["stats"], {}, {"ids": ids})["image"]


@dataclasses.dataclass(frozen=True)
class _Prior:
  """The task's functions over the network, the scheme and the tokenizer that the config names."""

  model: nn.Module
  scheme: Any
  tokenizer: Tokenizer
  codes: Codes
  prefix: conditions.Prefix

  def init(self, key: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[Any, Any]:
    rows = next(iter(batch.values())).shape[0]
    time = jnp.zeros((rows,)) if self.scheme.timed else None
    ids, prefix = jnp.zeros((rows, self.codes.length), jnp.int32), jnp.zeros((rows, self.prefix.length), jnp.int32)
    variables = self.model.init({"params": key}, ids, prefix, time_B=time, train=False)
    return {"model": variables["params"]}, {"model": {}}

  def _logits(self, params: Any, ids: jax.Array, prefix: jax.Array, time: Any, rngs: Any = None) -> jax.Array:
    logits = self.model.apply({"params": params["model"]}, ids, prefix, time_B=time, train=rngs is not None, rngs=rngs)
    return self.codes.allow(logits)

  def loss(self, params: Any, stats: Any, frozen: Any, batch: Any, key: jax.Array, step: jax.Array) -> Any:
    del step
    levels = self.tokenizer.levels_of(frozen, batch)
    ids = self.codes.flatten(levels[self.prefix.condition.level])
    key_corrupt, key_drop, key_dropout = (jax.random.fold_in(key, i) for i in range(3))
    prefix = self.prefix.drop(key_drop, self.prefix.tokens(batch, levels))
    corrupted = self.scheme.corrupt(key_corrupt, ids)
    logits = self._logits(params, corrupted.inputs_BL, prefix, corrupted.time_B, {"dropout": key_dropout})
    nats, weights = self.scheme.loss(logits, corrupted)
    count = jnp.sum(weights)
    loss = jnp.sum(nats * weights) / count
    right = jnp.argmax(logits, -1) == corrupted.targets_BL
    return loss, (stats, {"loss/codes": loss, "codes/accuracy": jnp.sum(right * weights) / count})

  def network(self, params: Any, prefix: jax.Array, guidance: float = 1.0, schedule: str = "constant") -> Network:
    """The network with parameters and condition bound; guidance other than 1 doubles the batch."""
    if guidance == 1.0 or not self.prefix.length:
      return self._plain(params, prefix)
    doubled = self._plain(params, _guidance.double(prefix, jnp.full_like(prefix, -1)))
    return _guidance.guided(doubled, guidance, schedule, length=self.codes.length)

  def _plain(self, params: Any, prefix: jax.Array) -> Network:
    def full(ids: jax.Array, time: Any) -> jax.Array:
      return self._logits(params, ids, prefix, time if self.scheme.timed else None)

    if not self.scheme.causal:
      return Network(full)
    if not self.model.cached:
      from vqjax.generation import autoregressive
      return Network(full, *autoregressive.uncached(full, prefix.shape[0], self.codes.length))
    bound = lambda method: lambda *a: self.model.apply({"params": params["model"]}, *a, method=method)

    def start() -> tuple[jax.Array, Any]:
      cache = self.model.init_cache(prefix.shape[0], prefix.shape[1])
      logits, cache = bound("prefill")(prefix, cache)
      return self._allow_at(logits, 0), cache

    def step(ids: jax.Array, index: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
      logits, cache = bound("decode")(ids, index, cache)
      return self._allow_at(logits, index + 1), cache

    return Network(full, start, step)

  def _allow_at(self, logits_BV: jax.Array, index: Any) -> jax.Array:
    if self.codes.books == 1:
      return logits_BV
    book = jnp.arange(self.codes.vocabulary) // self.codes.size
    return jnp.where((book == index % self.codes.books)[None], logits_BV, -1e9)

  def sampler(self, guidance: float = 1.0, guidance_schedule: str = "constant", **options: Any) -> Callable[..., Any]:
    """fn(params, key, prefix_BP, ids_BL, known_BL) -> ids_BL (with trajectory=True also ids_SBL); jit it once per shape."""
    def sample(params: Any, key: jax.Array, prefix: jax.Array, ids: jax.Array, known: jax.Array) -> Any:
      return self.scheme.sample(key, self.network(params, prefix, guidance, guidance_schedule), ids, known, **options)
    return sample

  def likelihood(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, jax.Array]:
    """{"nats": [B, L]}: -log p per position, exact or a bound as the scheme has it, with noise from a fixed key."""
    del stats
    levels = self.tokenizer.levels_of(frozen, batch)
    ids = self.codes.flatten(levels[self.prefix.condition.level])
    network = self.network(params, self.prefix.tokens(batch, levels))
    return {"nats": self.scheme.bound(jax.random.key(0), network, ids)}

  def encode(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    del params, stats
    levels = self.tokenizer.levels_of(frozen, batch)
    return {"ids": levels if len(levels) > 1 else levels[0]}

  def decode(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    del params, stats
    return {"image": self.tokenizer.decode(frozen, batch["ids"] if isinstance(batch["ids"], tuple) else (batch["ids"],))}

  def preview(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    """Rows of a picture: held-out images as the tokenizer shows them, above samples under the same conditions."""
    del stats
    levels = self.tokenizer.levels_of(frozen, batch)
    level = self.prefix.condition.level
    prefix = self.prefix.tokens(batch, levels)
    blank = jnp.zeros((prefix.shape[0], self.codes.length), jnp.int32)
    ids = self.sampler()(params, jax.random.key(0), prefix, blank, jnp.zeros(blank.shape, bool))
    drawn = (*levels[:level], self.codes.unflatten(ids), *levels[level + 1:])
    return {"rows": (self.tokenizer.decode(frozen, levels), self.tokenizer.decode(frozen, drawn))}
