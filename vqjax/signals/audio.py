"""Sound: float32 `[B, T, C]` in about [-1, 1], at a rate that config.ops sets."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, fields, pictures, sounds
from vqjax.errors import UserError
from vqjax.nn import losses, spectra
from vqjax.signals import Clip, Likelihood, Row, save_sheet

# Beyond this nothing is sound in [-1, 1] that was resampled or amplified: integers were not scaled.
_LOUDEST = 16.0
_HEIGHT, _WIDTH, _RANGE = 96, 160, 80.0  # of each half of a picture; decibels from black to white


@dataclasses.dataclass(frozen=True)
class Signal:
  """Samples, which the model reads as they are. Callers may give int16 instead.

  Fields:
    rate: samples in a second, Hz; set by the program, from config.ops.rate.
  """

  rate: int = fields.program(0)

  field: ClassVar[str] = "audio"
  axes: ClassVar[int] = 1
  likelihoods: ClassVar[Mapping[str, Likelihood]] = {
    "l1": Likelihood(losses.l1),
    "l2": Likelihood(losses.l2),
  }
  judges: ClassVar[tuple[str, ...]] = ("discriminator",)
  measures: ClassVar[tuple[str, ...]] = ("sound",)
  noun: ClassVar[str] = "sound"
  columns: ClassVar[int | None] = 2
  suffixes: ClassVar[tuple[str, ...]] = sounds.SUFFIXES
  suffix: ClassVar[str] = ".wav"

  @property
  def distances(self) -> Mapping[str, Callable]:
    """Multi-scale mel and STFT distances, see vqjax.nn.spectra."""
    mel = functools.partial(spectra.mel_distance, rate=self.rate)
    return {"mel": mel, "stft": spectra.stft_distance}

  def spec(self, ops: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    if not ops["length"]:
      raise UserError("config.ops.length: is not set; give it, since no data are read here.")
    return (ops["length"], ops["channels"] or 1), "float32"

  def sizes(self, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"length": shape[0], "channels": shape[1]}

  def amount(self, shape: tuple[int, ...]) -> tuple[str, float]:
    return "second", shape[0] / self.rate

  def channels(self, shape: tuple[int, ...]) -> int:
    return shape[-1]

  def read(self, values: jax.Array) -> jax.Array:
    return values.astype(jnp.float32)

  def write(self, mean: jax.Array) -> jax.Array:
    return mean.astype(jnp.float32)

  def prepare(self, values: np.ndarray) -> np.ndarray:
    return values

  def given(self, values: Any, shape: tuple[int, ...]) -> jax.Array:
    audio, channels = checks.array("audio", values), shape[-1]
    if audio.ndim != 3 or audio.shape[-1] != channels or not audio.size:
      raise UserError(
        f"audio: shape {audio.shape} is not [B, T, {channels}]; this model was trained on "
        f"{channels} channel(s)."
      )
    if audio.dtype == np.int16:
      audio = audio / np.float32(32768)
    if not jnp.issubdtype(audio.dtype, jnp.floating):
      raise UserError(f"audio: {audio.dtype} is neither int16 nor float in [-1, 1]; scale it.")
    if not (top := float(np.abs(audio).max())) <= _LOUDEST:  # NaN fails the comparison, too
      raise UserError(f"audio: samples reach {top:.4g}; scale them to [-1, 1], or pass int16.")
    return jnp.asarray(audio, jnp.float32)

  def finished(self, values: jax.Array) -> np.ndarray:
    return np.asarray(values, np.float32)

  def pictures(self, values: Any, hidden: np.ndarray | None = None) -> np.ndarray:
    """The waveform's extremes and a log-mel spectrogram beside each other, over the same time."""
    made = []
    for i, samples in enumerate(np.asarray(values, np.float32)):
      mono = samples.mean(-1)
      halves = [_waveform(mono), _spectrogram(mono, self.rate)]
      if hidden is not None:
        at = np.arange(_WIDTH) * len(mono) // _WIDTH
        halves = [np.where(hidden[i][at][None], np.uint8(128), half) for half in halves]
      made.append(np.concatenate([halves[0], np.full((_HEIGHT, 2), 255, np.uint8), halves[1]], 1))
    return np.stack(made)[..., None]

  def clips(self, values: Any) -> Sequence[Clip]:
    return [Clip(np.asarray(v, np.float32), self.rate) for v in values]

  def open(
    self, file: pathlib.Path, shape: tuple[int, ...], size: tuple[int, ...] | None = None
  ) -> np.ndarray:
    samples = sounds.read(file, self.rate, shape[-1])
    return samples if size is None else sounds.fitted(samples, *size)

  def suffix_for(self, file: pathlib.Path) -> str:
    suffix = file.suffix.lower()
    return suffix if suffix in sounds.WRITTEN else self.suffix

  def check_page(self, file: pathlib.Path) -> None:
    if file.suffix.lower() not in pictures.SUFFIXES:
      sounds.check(file)

  def save_page(
    self, file: pathlib.Path, rows: Sequence[Row], together: bool = False
  ) -> list[pathlib.Path]:
    """A picture of all; or each to a file of sound, what is hidden in it silent."""
    if file.suffix.lower() in pictures.SUFFIXES:
      return save_sheet(self, file, rows, together)
    heard = []
    for row in rows:
      hidden = np.zeros(row.values.shape[:2], bool) if row.hidden is None else row.hidden
      heard += list(np.where(hidden[..., None], np.float32(0), row.values))
    digits = len(str(len(heard) - 1))
    named = [file.with_name(f"{file.stem}_{i:0{digits}d}{file.suffix}") for i in range(len(heard))]
    named = [file] if len(heard) == 1 else named
    for name, samples in zip(named, heard):
      self.save(name, samples)
    return named

  def save(self, file: pathlib.Path, values: np.ndarray) -> None:
    sounds.save(file, values, self.rate)


def _waveform(samples_T: np.ndarray) -> np.ndarray:
  """The least and largest sample of each column as a bar, black on white, uint8 [H, W]."""
  edges = np.linspace(0, len(samples_T), _WIDTH + 1).astype(int)
  parts = [samples_T[a : max(b, a + 1)] for a, b in zip(edges, edges[1:])]
  parts = [part if part.size else samples_T[-1:] for part in parts]
  low, high = (np.array([f(part) for part in parts]) for f in (np.min, np.max))
  row = lambda x: np.clip(np.round((1 - x) / 2 * (_HEIGHT - 1)), 0, _HEIGHT - 1)[None]
  rows = np.arange(_HEIGHT)[:, None]
  return np.where((rows >= row(high)) & (rows <= row(low)), np.uint8(0), np.uint8(255))


def _spectrogram(samples_T: np.ndarray, rate: int) -> np.ndarray:
  """80 decibels below full scale, black to white, high notes on top, uint8 [H, W]."""
  window = 2 ** int(np.clip(np.round(np.log2(rate * 0.032)), 6, 12))
  centres = (np.arange(_WIDTH) + 0.5) * len(samples_T) / _WIDTH
  padded = np.pad(samples_T, (window // 2, window))
  taken = padded[centres.astype(int)[:, None] + np.arange(window)[None]]
  spectrum = np.abs(np.fft.rfft(taken * np.hanning(window)[None])) * (4 / window)
  bands = spectra.mel_filters(rate, window, _HEIGHT)
  levels = spectrum @ (bands / np.maximum(bands.sum(0, keepdims=True), 1e-12))
  decibels = 20 * np.log10(np.maximum(levels, 1e-9))
  share = np.clip(1 + decibels / _RANGE, 0, 1)
  return np.round(255 * share).astype(np.uint8).T[::-1]
