"""A trained autoencoder as stage 2 sees it: what it encodes, its levels of codes, its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from vqjax import checkpoint, config as configuration, files
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
    order: of the codes of several books.

  Attributes:
    info: of its task; `info.levels` are the codes.
    levels: the same as stage 2 learns them, a level for each group of books.

  Raises UserError for a run that is no tokenizer, encodes something else, has not started, or was
  trained on another size.
  """

  def __init__(
    self,
    workdir: str,
    spec: Mapping[str, Any],
    option: str,
    field: str | None = None,
    order: Order = Order(),
  ):
    self.workdir, self.option, self.order = files.path(workdir), option, order
    self.config = configuration.of_run(self.workdir, option)
    if self.config.task != "autoencode":
      raise UserError(f"{option}: {workdir} is no tokenizer; give the workdir of one.")
    if (trained := configuration.read_spec(self.workdir)) is None:
      raise UserError(f"{option}: {workdir} holds no batch.json; the run has not started yet.")
    self.task = autoencode.make(self.config, trained)
    self.info: Info = self.task.info
    self.field = self.info.signal.field
    if field not in (None, self.field):
      raise UserError(
        f"{option}: {workdir} is a tokenizer of the data's {self.field}, no tokenizer of {field}s "
        f"(config.signal.name={field}); give the workdir of one."
      )
    if not self.info.levels:
      raise UserError(
        f"{option}: {workdir} is an autoencoder without codes; give one whose quantizer has some."
      )
    self.spec = {self.field: trained[self.field]}
    self._check_size(spec)

  def _check_size(self, spec: Mapping[str, Any]) -> None:
    found = spec.get(self.field)
    if found is not None and found.shape[1:] != self.info.shape:
      sizes = self.info.signal.sizes(self.info.shape)
      wanted = " and ".join(f"config.ops.{name}={value}" for name, value in sizes.items())
      raise UserError(
        f"config.ops: {self.field}s are {tuple(found.shape[1:])}, the tokenizer in {self.workdir} "
        f"was trained on {self.info.shape}; set {wanted}."
      )

  @property
  def levels(self) -> tuple[Any, ...]:
    return tuple(level for codes in self.info.levels for level in self.order.levels(codes))

  def split(self, ids: Any) -> tuple[Any, ...]:
    """Codes of every level in `levels`, of codes as the autoencoder gives them."""
    given = zip(separated(ids), self.info.levels)
    return tuple(level for ids, codes in given for level in self.order.split(ids, codes))

  def merge(self, levels: tuple[Any, ...]) -> Any:
    """The inverse of `split`."""
    merged, rest = (), levels
    for codes in self.info.levels:
      groups = len(self.order.levels(codes))
      merged, rest = (*merged, self.order.merge(rest[:groups], codes)), rest[groups:]
    return joined(merged)

  def _init(self, key: jax.Array, batch: Any) -> dict[str, Any]:
    params, stats = self.task.init(key, batch)
    return {"params": {"model": params["model"]}, "stats": {"model": stats["model"]}}

  def shapes(self) -> Any:
    """Its weights as ShapeDtypeStructs."""
    return jax.eval_shape(self._init, jax.random.key(0), self.spec)

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

  def levels_of(self, frozen: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
    """Codes of every level: read from the batch where they were computed before, else computed."""
    if "ids" in batch:
      return self.split(joined(tuple(batch[f"ids{i or ''}"] for i in range(len(self.info.levels)))))
    batch = {self.field: batch[self.field]}
    found = jax.lax.stop_gradient(self.task.predict["encode"](self.weights(frozen), batch, None))
    return self.split(found["ids"])

  def decode(self, frozen: Any, levels: tuple[jax.Array, ...]) -> jax.Array:
    """Values of the signal, as its predictions have them."""
    batch = {"ids": self.merge(levels)}
    return self.task.predict["decode"](self.weights(frozen), batch, None)[self.field]


def joined(levels: tuple[Any, ...]) -> Any:
  """Codes as autoencoders take and give them: a tuple for a hierarchy alone."""
  return levels if len(levels) > 1 else levels[0]


def separated(ids: Any) -> tuple[Any, ...]:
  """The inverse of `joined`: every level's codes."""
  return ids if isinstance(ids, tuple) else (ids,)


def identity(config: Any, weights: Any) -> str:
  """A hash of a tokenizer's model config and of the bits of its weights {"params", "stats"}."""
  model = {"params": weights["params"]["model"], "stats": weights["stats"]["model"]}
  return checkpoint.identity(config.model.to_dict(), model)
