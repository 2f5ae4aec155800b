"""A tokenizer that the tests of tasks share."""

import numpy as np
import pytest

from vqjax import data, tokenize

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


@pytest.fixture
def reads_the_same(tmp_path):
  """reads_the_same(tokenizer, prior, source, names): a step of the prior reads the same of the
  source as of the codes that the tokenizer makes of it, and of the conditions by these names.
  """

  def compare(tokenizer, prior, source, names):
    folder, field = str(tmp_path / "codes"), prior.info.signal.field
    flags = ["--workdir", tokenizer, "--output", folder, "--batch_size", "8", "--shard", "12"]
    tokenize.main(flags)
    plain, cached = (
      prior.loaded.run.task.prepare(data.Dataset(made, prior.config.ops).sample(4))
      for made in (source, dict(name="codes", path=folder))
    )
    assert field not in cached and "ids" not in plain
    np.testing.assert_array_equal(cached["ids"], prior.encode(plain[field]))
    for name in names:
      np.testing.assert_array_equal(cached[name], plain[name])

  return compare


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory, random_run):
  """The workdir of a tokenizer of images: 4 x 4 codes of 8, averaged."""
  workdir = tmp_path_factory.mktemp("tokenizer")
  quantizer = dict(name="ema", codebook_size=8, dim=4)
  model = dict(name="vqvae", **SMALL, quantizer=quantizer)
  # With the weights of this seed all codes occur.
  return str(random_run(workdir, SHORT | dict(model=model, ema_decay=0.5), seed=127))
