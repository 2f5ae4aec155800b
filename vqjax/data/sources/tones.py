"""Drawn sounds: a few notes after each other, each a pure function of (seed, index). Nothing to
download; the class is the timbre.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vqjax import checks
from vqjax.data import ops
from vqjax.data.sources import Drawn
from vqjax.errors import UserError

TIMBRES = ("flute", "reed", "bell", "brass", "pluck", "noise")
_MOST_PARTIALS = 24


@dataclasses.dataclass(frozen=True)
class Source:
  """How many sounds, and how they are drawn.

  Attributes:
    rate: samples in a second, Hz.
    seconds: of a sound.
    channels: a note stands somewhere between the first two of them.
    num_train, num_eval: sounds of the splits.
    seed: of the whole world of sounds.
  """

  rate: int = 16_000
  seconds: float = 1.0
  channels: int = 1
  num_train: int = 50_000
  num_eval: int = 1_000
  seed: int = 0

  def __post_init__(self):
    checks.positive(self, "rate", "channels", "num_train", "num_eval")
    checks.within(self, "seconds", above=0, at_most=3_600)
    if round(self.rate * self.seconds) < 1:
      raise UserError(f"seconds: {self.seconds} at {self.rate} Hz is less than one sample.")

  def examples(self, split: str) -> Drawn:
    coarse = lambda tone: tone | {"audio": np.round(tone["audio"] * 64).astype(np.int8)}
    return Drawn(self, split, "tone", self._tone, coarse)

  def class_names(self) -> tuple[str, ...]:
    return TIMBRES

  def _tone(self, number: int) -> dict[str, Any]:
    samples, label, notes = draw(self.rate, self.seconds, self.channels, self.seed, number)
    text = f"{('one note', 'two notes', 'three notes')[notes - 1]} of a {TIMBRES[label]}"
    rate, label = np.int32(self.rate), np.int32(label)
    return {"audio": samples, "rate": rate, "label": label, "text": text}


def draw(
  rate: int, seconds: float, channels: int, seed: int, index: int
) -> tuple[np.ndarray, int, int]:
  """(float32 [T, channels] with peaks below 1, timbre, number of notes) of sound `index` of world
  `seed`.
  """
  rng = ops.generator(seed, index, stream=4)
  label, length = int(rng.integers(len(TIMBRES))), round(rate * seconds)
  samples = np.zeros((length, channels))
  starts = rng.uniform(0, 0.8 * seconds, int(rng.integers(1, 4)))
  for start in np.sort(starts) - starts.min():  # the first note at once
    pitch = 110.0 * 2 ** (rng.integers(0, 36) / 12)
    time = np.arange(length) / rate - start
    note = _note(TIMBRES[label], time, pitch, rate, rng) * rng.uniform(0.3, 1.0)
    place = rng.uniform(0.2, 0.8)
    shares = np.array([1 - place, place])[np.arange(channels) % 2] if channels > 1 else np.ones(1)
    samples += note[:, None] * shares[None]
  return (samples * (0.8 / max(1.0, np.abs(samples).max()))).astype(np.float32), label, len(starts)


# Attack and decay in seconds, and how partial k's loudness falls, k^-slope.
_SHAPES = {
  "flute": (0.05, 0.8, 2.5), "reed": (0.02, 0.6, 1.0), "bell": (0.002, 0.5, 1.2),
  "brass": (0.08, 0.7, 0.8), "pluck": (0.002, 0.25, 1.4), "noise": (0.01, 0.3, 0.0),
}  # fmt: skip


def _note(
  timbre: str, time: np.ndarray, pitch: float, rate: int, rng: np.random.Generator
) -> np.ndarray:
  attack, decay, slope = _SHAPES[timbre]
  since = np.maximum(time, 0)
  envelope = np.where(time < 0, 0, (1 - np.exp(-since / attack)) * np.exp(-since / decay))
  if timbre == "noise":
    return envelope * rng.standard_normal(len(time)) * 0.3
  partials = np.arange(1, _MOST_PARTIALS + 1, 2 if timbre == "reed" else 1)
  stretch = 1 + (0.02 * partials if timbre == "bell" else 0.0)
  hertz = pitch * partials * stretch
  heard = hertz < 0.45 * rate
  phases = rng.uniform(0, 2 * np.pi, len(partials))
  waves = np.sin(2 * np.pi * hertz[heard, None] * time[None] + phases[heard, None])
  weights = partials[heard] ** -slope
  return envelope * (weights[:, None] * waves).sum(0) / weights.sum()
