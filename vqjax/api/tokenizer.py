"""A trained autoencoder as Python functions: encode, decode, reconstruct."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from vqjax import checks, files, sharding
from vqjax.api._loaded import Loaded
from vqjax.errors import UserError
from vqjax.tasks import Task, Weights
from vqjax.tasks._first_stage import identity, joined


class Tokenizer:
  """A trained autoencoder: the signal to codes and back.

  Args:
    workdir, config: of its run.
    task, weights: of that run.
    mesh: the devices.

  Attributes:
    info: what it encodes and into what, see vqjax.tasks.Info.
  """

  def __init__(self, workdir: files.Path, config: Any, task: Task, weights: Weights, mesh: Any):
    self.workdir, self.config, self.task, self.weights = workdir, config, task, weights
    self.info, self._mesh = task.info, mesh
    self._compiled: dict[str, Any] = {}

  @classmethod
  def of(cls, loaded: Loaded) -> Tokenizer:
    return cls(loaded.workdir, loaded.config, loaded.run.task, loaded.weights, loaded.run.mesh)

  @functools.cached_property
  def identity(self) -> str:
    """A hash of the model's weights and config: what cached codes are tied to."""
    return identity(self.config, self.weights._asdict())

  def encode(self, values: Any) -> Any:
    """Codes int32 `[B, *grid]` (`[B, *grid, Q]` for several codebooks, a tuple for hierarchies).

    Args:
      values: of the run's signal: images `[B, H, W, C]`, uint8 or float in [-1, 1]; label maps,
        integers `[B, H, W]`.

    Raises:
      UserError: another shape, type or range, or a size that the architecture cannot take.
    """
    self._check_codes()
    return self._predict("encode", **self._batch(values))["ids"]

  def decode(self, ids: Any) -> np.ndarray:
    """The signal of codes as `encode` returns them: images or label maps uint8."""
    values = self._predict("decode", ids=joined(self.checked(ids)))
    return self.info.signal.finished(values[self.info.signal.field])

  def reconstruct(self, values: Any) -> np.ndarray:
    """The signal after encoding and decoding; takes what `encode` takes, returns what `decode`
    returns.
    """
    out = self._predict("reconstruct", **self._batch(values))
    return self.info.signal.finished(out[self.info.signal.field])

  def checked(self, ids: Any, whole: bool = False) -> tuple[np.ndarray, ...]:
    """Codes as a tuple of levels; with `whole` on the very grids of training.

    Raises:
      UserError: what `encode` does not return.
    """
    self._check_codes()
    latents = self.info.levels
    levels = tuple(ids) if len(latents) > 1 and isinstance(ids, (tuple, list)) else (ids,)
    if len(levels) != len(latents):
      raise UserError(
        f"ids: one array; the tokenizer has {len(latents)} levels, give a tuple as encode returns "
        "it."
      )
    return tuple(
      _checked_level(checks.array("ids", i), codes, whole) for i, codes in zip(levels, latents)
    )

  def _check_codes(self) -> None:
    if not self.info.levels:
      raise UserError(
        f"{self.workdir}: is an autoencoder without codes; use reconstruct, or a run whose "
        "quantizer "
        "has codes."
      )

  def _batch(self, values: Any) -> dict[str, Any]:
    signal = self.info.signal
    return {signal.field: signal.given(values, (1, *self.info.shape))}

  def _predict(self, name: str, **batch: Any) -> dict[str, Any]:
    """One of the task's predictions on a batch, compiled once per shape."""
    if name not in self._compiled:
      fn = lambda weights, batch: self.task.predict[name](weights, batch, jax.random.key(0))
      self._compiled[name] = jax.jit(fn, out_shardings=sharding.replicated(self._mesh))
    return self._compiled[name](self.weights, sharding.spread(batch, self._mesh))


def _checked_level(ids: np.ndarray, codes: Any, whole: bool) -> np.ndarray:
  grid = codes.grid
  if ids.dtype.kind not in "iu" or ids.ndim != 1 + len(grid) or not ids.size:
    raise UserError(
      f"ids: {ids.dtype} of shape {ids.shape}; give integers, as encode returns them: "
      f"[B, {', '.join(map(str, grid))}] for what the tokenizer was trained on."
    )
  if not 0 <= ids.min() <= ids.max() < codes.size:
    raise UserError(
      f"ids: {ids.min()} to {ids.max()} is not within 0 to {codes.size - 1}, the codes of the "
      "tokenizer."
    )
  if whole and ids.shape[1:] != grid:
    raise UserError(
      f"ids: of shape {ids.shape}; this prior is over grids of {' x '.join(map(str, grid))} codes."
    )
  return ids
