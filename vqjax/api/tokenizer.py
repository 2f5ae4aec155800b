"""A trained autoencoder as Python functions: encode, decode, reconstruct."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vqjax import checks, files, sharding, tiles
from vqjax.api._loaded import Loaded
from vqjax.api.codec import Codec
from vqjax.codec import Source, _tables
from vqjax.errors import UserError
from vqjax.tasks import Task, Weights
from vqjax.tasks._first_stage import identity, joined

# Positions of one example (pixels, samples) above which it is cut into tiles, and about how many a
# tile has: 1024 x 1024 of an image where tiles are exact, 512 x 512 where they are blended.
_WHOLE = 2**20
_BLENDED = 2**18


class Tokenizer:
  """A trained autoencoder: the signal to codes and back.

  Examples of more than 2^20 positions (1024 x 1024 pixels) are computed in tiles that overlap. The
  result is that of the whole where the architecture looks at a neighbourhood only (`model.halo`);
  where norms or attention see everything, they see a tile each, and neighbours are blended.

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
    """Codes int32 `[B, *grid]`, see latents.Codes.grid; a tuple for a hierarchy, coarse first.

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
    return self._finished(values)

  def reconstruct(self, values: Any) -> np.ndarray:
    """The signal after encoding and decoding; takes what `encode` takes, returns what `decode`
    returns.
    """
    out = self._predict("reconstruct", **self._batch(values))
    return self._finished(out)

  def compress(self, values: Any, mode: str = "context") -> list[bytes]:
    """Files of one example each; `codec` writes several into one.

    Args:
      values: as for `encode`, or a list of examples whose sizes may differ. Of any size: a side
        that is no multiple of the model's factor is padded by its own edge and cut again.
      mode: "static" or "context", see vqjax/codec.
    """
    return self.codec.pack(values, mode, alone=True)

  def decompress(self, files: Sequence[bytes]) -> list[np.ndarray]:
    """The examples in files, each as `decode` gives it, of its original size.

    Raises UserError, one line, for a file that is damaged or was written with other weights.
    """
    opened = [self.codec.open(data, f"files[{i}]") for i, data in enumerate(files)]
    return [example for archive in opened for example in archive.read_all()]

  @functools.cached_property
  def codec(self) -> Codec:
    """Codes to bytes and back: archives, codes as they are, rates."""
    self._check_codes()
    tables = _tables.load(self.workdir, self.info.levels, self.identity)
    return Codec(self, Source(self.workdir, self.info.levels, tables))

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

  def _finished(self, out: dict[str, Any]) -> np.ndarray:
    values, finished = out[self.info.signal.field], self.info.signal.finished
    if math.prod(values.shape[1 : 1 + self.info.signal.axes]) <= _WHOLE:
      return finished(values)
    parts = np.array_split(values, -(-values[0].size // _WHOLE), axis=1)  # its floats are large
    return np.concatenate([finished(part) for part in parts], axis=1)

  def _check_codes(self) -> None:
    if not self.info.levels:
      raise UserError(
        f"{self.workdir}: is an autoencoder without codes; use reconstruct, or a run whose "
        "quantizer has codes."
      )

  def _batch(self, values: Any) -> dict[str, Any]:
    signal = self.info.signal
    return {signal.field: signal.given(values, (1, *self.info.shape))}

  def _predict(self, name: str, **batch: Any) -> dict[str, Any]:
    """One of the task's predictions on a batch, in tiles where it is large."""
    leaf, axes = jax.tree.leaves(batch)[0], self.info.signal.axes
    factors, model = self.info.factors, self.info.modules.model
    cells = leaf.shape[1 : 1 + axes]
    if "ids" not in batch:
      model.grid(*cells)  # raises for a size that does not fit
      cells = tuple(n // f for n, f in zip(cells, factors))
    if math.prod(cells) * math.prod(factors) <= _WHOLE:
      return self._whole(name, **batch)
    plan = _plan(cells, factors, model.halo, self.info.size)
    return tiles.apply(lambda part: self._whole(name, **part), batch, plan)

  def _whole(self, name: str, **batch: Any) -> dict[str, Any]:
    """One of the task's predictions on a batch, compiled once per shape."""
    if name not in self._compiled:
      fn = lambda weights, batch: self.task.predict[name](weights, batch, jax.random.key(0))
      self._compiled[name] = jax.jit(fn, out_shardings=sharding.replicated(self._mesh))
    return self._compiled[name](self.weights, sharding.spread(batch, self._mesh))


def _plan(
  cells: tuple[int, ...], factors: tuple[int, ...], halo: int | None, trained: tuple[int, ...]
) -> tiles.Plan:
  """How an example is cut: tiles of as many positions on every axis, that of training or more."""
  side = round((_BLENDED if halo is None else _WHOLE) ** (1 / len(cells)))
  sides = (max(side, n) for n in trained) if halo is None else (max(side, 4 * halo),) * len(cells)
  window = tuple(-(-side // f) for side, f in zip(sides, factors))
  beyond = (
    tuple(max(1, w // 4) for w in window)
    if halo is None
    else tuple(2 * -(-halo // f) for f in factors)
  )
  return tiles.Plan(cells, window, beyond, halo is not None)


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
