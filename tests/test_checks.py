"""Checks of fields: what passes, and that a message names field, value and range."""

import types

import pytest

from vqjax import checks
from vqjax.errors import UserError


def test_checks():
  module = types.SimpleNamespace(
    zero=0, one=1, none=None, many=(2, 1), few=(), bad=(1, 0), word="many", p=1.1, axes=3
  )
  checks.positive(module, "one", "none", "many")
  checks.within(module, "zero", "one", at_least=0, at_most=1)
  checks.axes(module, "it", 1, 3)
  checks.rank((4, 5), 2)
  for message, check in {
    "zero: 0 is out of range; give a number at least 1": lambda: checks.positive(
      module, "one", "zero"
    ),
    "few: () is out of range": lambda: checks.positive(module, "few"),
    "bad: (1, 0) is out of range": lambda: checks.positive(module, "bad"),
    "p: 1.1 is out of range; give a number at most 1": lambda: checks.within(
      module, "p", at_most=1
    ),
    "word: many is out of range": lambda: checks.positive(module, "word"),
    "it is made for 1 or 2 grid axes, not for 3": lambda: checks.axes(module, "it", 1, 2),
    "size 4x5 has 2 grid axes, the model is made for 3": lambda: checks.rank((4, 5), 3),
  }.items():
    with pytest.raises(UserError) as error:
      check()
    assert message in str(error.value)
