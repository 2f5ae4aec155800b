"""Grid: whether reconstructions carry a pattern that repeats every few pixels, as strided and
transposed convolutions and their gradients leave it (distill.pub/2016/deconv-checkerboard).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

from vqjax.errors import UserError
from vqjax.evaluators import _pixels
from vqjax.evaluators.sharpness import spectrum

# Bins about a frequency: as far as the window spreads a wave, and what lies around that.
_PEAK, _AROUND = 1, 3


@dataclasses.dataclass(frozen=True)
class Measure:
  """How far the spectrum stands out at a grid's frequencies.

  "grid/p": a pattern of p pixels has its energy where both frequencies are multiples of 1/p. At
  each of these the energy of the nine bins about it is divided by that of the 40 around them, per
  bin; the geometric mean over the frequencies is then divided by the originals' own. 1 is no grid,
  2 is one with as much energy as the picture has there. A constant offset (both frequencies 0) does
  not count. Periods that do not divide the sides, or leave less than 7 bins from peak to peak, are
  left out. "grid": the most of any period.

  Attributes:
    periods: in pixels.
  """

  periods: tuple[int, ...] = (2, 4, 8)

  needs: ClassVar[str] = "reconstruct"
  reads: ClassVar[str] = "image"
  reduction: ClassVar[str] = "sum"
  protocol: ClassVar[str] = (
    f"{_pixels.ROUNDING}; Hann window after removal of the mean, power summed over channels and "
    "images, 3 x 3 bins over the rest of 7 x 7"
  )

  def __post_init__(self) -> None:
    if not self.periods or min(self.periods) < 2:
      raise UserError(f"periods={self.periods}: give periods of 2 pixels or more.")

  def update(
    self, frozen: Any, batch: dict[str, Any], out: dict[str, Any], mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Sums power spectra [H, W]."""
    images = dict(zip(("real", "recon"), _pixels.pair(batch, out)))
    return _pixels.masked_sums(mask, **{name: spectrum(x) for name, x in images.items()})

  def result(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
    """Peaks of the reconstructions over peaks of the originals, by period. Raises UserError where
    there is none to measure.
    """
    result = {}
    for period in self.periods:
      real, recon = (
        _peaks(np.asarray(sums[name], np.float64), period) for name in ("real", "recon")
      )
      if len(real) and real.all():
        with np.errstate(divide="ignore"):  # where reconstructions are flat: 0
          result[f"grid/{period}"] = float(np.exp(np.mean(np.log(recon / real))))
    if not result:
      height, width = np.shape(sums["real"])
      raise UserError(
        f"config.evaluators: 'grid' sees none of periods={self.periods} in these originals of "
        f"{height}x{width} pixels; leave the measure out."
      )
    return {"grid": max(result.values())} | result


def _peaks(power_HW: np.ndarray, period: int) -> np.ndarray:
  """Energy at the frequencies of `period` over what lies around each."""
  steps = [n // period for n in power_HW.shape]
  if any(n % period or step <= 2 * _AROUND for n, step in zip(power_HW.shape, steps)):
    return np.zeros(0)
  places = [(i * steps[0], j * steps[1]) for i in range(period) for j in range(period)]
  reach = np.arange(-_AROUND, _AROUND + 1)
  peak = np.maximum(abs(reach[:, None]), abs(reach[None])) <= _PEAK
  found = []
  for row, column in places[1:]:
    near = power_HW.take(row + reach, 0, mode="wrap").take(column + reach, 1, mode="wrap")
    found.append(near[peak].mean() / (near[~peak].mean() or np.inf))
  return np.array(found)
