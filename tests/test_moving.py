"""The eyes that judge predictions of moving shapes: right on real videos, and not to be fooled."""

import numpy as np
import pytest

from vqjax.data.sources import moving_shapes
from vqjax.errors import UserError
from vqjax.suites import moving

SOURCE = moving_shapes.Source(
  size=16, frames=8, max_objects=1, shapes=("circle", "square", "cross"), radius=(0.2, 0.24),
  speed=(0.08, 0.12),
)  # fmt: skip


def judged(change=lambda video, index: video, num=24):
  """Mean shares over videos, after `change` of each."""
  examples = [SOURCE.examples("eval")[i] for i in range(num)]
  found = [
    moving.kept(change(e["video"], i), e["attributes"][:, 0], 2, SOURCE.shapes)
    for i, e in enumerate(examples)
  ]
  share = lambda values: np.mean(values) if len(values) else np.nan
  of = lambda key: [one[key] for one in found if not np.isnan(one[key])]
  return {key: share(of(key)) for key in found[0]}


def test_real_videos_keep_everything():
  found = judged()
  assert all(found[key] == 1 for key in ("object", "shape", "colour", "direction"))
  assert found["pixels off"] < 0.1


def test_noise_of_a_reconstruction_is_looked_through():
  noise = lambda v, i: np.clip(v + np.random.default_rng(i).normal(0, 12, v.shape), 0, 255)
  found = judged(lambda v, i: noise(v, i).astype(np.uint8))
  assert min(found[key] for key in ("object", "colour", "direction")) > 0.97
  assert found["shape"] > 0.9


def test_other_videos_do_no_better_than_chance():
  found = judged(lambda v, i: SOURCE.examples("train")[i + 100]["video"], num=60)
  assert found["object"] == 1 and 0.15 < found["shape"] < 0.5 and found["colour"] < 0.35
  assert found["direction"] < 0.45 and found["pixels off"] > 2


def test_each_fault_is_seen_by_itself():
  still = judged(lambda v, i: np.concatenate([v[:2], np.repeat(v[1:2], 6, 0)]))
  assert still["direction"] < 0.2 and still["shape"] == still["colour"] == 1
  back = judged(lambda v, i: np.concatenate([v[:2], v[1::-1], v[:2], v[1::-1]])[:8])
  assert back["direction"] < 0.7 and back["colour"] == 1
  empty = judged(lambda v, i: np.concatenate([v[:2], np.full_like(v[2:], moving_shapes.GROUND)]))
  assert empty["object"] == empty["shape"] == empty["direction"] == 0

  def other(i, **changes):
    (mover,) = moving_shapes.place(SOURCE, (1 << 40) + i)
    return moving_shapes.draw([mover._replace(**changes)], 8, 16, "bounce")

  crosses = judged(lambda v, i: other(i, shape="cross"))
  assert crosses["colour"] == crosses["direction"] == 1
  named = [SOURCE.shapes[SOURCE.examples("eval")[i]["label"]] for i in range(24)]
  assert crosses["shape"] == np.mean([name == "cross" for name in named]) < 0.6
  tinted = judged(lambda v, i: v[..., ::-1])  # red and blue change places
  assert tinted["colour"] < 0.6 and tinted["direction"] > 0.99


def test_a_run_of_something_else_is_refused(tmp_path):
  with pytest.raises(UserError):
    moving.main(["--workdir", str(tmp_path / "none")])
