"""Which chip a device is, by the name that it gives itself."""

import types

import pytest

from vqjax import chips


@pytest.mark.parametrize(
  "kind, name",
  [
    ("TPU v4", "v4"),
    ("TPU v5 lite", "v5e"),
    ("TPU v5e", "v5e"),
    ("TPU v5", "v5p"),
    ("TPU v5p", "v5p"),
    ("TPU v6 lite", "v6e"),
    ("NVIDIA H100 80GB HBM3", "H100"),
    ("NVIDIA H200", "H200"),
    ("cpu", None),
  ],
)
def test_chip_of_a_device(kind, name):
  found = chips.of(types.SimpleNamespace(device_kind=kind))
  assert found is (name and chips.CHIPS[name])


def test_clocks_are_those_of_the_data_sheets():
  """GHz, by the peak over the multipliers that each chip has."""
  found = {name: round(chips.CHIPS[name].clock / 1e9, 2) for name in chips.TPUS}
  assert found == {"v4": 1.05, "v5e": 1.5, "v5p": 1.75, "v6e": 1.75}
