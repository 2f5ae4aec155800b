"""The sparse masks, written out for two text tokens and a grid of 3 x 3 codes."""

import numpy as np
import pytest

from vqjax.nn import sparse

MASKS = {
  "row": """
    10 000000000
    11 000000000
    11 100000000
    11 110000000
    11 111000000
    11 111100000
    11 011110000
    11 001111000
    11 000111100
    11 000011110
    11 000001111""",
  "column": """
    10 000000000
    11 000000000
    11 100000000
    11 010000000
    11 001000000
    11 100100000
    11 010010000
    11 001001000
    11 100100100
    11 010010010
    11 001001001""",
  # 3 x 3: the one before, and the three above; at the borders what follows there in the sequence.
  "convolution": """
    10 000000000
    11 000000000
    11 100000000
    11 110000000
    11 111000000
    11 111100000
    11 111110000
    11 011111000
    11 001111100
    11 000111110
    11 000011111""",
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_written_out(kind):
  lines = MASKS[kind].split("\n")[1:]
  expected = [[int(x) for x in line.replace(" ", "")] for line in lines]
  masks = sparse.Masks(("row", kind), 2, 3, 3, 11)
  np.testing.assert_array_equal(masks.arrays[1].astype(int), expected)


def test_a_window_leaves_out_what_lies_between():
  """On a grid of 5 columns, 3 x 3: code 12 sees itself, the one before and 6, 7, 8 above."""
  seen = np.flatnonzero(sparse.Masks(("convolution",), 0, 5, 3, 15).arrays[0, 12])
  assert seen.tolist() == [6, 7, 8, 11, 12]


@pytest.mark.parametrize("width, kernel", [(4, 3), (5, 3), (5, 5), (8, 11)])
def test_windows_are_sets_of_offsets(width, kernel):
  """On grids whose sides are powers of two and others, and under windows wider than the grid."""
  reach, places = kernel // 2, np.arange(4 * width)
  offsets = [r * width + c for r in range(reach + 1) for c in range(-reach, reach + 1)]
  behind = places[:, None] - places[None]
  expected = np.isin(behind, offsets) & (behind >= 0)
  masks = sparse.Masks(("convolution", "column"), 0, width, kernel, 4 * width)
  np.testing.assert_array_equal(masks.arrays[0], expected)
  np.testing.assert_array_equal(masks.arrays[1], (behind % width == 0) & (behind >= 0))


def test_the_pattern_of_the_paper():
  kinds = sparse.pattern(64)
  assert kinds[:6] == ("row", "column", "row", "row", "row", "column") and len(kinds) == 64
  assert kinds[-1] == "convolution" and kinds.count("convolution") == 1
  assert [i for i in range(1, 64) if kinds[i - 1] == "column"] == list(range(2, 64, 4))
  assert sparse.pattern(1) == ("convolution",)
