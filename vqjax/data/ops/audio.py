"""Ops on sound, numpy and soxr only: rate, channels, crops, gain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from vqjax import checks, sounds
from vqjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Ops:
  """What happens to every sound before it is batched.

  Attributes:
    rate: samples in a second, Hz; sounds of other rates are resampled.
    length: samples that are kept; shorter sounds get silence behind them. None leaves sounds as
      long as they are, then all must be of one length.
    crop: "start" keeps the beginning. "random" cuts anywhere in training, and keeps the middle in
      evaluation.
    channels: 1 mixes them, 2 repeats one; None keeps what the source yields.
    peak: the largest sample is brought to this, where it is not 0 or already silence.
    gain: decibels, (least, most), drawn anew for every training example after all that.
  """

  fields: ClassVar[tuple[str, ...]] = ("audio",)
  remedy: ClassVar[str] = "set config.ops.length (and channels) to make them alike"

  rate: int = 16_000
  length: int | None = None
  crop: Literal["start", "random"] = "random"
  channels: int | None = 1
  peak: float = 0.0
  gain: tuple[float, ...] = (0.0, 0.0)

  def __post_init__(self):
    checks.positive(self, "rate", "length", "channels")
    checks.within(self, "peak", at_least=0, at_most=1)
    if len(self.gain) != 2 or not -120 <= self.gain[0] <= self.gain[1] <= 120:
      raise UserError(f"gain: {self.gain} is no range; give (least, most) decibels in ±120.")

  def apply(
    self, example: Mapping[str, Any], rng: np.random.Generator | None = None
  ) -> dict[str, Any]:
    """Treats `audio`, float32 [T, C], at the example's `rate`, which is dropped.

    Raises UserError for channels that cannot be made, or samples that are not finite.
    """
    if "audio" not in example or example.keys() & {"ids", "latents"}:
      return dict(example)
    name, own = example.get("name", "audio"), int(example.get("rate", self.rate))
    samples = sounds.to_channels(example["audio"], self.channels, name)
    if not np.isfinite(samples).all():
      raise UserError(f"{name}: has samples that are not finite (NaN or infinite); replace them.")
    samples = self._cut(samples, own, rng)
    top = float(np.abs(samples).max())
    if self.peak and top > _silent(self.peak):
      samples = samples * np.float32(self.peak / top)
    if rng is not None and self.gain != (0.0, 0.0):
      samples = samples * np.float32(10 ** (rng.uniform(*self.gain) / 20))
    return {k: v for k, v in example.items() if k != "rate"} | {"audio": samples}

  def _cut(self, samples: np.ndarray, own: int, rng: np.random.Generator | None) -> np.ndarray:
    """[length, C] at `rate`; only what is kept, and a margin around it, is resampled."""
    if self.length is None:
      return sounds.resampled(samples, own, self.rate)
    needed = -(-self.length * own // self.rate)
    spare, start = max(0, len(samples) - needed), 0
    if self.crop == "random":
      start = spare // 2 if rng is None else int(rng.integers(spare + 1))
    if own == self.rate:
      return sounds.fitted(samples[start : start + needed], self.length)
    margin = min(start, own // 10)
    part = samples[start - margin : start + needed + own // 10]
    made = sounds.resampled(part, own, self.rate)
    return sounds.fitted(made[round(margin * self.rate / own) :], self.length)

  def shown(self, shape: tuple[int, ...]) -> str:
    return f"{shape[0]} samples in {shape[1]} channel(s)"


def _silent(peak: float) -> float:
  """Below this a sound counts as silence, which no gain makes louder: 80 decibels below `peak`."""
  return peak * 1e-4
