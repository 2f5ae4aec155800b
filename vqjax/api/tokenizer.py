"""A trained autoencoder as Python functions: encode, decode, reconstruct."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vqjax import checks, sharding, tiles
from vqjax.api._loaded import Loaded
from vqjax.api.codec import Codec
from vqjax.codec import Source, _tables
from vqjax.errors import UserError
from vqjax.tasks._first_stage import cached, identity, joined

# Positions of one example (pixels, samples) above which it is cut into tiles, and about how many a
# tile has: 1024 x 1024 of an image where tiles are exact, 512 x 512 where they are blended.
_WHOLE = 2**20
_BLENDED = 2**18


class Tokenizer:
  """A trained autoencoder: the signal to codes and back, or to floats where it has no codes.

  Examples of more than 2^20 positions (1024 x 1024 pixels) are computed in tiles that overlap,
  unless the architecture halves time causally. The result is that of the whole where the
  architecture looks at a neighbourhood only (`model.halo`); where norms or attention see
  everything, they see a tile each, and neighbours are blended.

  Args:
    loaded: its run.
    levels: the latents to encode into, where they are not those of `info`: `info.floats`.

  Attributes:
    info: what it encodes, see vqjax.tasks.Info.
    levels: the latents, coarse first.
  """

  def __init__(self, loaded: Loaded, levels: tuple[Any, ...] = ()):
    self.loaded, self.workdir, self.config = loaded, loaded.workdir, loaded.config
    self.weights, self.task, self._mesh = loaded.weights, loaded.run.task, loaded.run.mesh
    self.info = self.task.info
    self.levels = levels or self.info.levels
    self._compiled: dict[str, Any] = {}

  @functools.cached_property
  def identity(self) -> str:
    """A hash of the model's weights and config: what cached codes are tied to."""
    return identity(self.config, self.weights._asdict())

  def encode(self, values: Any) -> Any:
    """Codes int32 `[B, *grid]`, see latents.Codes.grid; a tuple for a hierarchy, coarse first.
    Floats are float32 `[B, *grid, D]`, not normalised: of a posterior the mean.

    Args:
      values: of the run's signal: images `[B, H, W, C]`, uint8 or float in [-1, 1]; label maps,
        integers `[B, H, W]`.

    Raises:
      UserError: another shape, type or range, or a size that the architecture cannot take.
    """
    name, field = ("encode", "ids") if self._codes else ("latents", "latents")
    return self._predict(name, **self._batch(values))[field]

  def decode(self, ids: Any) -> np.ndarray:
    """The signal of latents as `encode` returns them: images or label maps uint8."""
    field = "ids" if self._codes else "latents"
    values = self._predict("decode", **{field: joined(self.checked(ids))})
    return self._finished(values)

  @property
  def _codes(self) -> bool:
    if not self.levels:
      raise UserError(
        f"{self.workdir}: has neither codes nor a single latent; use reconstruct, or a run whose "
        "quantizer has codes."
      )
    return self.levels[0].kind == "codes"

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
    return self.codec.unpack(files)

  @functools.cached_property
  def codec(self) -> Codec:
    """Codes to bytes and back: archives, codes as they are, rates."""
    if not self._codes:
      raise UserError(
        f"{self.workdir}: yields floats; the codec takes codes, so give a run whose quantizer has "
        "some."
      )
    tables = _tables.load(self.workdir, self.levels, self.identity)
    return Codec(self, Source(self.workdir, self.levels, tables))

  def checked(self, ids: Any, whole: bool = False) -> tuple[np.ndarray, ...]:
    """Latents as a tuple of levels; with `whole` on the very grids of training.

    Raises:
      UserError: what `encode` does not return.
    """
    check, latents = _checked_codes if self._codes else _checked_floats, self.levels
    levels = tuple(ids) if len(latents) > 1 and isinstance(ids, (tuple, list)) else (ids,)
    if len(levels) != len(latents):
      raise UserError(
        f"ids: one array; the tokenizer has {len(latents)} levels, give a tuple as encode returns "
        "it."
      )
    found = tuple(check(value, latent) for value, latent in zip(levels, latents))
    for value, latent in zip(found, latents):
      axes = len(latent.grid)
      if whole and value.shape[1 : 1 + axes] != latent.grid:
        raise UserError(
          f"ids: of shape {value.shape}; this prior is over grids of "
          f"{' x '.join(map(str, latent.grid))} {latent.kind}."
        )
    return found

  def _finished(self, out: dict[str, Any]) -> np.ndarray:
    values, finished = out[self.info.signal.field], self.info.signal.finished
    if math.prod(values.shape[1 : 1 + self.info.signal.axes]) <= _WHOLE:
      return finished(values)
    parts = np.array_split(values, -(-values[0].size // _WHOLE), axis=1)  # its floats are large
    return np.concatenate([finished(part) for part in parts], axis=1)

  def _batch(self, values: Any) -> dict[str, Any]:
    signal = self.info.signal
    return {signal.field: signal.given(values, (1, *self.info.shape))}

  def _predict(self, name: str, **batch: Any) -> dict[str, Any]:
    """One of the task's predictions on a batch, in tiles where it is large."""
    leaf, axes = jax.tree.leaves(batch)[0], self.info.signal.axes
    factors, model = self.info.factors, self.info.modules.model
    cells = leaf.shape[1 : 1 + axes]
    if not any(map(cached, batch)):
      cells = self._cells(model, cells)
    # Tiles are of whole codes: where the first stands for less (causal time), there is one.
    if self.info.first != factors or math.prod(cells) * math.prod(factors) <= _WHOLE:
      return self._whole(name, **batch)
    plan = _plan(cells, factors, model.halo, self.info.size)
    if plan.exact and name in getattr(model, "in_parts", {}):
      return self._parts(name, plan, **batch)
    return tiles.apply(lambda part: self._whole(name, **part), batch, plan)

  def _cells(self, model: Any, size: tuple[int, ...]) -> tuple[int, ...]:
    """The grid of codes, the coarsest one of a hierarchy. Raises for a size that does not fit."""
    model.grid(*size)
    first = self.info.first
    return tuple(1 + -(-(n - a) // f) for n, f, a in zip(size, self.info.factors, first))

  def _parts(self, name: str, plan: tiles.Plan, **batch: Any) -> dict[str, Any]:
    """One of the task's predictions as the model's `in_parts`, those in tiles that can be."""
    run, field = self.info.modules, self.info.signal.field
    value, size = batch.get("ids"), None
    if value is None:
      size, value = batch[field].shape[1:], run.input(batch)
      missing = [(0, c * f - n) for n, c, f in zip(size, plan.cells, self.info.factors)]
      value = np.pad(np.asarray(value), ((0, 0), *missing, (0, 0)))
    for method, tiled in run.model.in_parts[name]:
      fn = self._part(method)
      value = tiles.apply(fn, value, plan) if tiled else fn(value)
    if name == "encode":
      return {"ids": value}
    cut = () if size is None else tuple(slice(n) for n in size[: len(plan.cells)])
    return run.output(value[(slice(None), *cut)])

  def _part(self, method: str) -> Any:
    """One of the model's methods on an array, compiled once per shape."""
    if method not in self._compiled:
      run = self.info.modules
      fn = lambda weights, value: run.model.apply(run.variables(weights), value, method=method)
      self._compiled[method] = sharding.program(fn, self._mesh)
    return lambda value: self._compiled[method](self.weights, sharding.spread(value, self._mesh))

  def _whole(self, name: str, **batch: Any) -> dict[str, Any]:
    """One of the task's predictions on a batch, compiled once per shape."""
    if name not in self._compiled:
      fn = lambda weights, batch: self.task.predict[name](weights, batch, jax.random.key(0))
      self._compiled[name] = sharding.program(fn, self._mesh)
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


def _checked_codes(value: Any, codes: Any) -> np.ndarray:
  ids, grid = checks.array("ids", value), codes.grid
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
  return ids


def _checked_floats(value: Any, floats: Any) -> np.ndarray:
  z, shape = checks.array("latents", value), (*floats.grid, floats.width)
  if z.dtype.kind != "f" or z.ndim != 1 + len(shape) or z.shape[-1] != floats.width or not z.size:
    raise UserError(
      f"latents: {z.dtype} of shape {z.shape}; give floats, as encode returns them: "
      f"[B, {', '.join(map(str, shape))}] for what the tokenizer was trained on."
    )
  if not np.isfinite(z).all():
    raise UserError("latents: are not all finite; give what encode returns.")
  return z.astype(np.float32)
