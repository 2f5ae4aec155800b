"""A tokenizer under a prior that reads another size than it was trained on."""

import jax
import pytest

from vqjax import config as configuration
from vqjax.errors import UserError
from vqjax.tasks._first_stage import FirstStage

CODES = dict(name="vq", codebook_size=8, dim=4)
VQVAE = dict(name="vqvae", hidden=4, residual_hidden=4, residual_blocks=1, quantizer=CODES)


def spec(size, channels=3):
  return {"image": jax.ShapeDtypeStruct((2, size, size, channels), "uint8")}


def stage(tmp_path, *size):
  config = configuration.complete(dict(model=VQVAE, ops=dict(size=16), data=dict(name="shapes")))
  configuration.save(config, tmp_path)
  configuration.save_spec(spec(16), tmp_path)
  return FirstStage(str(tmp_path), spec(*size), "config.tokenizer")


def test_the_grid_follows_the_size_that_the_prior_reads(tmp_path):
  small, large = stage(tmp_path, 16), stage(tmp_path, 32)
  assert [s.levels[0].grid for s in (small, large)] == [(4, 4), (8, 8)]
  assert large.info.shape == (32, 32, 3) and large.shapes() == small.shapes()


@pytest.mark.parametrize("size", [(18,), (32, 1), (4 * 10**29,)])
def test_a_size_that_its_weights_do_not_take(tmp_path, size):
  with pytest.raises(UserError, match="cannot take; it was trained on .* set config.ops.size=16"):
    stage(tmp_path, *size)
