"""Checks of fields: what passes, and that a message names field, value and range."""

import types

import pytest

from vqjax import checks
from vqjax.errors import UserError


def test_checks():
  module = types.SimpleNamespace(
    zero=0, one=1, none=None, many=(2, 1), few=(), bad=(1, 0), p=1.1, axes=3
  )
  checks.positive(module, "one", "none", "many")
  checks.at_least(module, 0, "zero")
  checks.share(module, "zero", "one")
  checks.axes(module, "it", 1, 3)
  checks.rank((4, 5), 2)
  for message, check in {
    "zero: 0 is too small; give at least 1": lambda: checks.positive(module, "one", "zero"),
    "few: () is too small": lambda: checks.positive(module, "few"),
    "bad: (1, 0) is too small": lambda: checks.positive(module, "bad"),
    "one: 1 is too small; give at least 2": lambda: checks.at_least(module, 2, "one"),
    "p: 1.1 is out of range": lambda: checks.share(module, "p"),
    "it is made for 1 or 2 grid axes, not for 3": lambda: checks.axes(module, "it", 1, 2),
    "size 4x5 has 2 grid axes, the model is made for 3": lambda: checks.rank((4, 5), 3),
  }.items():
    with pytest.raises(UserError) as error:
      check()
    assert message in str(error.value)
