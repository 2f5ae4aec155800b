"""Stage 2: learn the distribution of a frozen tokenizer's codes, under any condition that can be
written as a prefix.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import fields
from vqjax.build import build, make as make_record
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.nn import palette
from vqjax.schemes import Draw, Guidance, Network, _guidance
from vqjax.tasks import Task, _conditions as conditions
from vqjax.tasks._tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Fields:
  """What a config of this task holds beside vqjax.config.Common."""

  tokenizer: str | None = None  # workdir of the run whose codes are learned
  model: dict = fields.member("priors", {})
  scheme: dict | None = fields.member("schemes", None)
  condition: dict | None = fields.record("tasks._conditions.Condition", None)


def make(config: Mapping[str, Any], spec: Mapping[str, Any]) -> Task:
  """The task for a completed config and a batch's shapes.

  Raises:
    UserError: no tokenizer, or anything in config.model, config.scheme or config.condition that
      does not fit it.
  """
  if not config["tokenizer"]:
    raise UserError(
      "config.tokenizer: is not set; give the workdir of a trained or converted tokenizer."
    )
  if not config["scheme"]:
    raise UserError("config.scheme: is not set; for example config.scheme.name=autoregressive.")
  tokenizer = Tokenizer(config["tokenizer"], spec)
  condition = make_record(conditions.Condition, config["condition"] or {}, "config.condition")
  layouts = (
    Tokenizer(condition.layout_tokenizer, spec, "layout") if condition.layout_tokenizer else None
  )
  codes = tokenizer.codes(condition.level)
  scheme = build("schemes", config["scheme"], "config.scheme", latent=codes)
  prefix = conditions.Prefix(
    condition, codes.vocabulary + scheme.extra_ids, tokenizer, spec, layouts
  )
  model = build(
    "priors",
    config["model"],
    "config.model",
    latent=codes,
    rows=prefix.rows,
    causal=scheme.causal,
    max_prefix=max(1, prefix.length),
    prefix_grid=prefix.grid,
    modulation="adaln" if scheme.timed else "none",
  )
  run = _Prior(model, scheme, tokenizer, codes, prefix)
  can_bound = hasattr(scheme, "bound")
  return Task(
    init=run.init,
    loss=run.loss,
    frozen=run.frozen,
    frozen_shapes=run.frozen_shapes,
    identity=run.identity,
    predict={"encode": run.encode, "decode": run.decode, "preview": run.preview}
    | ({"likelihood": run.likelihood} if can_bound else {}),
    prepare=prefix.prepare,
    evaluators=("likelihood",) if can_bound else (),
    known={"pixels": math.prod(spec["image"].shape[1:])}
    if "image" in spec
    else {"pixels": tokenizer.pixels},
    extra=run,
  )


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
    ids, prefix = (
      jnp.zeros((rows, self.codes.length), jnp.int32),
      jnp.zeros((rows, self.prefix.length), jnp.int32),
    )
    variables = self.model.init({"params": key}, ids, prefix, time_B=time, train=False)
    return {"model": variables["params"]}, {"model": {}}

  def frozen(self) -> Any:
    """The tokenizer's weights; under "layout" those of the label maps' tokenizer, where there is
    one.
    """
    return self.tokenizer.load() | (
      {"layout": self.prefix.layouts.load()} if self.prefix.layouts else {}
    )

  def identity(self, frozen: Any) -> dict[str, str]:
    """Hashes of the tokenizers by the config's field that names them."""
    tokenizers = {"tokenizer": self.tokenizer.identity(frozen)}
    if self.prefix.layouts:
      tokenizers["condition.layout_tokenizer"] = self.prefix.layouts.identity(frozen["layout"])
    return tokenizers

  def frozen_shapes(self) -> Any:
    return self.tokenizer.shapes() | (
      {"layout": self.prefix.layouts.shapes()} if self.prefix.layouts else {}
    )

  def _logits(
    self, params: Any, ids: jax.Array, prefix: jax.Array, time: Any, rngs: Any = None
  ) -> jax.Array:
    logits = self.model.apply(
      {"params": params["model"]}, ids, prefix, time_B=time, train=rngs is not None, rngs=rngs
    )
    return self.codes.restrict(logits)

  def loss(
    self, params: Any, stats: Any, frozen: Any, batch: Any, key: jax.Array, step: jax.Array
  ) -> Any:
    del step
    levels = self.tokenizer.levels_of(frozen, batch)
    ids = self.codes.flatten(levels[self.prefix.condition.level])
    key_corrupt, key_drop, key_dropout = (jax.random.fold_in(key, i) for i in range(3))
    prefix = self.prefix.drop(key_drop, self.prefix.tokens(batch, levels, frozen))
    corrupted = self.scheme.corrupt(key_corrupt, ids)
    logits = self._logits(
      params, corrupted.inputs, prefix, corrupted.time_B, {"dropout": key_dropout}
    )
    values, weights, metrics = self.scheme.loss(logits, corrupted)
    mean = lambda x: jnp.sum(x * weights) / jnp.sum(weights)
    loss = mean(values)
    metrics = {f"codes/{k}": mean(v) for k, v in metrics.items()}
    return loss, (stats, {"loss/codes": loss} | metrics)

  def network(
    self, params: Any, prefix: jax.Array, guidance: float = 1.0, schedule: str = "constant"
  ) -> Network:
    """The network with parameters and condition bound; guidance other than 1 doubles the batch."""
    if guidance == 1.0 or not self.prefix.length:
      return self._plain(params, prefix)
    doubled = self._plain(params, _guidance.double(prefix, jnp.full_like(prefix, -1)))
    return _guidance.guided(doubled, Guidance(guidance, schedule), length=self.codes.length)

  def _plain(self, params: Any, prefix: jax.Array) -> Network:
    def full(ids: jax.Array, time: Any = None, done: Any = None) -> jax.Array:
      return self._logits(params, ids, prefix, time)

    if not self.scheme.causal:
      return Network(full)
    if not self.model.cached:
      from vqjax.schemes import autoregressive

      return Network(full, *autoregressive.uncached(full, prefix.shape[0], self.codes.length))
    bound = lambda method: (
      lambda *a: self.model.apply({"params": params["model"]}, *a, method=method)
    )

    def start() -> tuple[jax.Array, Any]:
      cache = self.model.init_cache(prefix.shape[0], prefix.shape[1])
      logits, cache = bound("prefill")(prefix, cache)
      return self.codes.restrict(logits, 0), cache

    def step(ids: jax.Array, index: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
      logits, cache = bound("decode")(ids, index, cache)
      return self.codes.restrict(logits, index + 1), cache

    return Network(full, start, step)

  def sampler(
    self, guidance: float = 1.0, guidance_schedule: str = "constant", **options: Any
  ) -> Callable[..., Any]:
    """fn(params, key, prefix_BP, ids_BL, known_BL) -> ids_BL (with trajectory=True also ids_SBL);
    jit it once per shape.
    """

    draw = Draw(**{k: options.pop(k) for k in ("temperature", "top_k", "top_p") if k in options})

    def sample(
      params: Any, key: jax.Array, prefix: jax.Array, ids: jax.Array, known: jax.Array
    ) -> Any:
      return self.scheme.sample(
        key, self.network(params, prefix, guidance, guidance_schedule), ids, known, draw, **options
      )

    return sample

  def likelihood(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, jax.Array]:
    """{"nats": [B, L]}: -log p per position, exact or a bound as the scheme has it.

    A bound's noise follows from the codes: the same at every evaluation, another for each batch, or
    the same few masks would be measured over and over.
    """
    del stats
    levels = self.tokenizer.levels_of(frozen, batch)
    ids = self.codes.flatten(levels[self.prefix.condition.level])
    network = self.network(params, self.prefix.tokens(batch, levels, frozen))
    # Knuth's multiplicative hash of the batch.
    odd = 2 * jnp.arange(ids.size, dtype=jnp.uint32).reshape(ids.shape) + 1
    key = jax.random.fold_in(
      jax.random.key(0), jnp.sum(ids.astype(jnp.uint32) * odd * jnp.uint32(2654435761))
    )
    return {"nats": self.scheme.bound(key, network, ids)}

  def encode(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    del params, stats
    levels = self.tokenizer.levels_of(frozen, batch)
    return {"ids": levels if len(levels) > 1 else levels[0]}

  def decode(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    del params, stats
    return {
      "image": self.tokenizer.decode(
        frozen, batch["ids"] if isinstance(batch["ids"], tuple) else (batch["ids"],)
      )
    }

  def preview(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    """Rows of a picture: held-out images as the tokenizer shows them, above samples under the same
    conditions.

    Label maps that a tokenizer reads stand above both.
    """
    del stats
    levels = self.tokenizer.levels_of(frozen, batch)
    level = self.prefix.condition.level
    prefix = self.prefix.tokens(batch, levels, frozen)
    blank = jnp.zeros((prefix.shape[0], self.codes.length), jnp.int32)
    ids = self.sampler()(params, jax.random.key(0), prefix, blank, jnp.zeros(blank.shape, bool))
    drawn = (*levels[:level], self.codes.unflatten(ids), *levels[level + 1 :])
    maps = (palette.colours(batch["layout"]),) if self.prefix.layouts else ()
    return {
      "rows": (*maps, self.tokenizer.decode(frozen, levels), self.tokenizer.decode(frozen, drawn))
    }
