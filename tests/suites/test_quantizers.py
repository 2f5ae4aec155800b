"""Quantizers are compared at equal bits: all that there are."""

import math

import pytest

from vqjax import build
from vqjax.suites import quantizers


@pytest.mark.parametrize("bits", quantizers.LEVELS)
def test_as_many_bits_for_all(bits):
  chosen = quantizers.quantizers(bits)
  assert chosen.keys() == {*build.names("quantizers")}
  for name, fields in chosen.items():
    made = build.build("quantizers", dict(name=name, **fields))
    if made.codebook_size:
      said = made.num_codebooks * math.log2(made.codebook_size)
      assert said == pytest.approx(bits, abs=0.15), name
