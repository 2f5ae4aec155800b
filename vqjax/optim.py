"""Optimizers: a config's sub-dict to a schedule and an optax chain, one per player, told apart by the top-level key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import optax

from vqjax.build import check_fields
from vqjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """One player's optimizer: Adam(W), Lion or Adafactor under a warm-up and a schedule.

  `lr` is the peak learning rate; `warmup` steps rise to it linearly from zero, then `schedule` leads to `end_lr` at the end of
  training. `clip` bounds the global gradient norm (0: no bound). Weight decay acts on matrices and kernels alone: norms,
  biases, embeddings and codebooks are left alone.
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

  def learning_rate(self, total_steps: int) -> optax.Schedule:
    rest = max(1, total_steps - self.warmup)
    after = {
        "constant": lambda: optax.constant_schedule(self.lr),
        "cosine": lambda: optax.cosine_decay_schedule(self.lr, rest, self.end_lr / self.lr),
        "linear": lambda: optax.linear_schedule(self.lr, self.end_lr, rest),
    }[self.schedule]()
    return optax.join_schedules([optax.linear_schedule(0.0, self.lr, self.warmup), after], [self.warmup]) if self.warmup else after

  def chain(self, total_steps: int) -> optax.GradientTransformation:
    lr = self.learning_rate(total_steps)
    if self.name == "adamw":
      core = optax.adamw(lr, self.b1, self.b2, self.eps, weight_decay=self.weight_decay, mask=_decayed)
    elif self.name == "lion":
      core = optax.lion(lr, self.b1, self.b2, weight_decay=self.weight_decay, mask=_decayed)
    else:
      core = optax.adafactor(lr, weight_decay_rate=self.weight_decay or None, weight_decay_mask=_decayed)
    return optax.chain(optax.clip_by_global_norm(self.clip), core) if self.clip else core


def _decayed(params: Any) -> Any:
  return jax.tree_util.tree_map_with_path(lambda path, p: getattr(path[-1], "key", "") == "kernel" and p.ndim > 1, params)


def make(optim: Mapping[str, Any], optim_disc: Mapping[str, Any] | None, total_steps: int, accumulate: int) -> optax.GradientTransformation:
  """The transformation for params {"model": …, "disc": …}.

  Raises:
    UserError: unknown field or wrong type in either sub-dict.
  """
  updates = -(-total_steps // accumulate)
  players = {
      "model": _one(optim, "config.optim").chain(updates),
      "disc": _one(optim if optim_disc is None else optim_disc, "config.optim_disc").chain(updates),
  }
  tx = optax.partition(players, lambda params: {k: jax.tree.map(lambda _: k, v) for k, v in params.items()})
  return optax.MultiSteps(tx, accumulate).gradient_transformation() if accumulate > 1 else tx


def _one(fields: Mapping[str, Any], path: str) -> Optimizer:
  check_fields(Optimizer, {k: v for k, v in fields.items() if k != "name"}, path)
  optimizer = Optimizer(**fields)
  if optimizer.lr <= 0:
    raise UserError(f"{path}.lr: {optimizer.lr} is not positive.")
  if optimizer.name not in (names := ("adamw", "lion", "adafactor")):
    raise UserError(f"{path}.name: {optimizer.name!r} is none of {', '.join(names)}.")
  return optimizer
