"""Metrics on their way to the log: one step late, one line for a few, bad values in one line."""

import json

import pytest

from vqjax.errors import UserError
from vqjax.journal import Journal


def make(workdir, saved=(), window=()):
  config = dict(total_steps=9, batch_size=4, log_every=3)
  return Journal(workdir, config, 0, window=dict(window), saved=lambda: list(saved))


def lines(workdir):
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_line_is_the_mean_of_its_steps_and_comes_one_step_late(tmp_path):
  journal = make(tmp_path, window={"loss/total": [10.0]})  # of a step before the restart
  for step in (2, 3):
    journal.add(step, {"loss/total": float(step)})
  assert not lines(tmp_path)
  journal.add(4, {"loss/total": 4.0})
  assert lines(tmp_path) == [{"step": 3, "loss/total": 5.0}]
  journal.flush()
  assert journal.window == {"loss/total": [4.0]}
  journal.close()


def test_steps_need_not_have_the_same_metrics(tmp_path):
  """A line is of what there was, also where the run goes on from a save in between."""
  journal = make(tmp_path)
  journal.add(1, {"loss/total": 1.0})
  journal.add(2, {"loss/total": 3.0, "b": 5.0})
  journal.flush()
  window = json.loads(json.dumps(journal.window))
  journal.close()
  assert window == {"loss/total": [1.0, 3.0], "b": [None, 5.0]}
  journal = make(tmp_path, window=window)
  journal.add(3, {"loss/total": 5.0, "b": 7.0})
  journal.flush()
  assert lines(tmp_path) == [{"step": 3, "loss/total": 3.0, "b": 6.0}]
  journal.close()


@pytest.mark.parametrize(
  "saved, advice",
  [
    (
      [],
      "no checkpoint had been saved. Start anew with a lower config.optim.lr and config.optim.c",
    ),
    (
      [2, 4],
      "step 4. Continue with a lower config.optim.lr, or start anew with --config.init_from",
    ),
  ],
)
def test_the_first_cause_is_named_with_advice_that_works(tmp_path, saved, advice):
  journal = make(tmp_path, saved)
  nan = float("nan")
  journal.add(5, {"loss/total": nan, "grad_norm/model": nan, "loss/features": nan, "a": 1.0})
  with pytest.raises(UserError, match=f"step 5: loss/features is nan; .*{advice}") as e:
    journal.flush()
  assert "\n" not in str(e.value)
  with pytest.raises(UserError, match="step 6: eval/psnr is inf"):
    journal.held_out(6, {"psnr": float("inf")})
  journal.close()
