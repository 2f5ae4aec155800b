"""Where time went: every second has a kind, restarts go on counting, what was lost is named."""

import json
import os
import time

import pytest

from vqjax import goodput, train
from vqjax.config import complete
from vqjax.trace import Trace


def test_time_adds_up_over_restarts(tmp_path, monkeypatch):
  clock = iter([10.0, 14.0, 15.0, 15.0, 15.0])
  monkeypatch.setattr(time, "monotonic", lambda: next(clock))
  monkeypatch.setattr(time, "time", lambda: 1000.0)
  ledger = goodput.Ledger(tmp_path, 0, began=8.0)
  ledger.on("step")
  ledger.on("save")
  ledger.keep()
  assert ledger.seconds == dict.fromkeys(goodput.KINDS, 0.0) | dict(start=2.0, step=4.0, save=1.0)
  assert str(ledger) == "step 57 %, start 29 %, save 14 %"
  # The killed process wrote to its log 30 s after the save.
  (tmp_path / "metrics.jsonl").write_text("{}")
  os.utime(tmp_path / "metrics.jsonl", (1030.0, 1030.0))
  again = goodput.Ledger(tmp_path, 5, began=15.0)
  assert again.seconds["lost"] == 30.0 and again.seconds["step"] == 4.0
  assert goodput.Ledger(tmp_path, 0, began=15.0).seconds["step"] == 0.0  # begun anew
  (tmp_path / goodput.FILE).write_text("{")
  assert goodput.Ledger(tmp_path, 5, began=15.0).seconds["lost"] == 0.0  # nothing is known of it


def test_a_run_tells_where_its_time_went_and_profiles(tmp_path, caplog):
  config = complete(
    dict(
      data=dict(name="shapes", size=16, num_train=16, num_eval=8),
      ops=dict(size=16, channels=3),
      model=dict(
        name="vqvae",
        hidden=4,
        residual_hidden=4,
        residual_blocks=0,
        quantizer=dict(name="vq", codebook_size=4, dim=2),
      ),
      batch_size=8,
      total_steps=11,
      save_every=11,
      eval_examples=8,
      preview=2,
    )  # fmt: skip
  )
  with caplog.at_level("INFO", "vqjax"):
    train.train(config, tmp_path, profile=True)
  seconds = json.loads((tmp_path / goodput.FILE).read_text())["seconds"]
  assert min(seconds[kind] for kind in ("step", "compile", "evaluate", "start")) > 0
  assert seconds["lost"] == 0 and "time went to" in caplog.text
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("folder, taken", [("p", [16, 17, 18, 19, 20]), (None, [])])
def test_five_steps_are_traced_from_the_sixth_on(folder, taken, tmp_path, monkeypatch):
  import jax

  log = []
  monkeypatch.setattr(jax.profiler, "start_trace", lambda place: log.append("start"))
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: log.append("stop"))
  trace = Trace(folder and tmp_path / folder, 10)
  for step in range(11, 30):
    trace.before(step)
    log.append(step)
    trace.after(step, 0)
  inside = log[log.index("start") + 1 : log.index("stop")] if "start" in log else []
  assert inside == taken
