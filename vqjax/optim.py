"""Optimizers: a config's sub-dict to a schedule and an optax chain, one per player, told apart by
the top-level key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import optax

from vqjax import checks
from vqjax.build import make as make_record
from vqjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """One player's optimizer: Adam(W), Lion or Adafactor under a warm-up and a schedule.

  `lr` is the peak learning rate; the first `warmup` steps rise to it linearly, step i of them (from
  1) at lr · i / warmup, then `schedule` leads to `end_lr` at the end of training: steps as training
  counts them, whether or not several are accumulated into one update, which then comes with the
  last of them. `clip` bounds the global gradient norm (0: no bound). Weight
  decay is decoupled and scaled by the learning rate (arXiv 1711.05101), whichever the optimizer; it
  acts on matrices and kernels alone: norms, biases, embeddings and codebooks are left alone. Lion
  does not read `eps`; Adafactor (arXiv 1804.04235) reads none of `b1`, `b2` and `eps`.
  """

  name: Literal["adamw", "lion", "adafactor"] = "adamw"
  lr: float = 3e-4
  warmup: int = 0
  schedule: Literal["constant", "cosine", "linear"] = "cosine"
  end_lr: float = 0.0
  b1: float = 0.9
  b2: float = 0.99
  eps: float = 1e-8
  weight_decay: float = 0.0
  clip: float = 0.0

  def __post_init__(self) -> None:
    checks.within(self, "lr", "eps", above=0)
    checks.within(self, "b1", "b2", at_least=0, below=1)
    checks.within(self, "warmup", "end_lr", "weight_decay", "clip", at_least=0)

  def learning_rate(self, total_steps: int) -> optax.Schedule:
    rest = max(1, total_steps - self.warmup)
    after = {
      "constant": lambda: optax.constant_schedule(self.lr),
      "cosine": lambda: optax.cosine_decay_schedule(self.lr, rest, self.end_lr / self.lr),
      "linear": lambda: optax.linear_schedule(self.lr, self.end_lr, rest),
    }[self.schedule]()
    if not self.warmup:
      return after
    # Not from zero: the first update would change nothing.
    rising = lambda step: self.lr * ((step + 1) / self.warmup)
    return optax.join_schedules([rising, after], [self.warmup])

  def chain(self, total_steps: int, accumulate: int) -> optax.GradientTransformation:
    by_step = self.learning_rate(total_steps)
    lr = lambda update: by_step(
      (update + 1) * accumulate - 1
    )  # an update comes with the last of its steps
    if self.name == "adamw":
      core = optax.adamw(
        lr, self.b1, self.b2, self.eps, weight_decay=self.weight_decay, mask=_decayed
      )
    elif self.name == "lion":
      core = optax.lion(lr, self.b1, self.b2, weight_decay=self.weight_decay, mask=_decayed)
    else:
      # optax.adafactor's own weight decay does not follow the learning rate. Without one it leaves
      # the updates unscaled.
      decay = optax.add_decayed_weights(-self.weight_decay, mask=_decayed)
      core = optax.chain(
        optax.adafactor(None), decay, optax.scale_by_learning_rate(lr, flip_sign=False)
      )
    return optax.chain(optax.clip_by_global_norm(self.clip), core) if self.clip else core


_PLAYER = "optim_"  # begins the field of a player beside the model
_UNREAD = {"adamw": (), "lion": ("eps",), "adafactor": ("b1", "b2", "eps")}


def _decayed(params: Any) -> Any:
  return jax.tree_util.tree_map_with_path(
    lambda path, p: getattr(path[-1], "key", "") == "kernel" and p.ndim > 1, params
  )


def make(config: Mapping[str, Any]) -> optax.GradientTransformation:
  """The transformation for params {"model": …} and a player for each field "optim_PLAYER" of a
  completed config, which is `optim`'s where that field is None.

  Raises:
    UserError: unknown field or wrong type in a sub-dict, or a field that the chosen optimizer does
      not read.
  """
  total_steps, accumulate = config["total_steps"], config["accumulate"]
  fields = {"model": "optim"} | {
    k.removeprefix(_PLAYER): k for k in config if k.startswith(_PLAYER)
  }
  players = {
    player: _one(config[name] or config["optim"], f"config.{name}").chain(total_steps, accumulate)
    for player, name in fields.items()
  }
  tx = optax.partition(
    players, lambda params: {k: jax.tree.map(lambda _: k, v) for k, v in params.items()}
  )
  return optax.MultiSteps(tx, accumulate).gradient_transformation() if accumulate > 1 else tx


def _one(fields: Mapping[str, Any], path: str) -> Optimizer:
  optimizer = make_record(Optimizer, fields, path)
  for field in _UNREAD[optimizer.name]:
    if (value := getattr(optimizer, field)) != getattr(Optimizer, field):
      raise UserError(
        f"{path}.{field}: {value} is given, but {optimizer.name} does not read it; remove it."
      )
  return optimizer
