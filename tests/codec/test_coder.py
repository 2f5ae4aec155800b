"""The entropy coder: exact integer frequencies, no more bytes than information, any bytes read."""

import math

import constriction
import numpy as np
import pytest

from vqjax.codec import _coder
from vqjax.errors import UserError


@pytest.mark.parametrize("size", [1, 2, 3, 512, 65_537])
def test_frequencies_add_up_and_leave_every_code_its_share(size):
  rng = np.random.default_rng(0)
  for weights in (
    rng.integers(0, 2**38, size),
    np.zeros(size, np.int64),
    np.eye(1, size, dtype=np.int64)[0],
    rng.integers(0, 2**61 // size, size),
  ):
    f = _coder.frequencies(weights)
    assert f.sum() == _coder.TOTAL and f.min() >= max(1, _coder.TOTAL // (256 * size))
    share = weights / max(1, weights.sum())
    if weights.any():
      assert np.abs(f / _coder.TOTAL - share).max() < 1 / 250 + size / _coder.TOTAL


def test_frequencies_of_rows_are_those_of_each():
  rows = np.random.default_rng(0).integers(0, 1000, (5, 7))
  rows[2] = 0
  one_by_one = np.stack([_coder.frequencies(row) for row in rows])
  np.testing.assert_array_equal(_coder.frequencies(rows), one_by_one)


def test_constriction_takes_the_very_frequencies():
  """A code of frequency f narrows the coder's range by f / 2^24 and nothing else."""
  rng = np.random.default_rng(0)
  for size in (2, 5, 300):
    f = _coder.frequencies(rng.integers(0, 10_000, size))
    for code in {0, int(f.argmax()), int(f.argmin()), size - 1}:
      coder = constriction.stream.queue.RangeEncoder()
      family = constriction.stream.model.Categorical(perfect=False)
      coder.encode(np.array([code], np.int32), family, _coder._floats(f[None]))
      # The first code sees the whole range of 64 bits, of which 24 become the code's.
      width = (2**64 - 1 >> 24) * int(f[code])
      low = (2**64 - 1 >> 24) * int(f[:code].sum())
      found_low, found_width = coder.pos()[1]
      scale = 2**32 if found_width > width else 1  # a narrow range is moved up by one word
      assert (found_width, found_low) == (width * scale, low * scale % 2**64)


def test_streams_are_as_short_as_information_allows():
  rng = np.random.default_rng(1)
  for _ in range(300):
    number, size = rng.integers(0, 40), int(rng.integers(2, 30))
    f = _coder.frequencies(rng.integers(0, 1000, (number, size)) ** 3)
    ids = np.array([rng.choice(size, p=row / _coder.TOTAL) for row in f], np.int32)
    coder = _coder.Encoder()
    for i in range(number):
      coder.put(ids[i : i + 1], f[i : i + 1])
    data = coder.finish()
    assert coder.bits == pytest.approx(
      -sum(math.log2(row[k] / _coder.TOTAL) for k, row in zip(ids, f))
    )
    assert coder.bits / 8 - 4 <= len(data) <= coder.bits / 8 + 1
    decoder = _coder.Decoder(data)
    got = [int(decoder.get(f[i : i + 1])[0]) for i in range(number)]
    assert got == ids.tolist()


def test_one_distribution_for_many_codes():
  f = _coder.frequencies(np.array([1, 2, 3, 4]))
  ids = np.random.default_rng(0).integers(0, 4, 1000)
  coder = _coder.Encoder()
  coder.put(ids, f)
  np.testing.assert_array_equal(_coder.Decoder(coder.finish()).get(f, 1000), ids)


def test_a_book_of_one_code_costs_nothing():
  coder = _coder.Encoder()
  coder.put(np.zeros(9, np.int32), np.array([_coder.TOTAL]))
  assert coder.finish() == b"" and coder.bits == 0
  assert _coder.Decoder(b"").get(np.array([_coder.TOTAL]), 9).tolist() == [0] * 9


@pytest.mark.parametrize("size", [2, 3, 512, 70_000])
def test_a_stream_holds_no_more_codes_than_is_said(size):
  f = _coder.frequencies(np.eye(1, size, dtype=int)[0])
  coder = _coder.Encoder()
  coder.put(np.zeros(20_000, np.int32), f)
  assert 20_000 <= _coder.most_codes(len(coder.finish()), size) < 90_000


def test_any_bytes_decode_to_codes_or_are_refused():
  rng = np.random.default_rng(2)
  f = _coder.frequencies(np.array([5, 1, 1]))
  for _ in range(50):
    try:
      assert set(_coder.Decoder(rng.bytes(9)).get(f, 200)) <= {0, 1, 2}
    except UserError as e:
      assert "\n" not in str(e)
