"""Recall by hand, with equal captions, and for a model that says the same of everything."""

import numpy as np
import pytest

from vqjax import evaluators
from vqjax.errors import UserError
from vqjax.evaluators.recall import Measure


def unit(x):
  x = np.asarray(x, np.float32)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_by_hand():
  image = unit([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
  text = unit([[2, 1, 0], [3, 2, 0], [0, 0, 1]])  # the second caption is nearer to the first image
  found = Measure(k=(1, 2)).result({"image": image, "text": text})
  assert found["image_to_text@1"] == pytest.approx(1.0)
  assert found["text_to_image@1"] == pytest.approx(2 / 3)
  assert found["recall@1"] == pytest.approx(5 / 6)
  assert found["text_to_image@2"] == 1.0 and found["recall_chance@1"] == pytest.approx(1 / 3)


def test_equal_captions_share_what_they_find():
  image, text = unit(np.eye(3)), unit([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
  found = Measure(k=(1,)).result({"image": image, "text": text})
  assert found["image_to_text@1"] == found["text_to_image@1"] == pytest.approx(2 / 3)
  same = {"image": np.tile(unit([[1, 2, 3]]), (20, 1)), "text": np.tile(unit([[3, 1, 1]]), (20, 1))}
  chance = Measure().result(same)
  assert (chance["recall@1"], chance["recall@5"]) == pytest.approx((1 / 20, 5 / 20))


def test_padding_is_dropped_and_many_rows_are_cut_up():
  rng = np.random.default_rng(0)
  vectors = {k: unit(rng.normal(size=(1_100, 4))) for k in ("image", "text")}
  measure, rows = Measure(), None
  for start in range(0, 1_200, 400):
    index = np.arange(start, start + 400)
    out = {k: v[index % 1_100] for k, v in vectors.items()}
    rows = evaluators.gather(rows, measure.update((), {}, out, None), index < 1_100)
  similar = vectors["image"] @ vectors["text"].T
  rank = (similar > np.diag(similar)[:, None]).sum(1)
  assert measure.result(evaluators.reduced(rows))["image_to_text@10"] == pytest.approx(
    (rank < 10).mean(), abs=1e-3
  )


def test_k_is_checked():
  with pytest.raises(UserError, match="k: "):
    Measure(k=(0,))
