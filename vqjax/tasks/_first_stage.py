"""A trained autoencoder as stage 2 sees it: what it encodes, its levels of latents, its weights."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from vqjax import checkpoint, config as configuration, digests, files
from vqjax.build import essential
from vqjax.errors import UserError
from vqjax.orders import Order
from vqjax.tasks import Info, Weights, autoencode


class FirstStage:
  """The frozen run in a workdir: its task's functions and shapes; its weights are passed around.

  Args:
    workdir: of the run.
    spec: a batch's shapes of the prior.
    option: the config's field that names the workdir, for messages.
    field: of the batch that it must encode; None takes any.
    latents: which latents are wanted, with their statistics, see tasks._latents.Latents; None takes
      codes alone.
    order: of the codes of several books.

  Attributes:
    info: of its task, for the size that the prior reads.
    latents: those that it yields here, coarse first.
    levels: the same as stage 2 learns them, a level for each group of books.

  Raises UserError for a run that is no tokenizer, encodes something else, has not started, or
  cannot take the prior's size with the weights that it has.
  """

  def __init__(
    self,
    workdir: str,
    spec: Mapping[str, Any],
    option: str,
    field: str | None = None,
    latents: Any = None,
    order: Order = Order(),
  ):
    self.workdir, self.option, self.order = files.path(workdir), option, order
    self.config = configuration.of_run(self.workdir, option)
    if self.config.task != "autoencode":
      raise UserError(f"{option}: {workdir} is no tokenizer; give the workdir of one.")
    if (trained := configuration.read_spec(self.workdir)) is None:
      raise UserError(f"{option}: {workdir} holds no batch.json; the run has not started yet.")
    self.task = autoencode.make(self.config, trained)
    self.field = self.info.signal.field
    if field not in (None, self.field):
      raise UserError(
        f"{option}: {workdir} is a tokenizer of the data's {self.field}, no tokenizer of {field}s "
        f"(config.signal.name={field}); give the workdir of one."
      )
    self.spec = {self.field: trained[self.field]}
    if self.field in spec and spec[self.field].shape[1:] != self.info.shape:
      self.task, self.spec = self._resized({self.field: spec[self.field]})
    self.kind = latents.kind if latents else "auto"
    self.latents = self._wanted(latents)
    if latents is not None:  # else another tokenizer's may be cached, beside what this one reads
      self.check_cached(spec)

  def _wanted(self, latents: Any) -> tuple[Any, ...]:
    """The latents that are wanted, floats with their statistics."""
    levels = self.info.levels if self.kind == "auto" else self.info.floats
    if latents is None and (not levels or levels[0].kind != "codes"):
      raise UserError(
        f"{self.option}: {self.workdir} is an autoencoder without codes; give one whose quantizer "
        "has some."
      )
    if not levels:
      raise UserError(
        f"config.latents.kind: {self.kind!r}, but {self.workdir} gives no single latent before "
        "its codes; set it to auto, over a quantizer that has codes."
      )
    if levels[0].kind == "codes":
      return levels
    (floats,) = levels
    return (dataclasses.replace(floats, mean=tuple(latents.mean), std=tuple(latents.std)),)

  def check_cached(self, fields: Mapping[str, Any]) -> None:
    """Raises UserError where the fields of a batch are cached latents of the other kind."""
    other = "latents" if self.latents_field == "ids" else "ids"
    if other in fields:
      found = {"ids": "codes", "latents": "floats"}[other]
      also = "" if other == "latents" else " --latents=continuous"
      raise UserError(
        f"config.data: holds {found}, but of {self.workdir} {self.latents[0].kind} are learned; "
        f"write them with python -m vqjax.tokenize{also}."
      )
    if self.kind == "sampled" and "latents" in fields:
      raise UserError(
        "config.latents.kind: 'sampled' draws from posteriors, and config.data hold means; set "
        "it to continuous, or read the signal itself."
      )

  def _resized(self, spec: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(the task for a batch of another size than it was trained on, the batch's shapes).

    Raises UserError where the model cannot take it, or its weights would be others.
    """
    found = tuple(spec[self.field].shape[1:])
    with contextlib.suppress(UserError, OverflowError):  # the latter of sides that no array has
      task = autoencode.make(self.config, spec)
      if jax.eval_shape(_init(task), spec) == self.shapes():
        return task, spec
    sizes = self.info.signal.sizes(self.info.shape)
    wanted = " and ".join(f"config.ops.{name}={value}" for name, value in sizes.items())
    raise UserError(
      f"config.ops: {self.field}s are {found}, which the tokenizer in {self.workdir} cannot take; "
      f"it was trained on {self.info.shape}: set {wanted}."
    )

  @property
  def levels(self) -> tuple[Any, ...]:
    return tuple(level for whole in self.latents for level in self.order.levels(whole))

  def split(self, values: Any) -> tuple[Any, ...]:
    """Latents of every level in `levels`, of latents as the autoencoder gives them."""
    given = zip(separated(values), self.latents)
    return tuple(level for whole, of in given for level in self.order.split(whole, of))

  def merge(self, levels: tuple[Any, ...]) -> Any:
    """The inverse of `split`."""
    merged, rest = (), levels
    for of in self.latents:
      groups = len(self.order.levels(of))
      merged, rest = (*merged, self.order.merge(rest[:groups], of)), rest[groups:]
    return joined(merged)

  @property
  def latents_field(self) -> str:
    """The batch's field of the latents."""
    return "ids" if self.latents[0].kind == "codes" else "latents"

  @property
  def info(self) -> Info:
    return self.task.info

  def shapes(self) -> Any:
    """Its weights as ShapeDtypeStructs."""
    return jax.eval_shape(_init(self.task), self.spec)

  def load(self) -> Any:
    """The weights {"params", "stats"} on the host: averaged ones where an average was kept."""
    abstract, averaged = self.shapes(), bool(self.config["ema_decay"])
    model = {"ema": abstract["params"]["model"]} if averaged else {"params": abstract["params"]}
    parts = checkpoint.restore_params(self.workdir, model | {"stats": abstract["stats"]})
    params = {"model": parts["ema"]} if averaged else parts["params"]
    return jax.device_get({"params": params, "stats": parts["stats"]})

  def identity(self, weights: Any) -> str:
    """A hash of the model's config and of `weights`, as `load` returns them."""
    return identity(self.config, weights)

  def weights(self, frozen: Any) -> Weights:
    """What its predictions take, of `load`'s result."""
    return Weights(frozen["params"], frozen["stats"], {})

  def levels_of(
    self, frozen: Any, batch: Mapping[str, jax.Array], key: jax.Array | None = None
  ) -> tuple[jax.Array, ...]:
    """Latents of every level: read from the batch where they were computed before, else computed.

    Without a `key` the means stand for the samples of the kind "sampled".
    """
    if any(map(cached, batch)):
      names = (f"{self.latents_field}{i or ''}" for i in range(len(self.latents)))
      return self.split(joined(tuple(batch[name] for name in names)))
    name = "encode" if self.latents_field == "ids" else "latents"
    if self.kind == "sampled" and key is not None:
      name = "drawn_latents"
    batch = {self.field: batch[self.field]}
    found = jax.lax.stop_gradient(self.task.predict[name](self.weights(frozen), batch, key))
    return self.split(found[self.latents_field])

  def decode(self, frozen: Any, levels: tuple[jax.Array, ...]) -> jax.Array:
    """Values of the signal, as its predictions have them."""
    batch = {self.latents_field: self.merge(levels)}
    return self.task.predict["decode"](self.weights(frozen), batch, None)[self.field]


def _init(task: Any) -> Callable[[Any], dict[str, Any]]:
  """From a batch to the weights that its predictions take, untrained."""

  def init(batch: Any) -> dict[str, Any]:
    params, stats = task.init(jax.random.key(0), batch)
    return {"params": {"model": params["model"]}, "stats": {"model": stats["model"]}}

  return init


def cached(name: str) -> bool:
  """Whether a field of a batch holds latents that were computed before."""
  return name.startswith(("ids", "latents"))


def joined(levels: tuple[Any, ...]) -> Any:
  """Codes as autoencoders take and give them: a tuple for a hierarchy alone."""
  return levels if len(levels) > 1 else levels[0]


def separated(ids: Any) -> tuple[Any, ...]:
  """The inverse of `joined`: every level's codes."""
  return ids if isinstance(ids, tuple) else (ids,)


def identity(config: Any, weights: Any) -> str:
  """A hash of a tokenizer's model config, as far as it differs from the defaults, so that a newer
  version's further fields leave it as it was, and of the bits of its weights {"params", "stats"}.
  """
  model = {"params": weights["params"]["model"], "stats": weights["stats"]["model"]}
  return digests.identity(essential("autoencoders", config.model.to_dict()), model)
