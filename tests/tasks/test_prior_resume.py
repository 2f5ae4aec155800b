"""A prior that is stopped and continued equals the uninterrupted one bit for bit, on images and on
cached codes.
"""

import os

import pytest

from vqjax import config as configuration, tokenize, train

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


SCHEMES = {"autoregressive": dict(name="autoregressive"), "masked": dict(name="masked")}


@pytest.mark.slow
@pytest.mark.parametrize(
  "source, scheme, stop, saved",
  [
    # While the log line of step 6 is written: the checkpoint of step 5 is the last.
    ("images", "masked", "crash", 5),
    ("codes", "autoregressive", "terminate", 7),
  ],
)
def test_a_stopped_prior_continues_bit_for_bit(
  source, scheme, stop, saved, tokenizer, sources, tmp_path, compiled_once, request, same_run
):
  config = config_of(tokenizer, sources[source], SCHEMES[scheme])
  train.train(config, tmp_path / "whole")
  with request.getfixturevalue(stop)(7 if stop == "terminate" else 6):
    train.train(config, tmp_path / "stopped")
  assert max(map(int, os.listdir(tmp_path / "stopped" / "checkpoints"))) == saved
  train.train(config, tmp_path / "stopped")
  state = same_run(tmp_path / "whole", tmp_path / "stopped")
  assert int(state.step) == 8 and state.ema is not None
