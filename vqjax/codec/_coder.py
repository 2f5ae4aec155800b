"""Range coding (constriction's, arXiv 2201.01741) with integer frequencies.

constriction takes floats and makes fixed-point probabilities of them. Here a code of frequency f is
given as float64 f - 1, and these add up to 2^24 - K: then constriction's scale is exactly 1 and its
probability f / 2^24, so that nothing is ever rounded and the bytes depend on integers alone.
"""

from __future__ import annotations

import math

import constriction
import numpy as np

from vqjax.errors import UserError, reason

TOTAL = 2**24
LARGEST = 2**20  # codes of a book, which leaves each 16 parts of TOTAL on average
_SHARE = 256  # one part in so many is spread evenly over the codes
_WORD = 32

_queue, _model = constriction.stream.queue, constriction.stream.model


def frequencies(weights: np.ndarray) -> np.ndarray:
  """Positive integers that add up to TOTAL, in proportion to `weights`.

  Args:
    weights: integers [..., K] from 0 on; all 0 means all alike.

  Returns:
    int64 [..., K]. Every code gets an even share of TOTAL / 256 at the least, what rounding leaves
    over goes to the most frequent one.
  """
  weights = np.asarray(weights, np.int64)
  size, least = weights.shape[-1], _least(weights.shape[-1])
  free = TOTAL - least * size
  if (bits := int(weights.max(initial=0)).bit_length()) > 38:
    weights = weights >> (bits - 38)
  sums = weights.sum(-1, keepdims=True)
  if not sums.all():
    weights, sums = np.where(sums, weights, 1), np.where(sums, sums, size)
  shared = weights * free // sums
  left = free - shared.sum(-1, keepdims=True)
  largest = shared.argmax(-1)[..., None]
  np.put_along_axis(shared, largest, np.take_along_axis(shared, largest, -1) + left, -1)
  return shared + least


def _least(size: int) -> int:
  return max(1, TOTAL // (_SHARE * size))


def most_codes(data: int, size: int) -> int:
  """How many codes of a book of `size` a stream of so many bytes holds at the most."""
  size = max(size, 2)
  return int(8 * (data + 9) / -math.log2(1 - (size - 1) * _least(size) / TOTAL)) + 1


class Encoder:
  """Codes in, bytes out, first in first out.

  Attributes:
    bits: what the frequencies give to the codes so far, which no coder can undercut.
  """

  def __init__(self) -> None:
    self.bits = 0.0
    self._coder, self._family = _queue.RangeEncoder(), _model.Categorical(perfect=False)

  def put(self, ids: np.ndarray, frequencies: np.ndarray) -> None:
    """Codes `[N]` under one distribution `[K]` or one for each `[N, K]`."""
    if not len(ids) or frequencies.shape[-1] < 2:
      return
    ids, floats = np.ascontiguousarray(ids, np.int32), _floats(frequencies)
    own = frequencies[ids] if floats.ndim == 1 else frequencies[np.arange(len(ids)), ids]
    self.bits -= float(np.log2(own / TOTAL).sum())
    if floats.ndim == 1:
      self._coder.encode(ids, _model.Categorical(floats, perfect=False))
    else:
      self._coder.encode(ids, self._family, floats)

  def finish(self) -> bytes:
    """Few bytes that decode to what was put in; zeros are read behind them.

    No fewer than the coder has moved on by: else the codes at the bottom of the range, which zeros
    decode to, would take no bytes, and no length would tell how many a stream can hold.
    """
    words, (low, width) = self._coder.pos()
    found = self._coder.get_compressed().astype(">u4").tobytes()
    size = (words + 2) * _WORD // 8
    value = int.from_bytes(found[:size].ljust(size, b"\0"), "big")
    # Any number from `first` on, `width` of them, decodes alike; the state holds its last 64 bits.
    first = value - (value - low) % 2 ** (2 * _WORD)
    for length in range(words * _WORD // 8, size):
      zeros = 8 * (size - length)
      number = -(-first >> zeros)
      if number << zeros < first + width and number >> 8 * length == 0:
        return number.to_bytes(length, "big")
    return value.to_bytes(size, "big")


class Decoder:
  """Bytes in, codes out, in the order in which they were put."""

  def __init__(self, data: bytes):
    whole = data + bytes(-len(data) % 4)
    self._coder = _queue.RangeDecoder(np.frombuffer(whole, ">u4").astype(np.uint32))
    self._family = _model.Categorical(perfect=False)

  def get(self, frequencies: np.ndarray, number: int | None = None) -> np.ndarray:
    """int32 codes `[N]`: `number` under one distribution `[K]`, or one for each of `[N, K]`.

    Raises UserError for bytes that nothing encodes to.
    """
    count = len(frequencies) if number is None else number
    if not count or frequencies.shape[-1] < 2:
      return np.zeros(count, np.int32)
    floats = _floats(frequencies)
    try:
      if number is not None:
        return self._coder.decode(_model.Categorical(floats, perfect=False), number)
      return self._coder.decode(self._family, floats)
    except (AssertionError, ValueError) as e:
      raise UserError(f"its stream is damaged ({reason(e)}).") from None


def _floats(frequencies: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(frequencies - 1, np.float64)
