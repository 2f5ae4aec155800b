"""The sizes that are compiled differ in what they say, and the power is the slope of the times."""

import pytest

from vqjax import compile as compiler, costs
from vqjax.chips import CHIPS
from vqjax.suites import scaling


@pytest.mark.parametrize("axis", scaling.AXES)
def test_every_size_is_a_config_of_its_own(axis, tmp_path):
  found = set()
  for size in scaling.AXES[axis][1]:
    config, tokenizer, topology = scaling.plan(axis, size)
    folder = tmp_path / str(size)
    folder.mkdir()
    codes = tokenizer and tokenizer.model.quantizer.codebook_size
    config = scaling.completed(config, tokenizer, folder)
    spec = compiler.batch_of(config, cached=tokenizer is not None)
    field = "ids" if tokenizer else "image"
    found.add((spec[field].shape, str(config.model.to_dict()), codes, topology))
    if axis == "tokens":
      assert spec[field].shape[1] * spec[field].shape[2] == size
  assert len(found) == len(scaling.AXES[axis][1])


def test_the_power_is_the_slope():
  sums = lambda seconds: costs.Sums(2**30, 2**30, 2**31, 1e12, 1e9, 1e6, seconds, 0.0)
  (first, second, third) = scaling.rows(
    {1: sums(0.1), 2: sums(0.2), 8: sums(0.8 * 4)}, CHIPS["v5e"]
  )
  assert (first[-1], second[-1], third[-1]) == ("", "1.00", "2.00")
  assert first[1] == "2.00 GiB" and first[5] == "100.0 ms"
