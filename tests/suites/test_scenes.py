"""Reading drawn scenes off their pixels, and the table of how samples follow their captions."""

import types

import numpy as np
import pytest

from vqjax.data.sources import shapes
from vqjax.suites import _reader, scenes


@pytest.fixture(scope="module")
def drawn():
  source = shapes.Source(
    size=32, max_objects=2, sizes=("medium", "large"), grounds=("plain",), unseen=1
  )
  examples = [source.examples("eval")[i] for i in range(60)]
  return np.stack([e["image"] for e in examples]), [e["text"] for e in examples]


def test_what_is_drawn_is_read(drawn):
  images, captions = drawn
  found = _reader.judged(images, captions)
  assert all(np.nanmean(v) > 0.95 for v in found.values()), found
  one = [" above " not in c and " below " not in c and " of " not in c for c in captions]
  np.testing.assert_array_equal(np.isnan(found["relation"]), one)


def test_of_other_scenes_nothing_is_right(drawn):
  images, captions = drawn
  turned = captions[7:] + captions[:7]
  found = _reader.judged(images, turned)
  # One in eight pairs of shape and colour is the same by chance.
  assert found["objects"].mean() < 0.35 and np.nanmean(found["relation"]) < 0.2


def test_objects_lie_where_they_were_drawn():
  wrong = 0
  for index in range(40):
    scene = shapes.draw(32, 3, index, 1, ("large",), ("plain",))
    (seen,) = _reader.read(scene["image"])
    shape, color, _, x, y, _ = scene["attributes"][0]
    assert np.hypot(seen.x - x, seen.y - y) < 0.05
    wrong += (seen.shape, seen.color) != (
      shapes.SHAPES[int(shape) - 1],
      list(shapes.COLORS)[int(color)],
    )
  assert wrong <= 1


@pytest.mark.parametrize("value", [0, 128, 255])
def test_nothing_is_read_off_an_empty_ground(value):
  assert _reader.read(np.full((32, 32, 3), value, np.uint8)) == []


@pytest.mark.parametrize(
  "caption, objects, relation",
  [
    ("a large red heart", (("red", "heart"),), None),
    (
      "a large red heart to the left of a medium blue ring",
      (("red", "heart"), ("blue", "ring")),
      "left",
    ),
  ],
)
def test_captions_are_read(caption, objects, relation):
  assert _reader.wanted(caption) == _reader.Wanted(objects, relation)


def test_the_table_tells_samples_from_the_ranked_and_the_best(drawn):
  images, captions = drawn[0][:12], drawn[1][:12]
  right = _reader.judged(images, captions)
  # Of four samples the third is the caption's own picture, the others are empty.
  four = np.zeros((12, 4, 32, 32, 3), np.uint8)
  four[:, 2] = images
  model = types.SimpleNamespace(
    encode=lambda x: x, decode=np.zeros_like, sample=lambda num, text: four.reshape(num, 32, 32, 3)
  )
  blind = types.SimpleNamespace(rank=lambda images, text: (None, np.zeros(len(images))))
  sharp = types.SimpleNamespace(
    rank=lambda images, text: (None, images.reshape(len(images), -1).sum(1))
  )
  tables = {}
  for name, ranker in (("none", None), ("blind", blind), ("sharp", sharp)):
    rows, samples = scenes.compared(model, ranker, images, captions, each=4)
    tables[name] = {first: [float(cell[:-1]) / 100 for cell in rest] for first, *rest in rows}
    assert samples.shape == four.shape
  objects, count, relation = (np.nanmean(v) for v in right.values())
  near = lambda *wanted: pytest.approx(wanted, abs=1e-3)
  for found in tables.values():
    assert found["drawn"] == near(objects, count, relation)
    assert found["tokenizer"] == near(0, 0, 0)
    assert found["samples"] == near(objects / 4, count / 4, relation / 4)
    assert found["best by the reader"] == near(objects, count, relation)
  assert "ranked" not in tables["none"]
  assert tables["blind"]["ranked"] == near(0, 0, 0)
  assert tables["sharp"]["ranked"] == tables["sharp"]["drawn"]
