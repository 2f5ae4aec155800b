"""The levels of a hierarchy as one prior: what callers tell them, and drawing them in turn."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vqjax import build
from vqjax.errors import UserError, near_miss
from vqjax.sampler import COMMON, Given, Sampler


class Levels:
  """The samplers of a prior's level and of those above it, coarse first.

  Attributes:
    samplers: of each level.
    fields: {name by which callers give it: the condition as a level has it}.
  """

  def __init__(self, samplers: Sequence[Sampler]):
    self.samplers = tuple(samplers)
    self.fields = {name: bound for s in self.samplers for name, bound in s.fields.items()}
    self._options = {name for s in self.samplers for name in s.options}

  def draw(
    self, given: Given, seed: int, first: int, options: Mapping[str, Any], stop: int | None = None
  ) -> tuple[jax.Array, ...]:
    """Codes of every level, each drawn given the coarser ones; with `stop` of so many levels."""
    drawn = ()
    for sampler in self.samplers[:stop]:
      elsewhere = self.fields.keys() - sampler.fields.keys()
      request = sampler.request(given, drawn, ignore=elsewhere)
      drawn += (sampler.draw(request, seed, first, **self.told(sampler, options)),)
    return drawn

  def nats(self, levels: Sequence[np.ndarray]) -> np.ndarray:
    """-log p of the codes of all levels of examples of which nothing else is told, float32 `[B]`.

    Exact for autoregressive priors.
    """
    total = np.zeros(len(levels[0]), np.float32)
    for sampler in self.samplers:
      request = sampler.request(Given(len(levels[0]), levels=levels), levels[: sampler.prior.level])
      total += np.asarray(sampler.nats(request, 16).sum(-1))
    return total

  def told(self, sampler: Sampler, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that concern this level: its scheme's, and those that no level knows, for it to
    complain of.
    """
    return {k: v for k, v in options.items() if k in sampler.options or k not in self._options}

  def split(
    self, given: Mapping[str, Any], num: int
  ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(conditions of `num` examples, options) of what a caller names; None leaves either out."""
    named = {name: value for name, value in given.items() if value is not None}
    conditions = {}
    # Options of other schemes go on to the sampler, which says whose they are not.
    for name in named.keys() - self._options - scheme_options().keys():
      conditions[name] = self.condition(name).lead.given(named[name], num)
    return conditions, {k: v for k, v in named.items() if k not in conditions}

  def condition(self, name: str) -> Any:
    """The condition, as a level has it, that callers give by this name. Raises UserError where
    there is none.
    """
    if name in self.fields:
      return self.fields[name]
    if name in condition_fields():
      raise UserError(
        f"{name}: this prior was trained without one (config.condition.{name} is not set)."
      )
    raise UserError(
      f"{name}: this prior has no such condition or "
      f"option.{near_miss(name, {*self.fields, *self._options})}"
    )


@functools.cache
def condition_fields() -> dict[str, Any]:
  """{name by which callers give it: the class} of all conditions that can be given."""
  classes = [build.member("conditions", name) for name in build.names("conditions")]
  return {cls.field: cls for cls in classes if cls.public}


@functools.cache
def scheme_options() -> dict[str, type]:
  """{name: type} of what all schemes let callers choose when they sample."""
  schemes = [build.member("schemes", name) for name in build.names("schemes")]
  return COMMON | {k: kind for scheme in schemes for k, kind in scheme.options.items()}
