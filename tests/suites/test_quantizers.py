"""Quantizers are compared at equal bits, over images that are enough to use all codes."""

import math

import jax
import pytest

from vqjax import train
from vqjax.suites import quantizers

SPEC = {"image": jax.ShapeDtypeStruct((1, 32, 32, 3), "uint8")}


@pytest.mark.parametrize("bits", quantizers.LEVELS)
def test_as_many_bits_for_all(bits):
  for name in quantizers.quantizers(bits):
    run = train.Run(quantizers.config_of(name, bits, 10, None), SPEC)
    (latent,) = run.task.info.levels
    if latent.kind == "codes":
      assert latent.books * math.log2(latent.size) == pytest.approx(bits, abs=0.15), name
