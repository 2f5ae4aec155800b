"""A trained tokenizer that the tests of tasks share."""

import pytest

from vqjax import train

SHORT = dict(
  data=dict(name="shapes", size=16, num_train=32, num_eval=8),
  ops=dict(size=16, channels=3),
  batch_size=8,
  total_steps=2,
  save_every=2,
  eval_examples=8,
  preview=0,
)
SMALL = dict(hidden=8, residual_hidden=8, residual_blocks=1)


@pytest.fixture(scope="session")
def short():
  """Config of a run of two steps, beside its model."""
  return SHORT


@pytest.fixture(scope="session")
def small():
  """The fields of a model that makes it small."""
  return SMALL


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
  """The workdir of a tokenizer of images: 4 x 4 codes of 8, averaged."""
  workdir = tmp_path_factory.mktemp("tokenizer")
  quantizer = dict(name="ema", codebook_size=8, dim=4)
  model = dict(name="vqvae", **SMALL, quantizer=quantizer)
  train.train(SHORT | dict(model=model, ema_decay=0.5), workdir)
  return str(workdir)
