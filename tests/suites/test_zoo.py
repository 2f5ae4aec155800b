"""What the zoo's table says of a run."""

import json

import pytest

from vqjax import files
from vqjax.errors import UserError
from vqjax.suites import zoo


def test_the_last_figures_are_told():
  lines = [
    {"step": 1, "loss/total": 2.0},
    {"step": 1, "eval/psnr": 20.0, "eval/usage": 0.5},
    {"step": 2, "eval/psnr": 21.123, "eval/usage": 1.0, "eval/mse": 0.1},
  ]
  log = "\n".join(map(json.dumps, lines))
  assert zoo.figures(log) == "21.12 dB, 100.0% of the codes"


def test_no_run(tmp_path):
  with pytest.raises(UserError, match="no run was trained there"):
    zoo.main([str(tmp_path), f"--output={tmp_path}"])
  assert not list(files.path(tmp_path).iterdir())
