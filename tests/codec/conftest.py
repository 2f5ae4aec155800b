"""Runs with random weights that the tests of the codec share."""

import numpy as np
import pytest

from vqjax import api
from vqjax.codec import _tables

TOKENIZERS = {
  "plain": dict(
    name="vqvae", hidden=8, residual_hidden=4, residual_blocks=1,
    quantizer=dict(name="ema", codebook_size=9, dim=4),
  ),
  "books": dict(
    name="vqvae", hidden=8, residual_hidden=4, residual_blocks=1,
    quantizer=dict(name="residual", quantizer=dict(name="ema", codebook_size=5, dim=4), num=2),
  ),
  "levels": dict(
    name="vqvae2", hidden=8, residual_hidden=4, residual_blocks=0, downsamples=1,
    quantizer=dict(name="ema", codebook_size=7, dim=4),
  ),
}  # fmt: skip
TRANSFORMER = dict(name="transformer", layers=1, width=8, heads=2)


@pytest.fixture
def prior_of(untrained):
  """prior_of(tokenizer, network) -> a Prior over codes of 4 x 4 cells, for images of 16 x 16."""

  def make(tokenizer="plain", network=TRANSFORMER, **more):
    loaded = untrained(
      dict(model=TOKENIZERS[tokenizer]),
      dict(model=network, scheme=dict(name="autoregressive"), condition=dict(), **more),
    )
    return api.Prior(loaded)

  return make


def draw(levels, grids, seed=0):
  """Codes of an example, by level, of which some are much more frequent than others."""
  rng = np.random.default_rng(seed)
  power = lambda codes, grid: (codes.size * rng.random(grid) ** 3).astype(np.int32)
  return tuple(power(codes, grid) for codes, grid in zip(levels, grids))


def count(tokenizer):
  """Writes tables for a tokenizer."""
  info = tokenizer.info
  batch = draw(info.levels, [(64, *codes.grid) for codes in info.levels], seed=1)
  _tables.keep(tokenizer.workdir, info.levels, tokenizer.identity, [batch])
