"""Orders of several codebooks: the steps as their papers draw them, groups there and back."""

import numpy as np
import pytest

from vqjax import orders
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.orders import Order


def test_the_steps_written_out():
  """Three positions of two books; code 2t + q is book q of position t."""
  assert orders.places("flattened", 3, 2).tolist() == [[0], [1], [2], [3], [4], [5]]
  assert orders.places("parallel", 3, 2).tolist() == [[0, 1], [2, 3], [4, 5]]
  # MusicGen's figure 1, with -1 for its empty token.
  assert orders.places("delayed", 3, 2).tolist() == [[0, -1], [2, 1], [4, 3], [-1, 5]]


def test_a_book_is_delayed_by_its_number():
  places = orders.places("delayed", 6, 4)
  assert places.shape == (9, 4)
  for step, row in enumerate(places):
    for book, place in enumerate(row):
      assert place == ((step - book) * 4 + book if 0 <= step - book < 6 else -1)


@pytest.mark.parametrize("name", ["flattened", "parallel", "delayed"])
def test_one_book_needs_no_order(name):
  assert orders.places(name, 4, 1).tolist() == [[0], [1], [2], [3]]
  (level,) = Order(name).levels(Codes((2, 2), 8, books=3))
  assert level == Codes((2, 2), 8, books=3, order=name)


@pytest.mark.parametrize("groups, grids", [((), [(2,)] * 4), ((1, 3), [(2,), (2, 3)])])
def test_groups_of_books_are_levels(groups, grids):
  codes, order = Codes((2,), 8, books=4), Order("coarse_to_fine", groups, within="delayed")
  levels = order.levels(codes)
  assert [level.grid for level in levels] == grids
  assert all(level.order == "delayed" for level in levels)
  ids = np.arange(24).reshape(3, 2, 4)
  parts = order.split(ids, codes)
  assert [part.shape[1:] for part in parts] == grids
  np.testing.assert_array_equal(parts[0], ids[..., 0])
  np.testing.assert_array_equal(order.merge(parts, codes), ids)
  np.testing.assert_array_equal(Order().merge(Order().split(ids, codes), codes), ids)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: Order(groups=(0,)), "groups: 0 is no whole number"),
    (lambda: Order(groups=(1.5,)), "groups: 1.5 is no"),
    (
      lambda: Order("coarse_to_fine", (1, 2)).levels(Codes((2,), 8, books=4)),
      r"config.order.groups: \[1, 2\] are 3 books, the tokenizer has 4",
    ),
  ],
)
def test_impossible_groups_are_refused_in_one_line(make, message):
  with pytest.raises(UserError, match=message) as e:
    make()
  assert "\n" not in str(e.value)
