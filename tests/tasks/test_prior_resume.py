"""A prior that is stopped and continued equals the uninterrupted one bit for bit, on images and on
cached codes.
"""

import os
import signal

import jax
import numpy as np
import pytest

from vqjax import checkpoint, config as configuration, journal, tokenize, train, writers

SHAPES = dict(name="shapes", size=16, num_train=32, num_eval=8)
TRANSFORMER = dict(name="transformer", layers=1, width=16, heads=2, dropout=0.2)


@pytest.fixture(scope="module")
def sources(tokenizer, tmp_path_factory):
  folder = tmp_path_factory.mktemp("codes")
  tokenize.main(
    ["--workdir", tokenizer, "--output", str(folder), "--batch_size", "8", "--shard", "12"]
  )
  return {"images": SHAPES, "codes": dict(name="codes", path=str(folder))}


def config_of(tokenizer, source, scheme):
  # Four batches an epoch: runs stop inside one, between two log lines and two checkpoints.
  return configuration.complete(
    dict(
      task="prior",
      tokenizer=tokenizer,
      data=source,
      ops=dict(size=16, channels=3),
      model=TRANSFORMER,
      scheme=scheme,
      condition=dict(label=dict(classes=8), drop=0.3),
      batch_size=8,
      total_steps=8,
      log_every=3,
      save_every=5,
      eval_examples=8,
      preview=0,
      keep=4,
      ema_decay=0.9,
      optim=dict(lr=1e-2, warmup=2, clip=1.0, weight_decay=0.01),
    )
  )


def final_state(workdir):
  run = train.Run(configuration.of_run(workdir), configuration.read_spec(workdir))
  with checkpoint.Checkpoints(workdir, keep=9) as checkpoints:
    return checkpoints._read(checkpoints.steps()[-1], run.abstract)[0]


def assert_same_run(a, b):
  left, right = final_state(a), final_state(b)
  assert int(left.step) == int(right.step) == 8 and left.ema is not None
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right)):
    np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))
  # Timings go to TensorBoard alone, so the whole file must agree.
  assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()


class Crash(Exception):
  pass


def crash(patch):
  """Ends the run while it writes the log line of step 6, without any goodbye: the checkpoint of
  step 5 is the last.
  """
  write = writers.Writer.scalars

  def scalars(self, at, values, **also):
    if at >= 6:
      raise Crash
    write(self, at, values, **also)

  patch.setattr(writers.Writer, "scalars", scalars)


def terminate(patch):
  """Sends SIGTERM in the seventh step, far from any checkpoint."""
  add = journal.Journal.add

  def asked(self, step, metrics):
    if step == 7:
      os.kill(os.getpid(), signal.SIGTERM)
    add(self, step, metrics)

  patch.setattr(journal.Journal, "add", asked)


@pytest.fixture
def compiled_once(monkeypatch):
  """The runs of a test, which have one config, share their compiled functions: those take far
  longer than the steps.
  """
  made = []

  def run(*args):
    made.append(made[0] if made else Run(*args))
    return made[-1]

  Run = train.Run
  monkeypatch.setattr(train, "Run", run)


SCHEMES = {
  "autoregressive": dict(name="autoregressive"),
  "masked": dict(name="masked"),
  "diffusion": dict(name="diffusion", timesteps=2),
}


@pytest.mark.slow
@pytest.mark.parametrize(
  "source, scheme, stop",
  [
    ("images", "masked", crash),
    ("codes", "autoregressive", terminate),
    ("codes", "diffusion", crash),
  ],
)
def test_a_stopped_prior_continues_bit_for_bit(
  source, scheme, stop, tokenizer, sources, tmp_path, monkeypatch, compiled_once
):
  config = config_of(tokenizer, sources[source], SCHEMES[scheme])
  train.train(config, tmp_path / "whole")
  with monkeypatch.context() as patch:
    stop(patch)
    try:
      train.train(config, tmp_path / "stopped")
    except Crash:
      pass
  assert max(map(int, os.listdir(tmp_path / "stopped" / "checkpoints"))) == (
    5 if stop is crash else 7
  )
  train.train(config, tmp_path / "stopped")
  assert_same_run(tmp_path / "whole", tmp_path / "stopped")
