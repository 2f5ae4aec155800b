"""Colours for label maps: PASCAL VOC's, which keep small class numbers far apart."""

from __future__ import annotations

import numpy as np


def _table() -> np.ndarray:
  """uint8 [256, 3]: a class's bits go in turn to red, green and blue, the lowest to the highest bit
  of the colour.
  """
  classes = np.arange(256)[:, None]
  places = np.arange(8)
  channel, weight = places % 3, 128 >> places // 3
  bits = (classes >> places & 1) * weight
  return np.stack([bits[:, channel == c].sum(1) for c in range(3)], axis=1).astype(np.uint8)


TABLE = _table()


def colours(layout: np.ndarray) -> np.ndarray:
  """A label map, integers [...] in 0..255, as uint8 colours [..., 3]."""
  return TABLE[np.asarray(layout)]
