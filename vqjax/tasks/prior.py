"""Stage 2: learn the distribution of a frozen tokenizer's latents, under any conditions that can be
written as a prefix of tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import config as configuration, fields, files
from vqjax.build import build, member, names
from vqjax.conditions import Context
from vqjax.errors import UserError
from vqjax.latents import Codes, Floats
from vqjax.schemes import Draw, Guidance, Network, _guidance, _sampling
from vqjax.tasks import Frozen, Task, Weights, _latents, autoencode, need
from vqjax.tasks._first_stage import FirstStage, cached
from vqjax.tasks._prefix import Prefix, conditions_of


@dataclasses.dataclass(frozen=True)
class Fields:
  """What a config of this task holds beside vqjax.config.Common."""

  tokenizer: str | None = fields.workdir(None)  # of the run whose codes are learned
  level: int = 0  # which level of a hierarchy is learned, coarse first
  order: dict = fields.record("orders.Order")  # of the codes of several books
  model: dict = fields.member("priors", {})
  scheme: dict | None = fields.member("schemes", None)
  latents: dict = fields.record("tasks._latents.Latents")  # codes or floats
  condition: dict = fields.members("conditions", also="tasks._prefix.Dropping")


def spec(config: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
  """{field: (shape, dtype)} of one example, as config.ops make it."""
  _check_set(config)
  first_stage = configuration.of_run(config["tokenizer"], "config.tokenizer")
  return autoencode.spec({"signal": first_stage.signal, "ops": config["ops"]}) | made(config)


def cached_spec(config: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
  """The same of an example whose latents `tokenize` has computed."""
  tokenizer = _latents.opened(config, {})
  dtype = {"codes": "uint16", "floats": "float16"}
  return {
    f"{tokenizer.latents_field}{i or ''}": (
      latent.grid if latent.kind == "codes" else (*latent.grid, latent.width),
      dtype[latent.kind],
    )
    for i, latent in enumerate(tokenizer.latents)
  } | made(config)


def made(config: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
  """{field: (shape, dtype)} of one example for the conditions, as config.ops make it."""
  conditions = conditions_of(config["condition"])
  return {c.field: c.spec(config["ops"]) for _, c in conditions if c.public}


def begin(config: Mapping[str, Any], dataset: Any, workdir: files.Path) -> Mapping[str, Any]:
  """The config with what its conditions make of the data, see vqjax.conditions, and with the
  statistics of the latents where these are floats.
  """
  _check_set(config)
  begun = {
    name: member("conditions", name).begin(values, dataset, workdir)
    for name, values in (config["condition"] or {}).items()
    if name in names("conditions") and values and hasattr(member("conditions", name), "begin")
  }
  changed = configuration.editable(config.to_dict())
  for name, values in begun.items():
    changed.condition[name] = values
  changed.latents = dict(_latents.begun(config, dataset, workdir))
  return changed


def make(config: Mapping[str, Any], spec: Mapping[str, Any]) -> Task:
  """The task for a completed config and a batch's shapes.

  Raises:
    UserError: no tokenizer, or anything in config.model, config.scheme or config.condition that
      does not fit it.
  """
  _check_set(config)
  tokenizer = _latents.opened(config, spec)
  latent = _level(config, tokenizer)
  _latents.check_kind(config, latent)
  scheme = build("schemes", config["scheme"], "config.scheme", latent=latent)

  def open_tokenizer(workdir: str, field: str, option: str) -> FirstStage:
    return FirstStage(workdir, spec, option, field)

  context = Context(spec, tokenizer.levels, config["level"], open_tokenizer)
  prefix = Prefix(config["condition"], latent.vocabulary + scheme.extra_ids, context)
  _check_predicts(config, prefix, scheme)
  model = build(
    "priors",
    config["model"],
    "config.model",
    latent=latent,
    rows=prefix.rows,
    causal=scheme.causal,
    max_prefix=max(1, prefix.length),
    prefix_grid=prefix.grid,
    prefix_rows=prefix.predicted_rows,
    outputs=getattr(scheme, "outputs", 0),
    modulation="adaln" if scheme.timed else "none",
  )
  run = Prior(model, scheme, tokenizer, config["level"], latent, prefix)
  predict = {
    "encode": run.encode,
    "decode": run.decode,
    "sample": run.sample,
    "preview": run.preview,
  }
  measured = hasattr(scheme, "bound")
  return Task(
    init=run.init,
    loss=run.loss,
    predict=predict | ({"likelihood": run.likelihood} if measured else {}),
    prepare=run.prepare,
    info=tokenizer.info._replace(
      evaluators=("likelihood",) if measured else (),
      pictures=run.pictures,
      modules=run,
      exact=measured and scheme.exact,
    ),
    frozen=Frozen(run.frozen, run.frozen_shapes, run.identity),
  )


def _check_set(config: Mapping[str, Any]) -> None:
  if not config["tokenizer"]:
    raise UserError(
      "config.tokenizer: is not set; give the workdir of a trained or converted tokenizer."
    )
  if not config["scheme"]:
    raise UserError("config.scheme: is not set; for example config.scheme.name=autoregressive.")


def _check_predicts(config: Mapping[str, Any], prefix: Prefix, scheme: Any) -> None:
  """Raises UserError where conditions shall be predicted by what cannot."""
  for name, weight in prefix.predicted.items():
    network = config["model"].get("name")
    able = network and hasattr(member("priors", network), "joint")
    if not able or not scheme.causal:
      part = f"scheme {config['scheme']['name']!r}" if able else f"network {network!r}"
      raise UserError(
        f"config.condition.{name}.predicted: {weight}, but the {part} predicts codes alone; set it "
        "to 0, or take the transformer and the scheme autoregressive."
      )


def _level(config: Mapping[str, Any], tokenizer: FirstStage) -> Codes:
  """The latent that is learned. Raises UserError for a level that is not there."""
  level, levels = config["level"], tokenizer.levels
  if not 0 <= level < len(levels):
    raise UserError(
      f"config.level: {level}; the tokenizer has {len(levels)} level(s), counted from 0, coarse "
      "first."
    )
  if level and (config["condition"] or {}).get("coarser") is None:
    raise UserError(
      f"config.level: {level} is drawn given the coarser ones; set config.condition.coarser.prior "
      "to the workdir of their prior."
    )
  return levels[level]


@dataclasses.dataclass(frozen=True)
class Prior:
  """The task's functions over the network, the scheme and the tokenizer that the config names."""

  model: nn.Module
  scheme: Any
  tokenizer: FirstStage
  level: int
  latent: Codes | Floats
  prefix: Prefix

  def prepare(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The signal, or its codes where they were computed before, and the conditions' fields."""
    kept = {k: v for k, v in batch.items() if k == self.tokenizer.field or cached(k)}
    self.tokenizer.check_cached(kept)
    return (kept or {self.tokenizer.field: need(batch, self.tokenizer.field)}) | (
      self.prefix.prepare(batch)
    )

  def init(self, key: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[Any, Any]:
    rows = len(next(iter(batch.values())))
    prefix = jnp.zeros((rows, self.prefix.length), jnp.int32)
    times = getattr(self.scheme, "times_told", 1)
    time = jnp.zeros((rows,) + (times,) * (times > 1)) if self.scheme.timed else None
    variables = self.model.init(
      {"params": key}, self.latent.blank(rows), prefix, time_B=time, train=False
    )
    return {"model": variables["params"]}, {"model": {}}

  @property
  def _tokenizers(self) -> dict[str, Any]:
    """The prior's own, and under conditions' names those that they read by."""
    return {"tokenizer": self.tokenizer} | self.prefix.tokenizers

  def frozen(self) -> dict[str, Any]:
    """Weights of all tokenizers, by their names."""
    return {name: stage.load() for name, stage in self._tokenizers.items()}

  def frozen_shapes(self) -> dict[str, Any]:
    return {name: stage.shapes() for name, stage in self._tokenizers.items()}

  def identity(self, frozen: Any) -> dict[str, str]:
    """Hashes of the tokenizers and of the latents' statistics, by the config's field that names
    them without its "config.".
    """
    tokenizers = {
      stage.option.removeprefix("config."): stage.identity(frozen[name])
      for name, stage in self._tokenizers.items()
    }
    return tokenizers | _latents.identity(self.latent)

  def _predict(
    self, params: Any, latent: jax.Array, prefix: jax.Array, time: Any, rngs: Any = None
  ) -> jax.Array:
    """What the network says of every position."""
    train = rngs is not None
    variables = {"params": params["model"]}
    return self.model.apply(variables, latent, prefix, time_B=time, train=train, rngs=rngs)

  def _joint(
    self, params: Any, latent: jax.Array, prefix: jax.Array, time: Any, rngs: Any = None
  ) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
    """(the same, what `Prefix.nats` says of the conditions that are predicted too)."""
    if not self.prefix.predicted:
      return self._predict(params, latent, prefix, time, rngs), {}
    options = dict(train=rngs is not None, rngs=rngs, method="joint")
    said, of_prefix = self.model.apply({"params": params["model"]}, latent, prefix, **options)
    return said, self.prefix.nats(of_prefix, prefix)

  def _given(
    self, frozen: Any, batch: Any, key: jax.Array | None = None
  ) -> tuple[tuple, jax.Array, jax.Array]:
    """(latents of all levels, the learned one's flattened, the prefix) of a batch."""
    levels = self.tokenizer.levels_of(frozen["tokenizer"], batch, key)
    values = dict(batch) | {"coarser": levels[: self.level]}
    prefix = self.prefix.tokens(values, frozen, len(levels[0]))
    return levels, self.latent.flatten(levels[self.level]), prefix

  def loss(
    self, params: Any, stats: Any, frozen: Any, batch: Any, key: jax.Array, step: jax.Array
  ) -> Any:
    del step
    keys = (jax.random.fold_in(key, i) for i in range(4))
    key_corrupt, key_drop, key_dropout, key_latents = keys
    _, latent, prefix = self._given(frozen, batch, key_latents)
    prefix = self.prefix.dropped(key_drop, prefix)
    rngs = {"dropout": key_dropout}
    if hasattr(self.scheme, "objective"):
      network = Network(lambda x, time, done=None: self._predict(params, x, prefix, time, rngs))
      (values, weights, metrics), nats = self.scheme.objective(key_corrupt, network, latent), {}
    else:
      shown = self.scheme.corrupt(key_corrupt, latent)
      said, nats = self._joint(params, shown.inputs, prefix, shown.time_B, rngs)
      values, weights, metrics = self.scheme.loss(said, shown)
    # The mean over what counts in the whole batch, not of each example's own mean.
    mean = lambda x: jnp.sum(x * weights) / jnp.sum(weights)
    loss, terms = mean(values), {name: _mean(*found) for name, found in nats.items()}
    share = self.prefix.predicted
    total = (1 - sum(share.values())) * loss + sum(share[k] * term for k, term in terms.items())
    kind = self.latent.kind
    losses = {f"loss/{kind}": loss} | {f"loss/{name}": term for name, term in terms.items()}
    return total, (stats, losses | {f"{kind}/{name}": mean(x) for name, x in metrics.items()})

  def network(self, params: Any, prefix: jax.Array, guidance: Guidance = Guidance()) -> Network:
    """The network with parameters and condition bound; guidance doubles the batch."""
    if guidance.none or not self.prefix.length:
      return self._plain(params, prefix)
    # All of the prefix is null, as `dropped` trains it: one that is partly so was never seen.
    doubled = self._plain(params, _guidance.double(prefix, jnp.full_like(prefix, -1)))
    channels = getattr(self.scheme, "guided", None)
    return _guidance.guided(doubled, guidance, steps=self.latent.steps, channels=channels)

  def _plain(self, params: Any, prefix: jax.Array) -> Network:
    def full(latent: jax.Array, time: Any = None, done: Any = None) -> jax.Array:
      del done  # of guidance that changes on the way
      return self._predict(params, latent, prefix, time)

    if not self.scheme.causal:
      return Network(full)
    if not self.model.cached:
      return Network(full, *_sampling.uncached(full, prefix.shape[0], self.latent))
    bound = lambda name: lambda *a: self.model.apply({"params": params["model"]}, *a, method=name)

    def start() -> tuple[jax.Array, Any]:
      return bound("prefill")(prefix, self.model.init_cache(*prefix.shape))

    return Network(full, start, bound("decode"))

  def draw(
    self,
    params: Any,
    key: jax.Array,
    prefix: jax.Array,
    latent: jax.Array,
    known: jax.Array,
    guidance: Guidance = Guidance(),
    draw: Draw = Draw(),
    **options: Any,
  ) -> Any:
    """Latents like `latent` under a prefix, see `Scheme.sample`; `options` are static."""
    network = self.network(params, prefix, guidance)
    return self.scheme.sample(key, network, latent, known, draw, **options)

  def likelihood(self, weights: Weights, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
    """{"nats": [B, L]}: -log p per position, exact or a bound as the scheme has it; "prefix":
    {name of a predicted condition: (-log p [B, P'], bool [B, P'] which of them count)}.
    """
    posterior, key = jax.random.split(key)
    _, latent, prefix = self._given(weights.frozen, batch, posterior)
    network, nats = self.network(weights.params, prefix), {}
    if self.prefix.predicted:
      # One pass for both; causal schemes ask for the logits of the codes as they are.
      said, nats = self._joint(weights.params, latent, prefix, None)
      network = network._replace(full=lambda *given: said)
    return {"nats": self.scheme.bound(key, network, latent), "prefix": nats}

  def encode(self, weights: Weights, batch: Any, key: jax.Array | None = None) -> dict[str, Any]:
    del key
    levels = self.tokenizer.levels_of(weights.frozen["tokenizer"], batch)
    return {self.tokenizer.latents_field: self.tokenizer.merge(levels)}

  def decode(self, weights: Weights, batch: Any, key: jax.Array | None = None) -> dict[str, Any]:
    del key
    levels = self.tokenizer.split(batch[self.tokenizer.latents_field])
    return {self.tokenizer.field: self.tokenizer.decode(weights.frozen["tokenizer"], levels)}

  def sample(self, weights: Weights, batch: Any, key: jax.Array) -> dict[str, Any]:
    """{field of the signal: values}: one sample for each example, under its conditions and, where
    another level than the only one is learned, among its own other codes.
    """
    levels, latent, prefix = self._given(weights.frozen, batch)
    blank = self.latent.blank(len(latent))
    known = jnp.zeros(blank.shape[:2], bool)
    drawn = self.latent.unflatten(self.draw(weights.params, key, prefix, blank, known))
    levels = (*levels[: self.level], drawn, *levels[self.level + 1 :])
    return {self.tokenizer.field: self.tokenizer.decode(weights.frozen["tokenizer"], levels)}

  def preview(self, weights: Weights, batch: Any, key: jax.Array) -> dict[str, Any]:
    levels = self.tokenizer.levels_of(weights.frozen["tokenizer"], batch)
    originals = self.tokenizer.decode(weights.frozen["tokenizer"], levels)
    sampled = self.sample(weights, batch, key)[self.tokenizer.field]
    return {"reconstruction": originals, "sample": sampled}

  def pictures(self, batch: Any, out: Any) -> tuple[Any, ...]:
    """Conditions that can be seen, held-out examples as the tokenizer shows them, samples."""
    shown = self.prefix.fields.items()
    seen = tuple(b.lead.pictures(batch[f]) for f, b in shown if b.lead.pictures)
    show = self.tokenizer.info.signal.pictures
    return (*seen, show(out["reconstruction"]), show(out["sample"]))


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
  """Of what counts; 0 where nothing does, as where the whole batch is dropped."""
  return jnp.sum(values * counted) / jnp.maximum(jnp.sum(counted), 1)
