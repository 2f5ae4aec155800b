"""A prior that is stopped and continued equals the uninterrupted one bit for bit: the codes that it
reads, the noise that hides them, the conditions that are dropped. The loop's own part is tested in
tests/test_train.py.
"""

import os

import pytest

from vqjax import config as configuration, tokenize, train


@pytest.mark.slow
def test_a_stopped_prior_continues_bit_for_bit(tokenizer, tmp_path, compiled_once, crash, same_run):
  codes = str(tmp_path / "codes")
  tokenize.main(["--workdir", tokenizer, "--output", codes, "--batch_size", "8", "--shard", "12"])
  # Four batches an epoch: runs stop inside one, between two log lines and two checkpoints.
  config = configuration.complete(
    dict(
      task="prior",
      tokenizer=tokenizer,
      data=dict(name="codes", path=codes),
      ops=dict(size=16, channels=3),
      model=dict(name="transformer", layers=1, width=16, heads=2, dropout=0.2),
      scheme=dict(name="masked"),
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
  train.train(config, tmp_path / "whole")
  with crash(6):  # while the log line of step 6 is written: the checkpoint of step 5 is the last
    train.train(config, tmp_path / "stopped")
  assert max(map(int, os.listdir(tmp_path / "stopped" / "checkpoints"))) == 5
  train.train(config, tmp_path / "stopped")
  state = same_run(tmp_path / "whole", tmp_path / "stopped")
  assert int(state.step) == 8 and state.ema is not None
