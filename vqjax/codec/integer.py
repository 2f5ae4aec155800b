"""Every code by what a network in integers says of it: portable, whatever machine and batch.

The frequency of a code whose logit is d steps below the largest is a table's entry d, 2^24 exp(-d /
resolution) rounded: the softmax without a float.
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
from typing import Any, ClassVar

import jax
import numpy as np

from vqjax.codec import Source, _windows
from vqjax.errors import UserError

_LOGITS = 2**25  # of one call, at the most: rows go through the network in parts


@dataclasses.dataclass(frozen=True, eq=False)
class Mode:
  """Priors of every level whose logits are integers of a known unit. Portable."""

  levels: tuple[Any, ...]
  networks: list[_windows.Network]
  stored: bytes

  number: ClassVar[int] = 3
  preference: ClassVar[int] = 3
  networked: ClassVar[bool] = True
  environment: ClassVar[str] = ""

  @classmethod
  def open(cls, source: Source) -> Mode:
    _windows.check(source, "integer")
    if any(_resolution(sampler) is None for sampler in source.priors):
      raise UserError(
        f"{source.workdir}: its network computes in floats, which differ between machines; train "
        "one with config.model.name=integer, or take the mode 'prior'."
      )
    return cls(source.levels, [_network(s) for s in source.priors], source.identity)

  encode = _windows.encode
  decode = _windows.decode


def _resolution(sampler: Any) -> int | None:
  return getattr(sampler.prior.model, "resolution", None)


@functools.cache
def table(resolution: int) -> np.ndarray:
  """int64 [D]: 2^24 exp(-d / resolution) rounded, down to the first 0, by decimal arithmetic, which
  is the same everywhere.
  """
  with decimal.localcontext(decimal.Context(prec=40, rounding=decimal.ROUND_HALF_EVEN)):
    found = []
    while not found or found[-1]:
      power = (decimal.Decimal(-len(found)) / resolution).exp()
      found.append(int((power * 2**24).to_integral_value()))
  return np.array(found, np.int64)


def weights(logits: Any, resolution: int) -> np.ndarray:
  """int64 weights [..., K] of float32 logits, which are multiples of 1 / resolution."""
  steps = np.asarray(logits, np.float64) * resolution
  whole = steps.astype(np.int64)
  below = whole.max(-1, keepdims=True) - whole
  entries = table(resolution)
  return entries[np.minimum(below, len(entries) - 1)]


def _network(sampler: Any) -> _windows.Network:
  prior, latent, resolution = sampler.prior, sampler.prior.latent, _resolution(sampler)
  params = jax.device_put(sampler.weights.params, jax.devices()[0])
  rows = max(1, _LOGITS // (latent.length * latent.size))

  @jax.jit
  def full(params: Any, prefix_BP: jax.Array, ids_BL: jax.Array) -> jax.Array:
    return prior.network(params, prefix_BP).full(ids_BL, None)

  def whole(prefix: jax.Array, ids_BL: np.ndarray) -> np.ndarray:
    cuts = [slice(i, i + rows) for i in range(0, len(ids_BL), rows)]
    logits = [np.asarray(full(params, prefix[cut], ids_BL[cut])) for cut in cuts]
    return weights(np.concatenate(logits), resolution)

  network = _windows.stepped(sampler, params)
  on_host = lambda out: (weights(out[0], resolution), out[1])
  return network._replace(
    start=lambda *given: on_host(network.start(*given)),
    step=lambda *given: on_host(network.step(*given)),
    whole=whole,
  )
