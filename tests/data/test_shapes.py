"""Drawn scenes: determinism, and that label, caption, layout and attributes all say what the
picture shows.
"""

import colorsys
import re

import numpy as np
import pytest

from vqjax.data.sources import shapes
from vqjax.errors import UserError


@pytest.fixture(scope="module")
def scenes():
  return [shapes.draw(64, 0, i) for i in range(400)]


@pytest.mark.parametrize("size", [16, 33, 256])
def test_pure_in_seed_and_index_at_any_size(size):
  a, b, c, d = (shapes.draw(size, *k) for k in [(0, 5), (0, 5), (1, 5), (0, 6)])
  assert (
    a["image"].shape == (size, size, 3)
    and a["image"].dtype == np.uint8
    and a["layout"].shape == (size, size)
  )
  np.testing.assert_array_equal(a["image"], b["image"])
  assert (a["image"] != c["image"]).any() and (a["image"] != d["image"]).any()
  np.testing.assert_array_equal(
    a["attributes"], shapes.draw(64, 0, 5)["attributes"]
  )  # one scene at every size


def test_caption_agrees_with_attributes(scenes):
  for scene in scenes:
    things = [row for row in scene["attributes"] if row[0]]
    words = re.findall(r"a (small|medium|large) (\w+) (\w+)", scene["text"])
    assert len(words) == len(things)
    for (size, color, shape), row in zip(words, things):
      assert shapes.SHAPES[int(row[0]) - 1] == shape and list(shapes.COLORS)[int(row[1])] == color
      low, high = shapes.SIZES[size]
      assert low <= row[2] <= high
    x, y = things[0][3:5]
    for relation, row in zip(re.findall(r"above|below|left|right", scene["text"]), things[1:]):
      ahead = {"above": row[4] - y, "below": y - row[4], "left": row[3] - x, "right": x - row[3]}
      assert ahead[relation] == max(ahead.values())


def test_layout_and_label_agree_with_attributes(scenes):
  for scene in scenes:
    things = [row for row in scene["attributes"] if row[0]]
    assert scene["label"] == things[0][0] - 1 and things[0][2] == max(t[2] for t in things)
    assert set(np.unique(scene["layout"])) == {0} | {int(t[0]) for t in things}
    centre_y, centre_x = np.argwhere(scene["layout"] == things[0][0]).mean(0) / 64
    if sum(t[0] == things[0][0] for t in things) == 1:
      assert np.hypot(centre_x - things[0][3], centre_y - things[0][4]) < 0.1


def test_no_object_is_hidden(scenes):
  for scene in scenes:
    for shape in {int(t[0]) for t in scene["attributes"] if t[0]}:
      radius = max(t[2] for t in scene["attributes"] if t[0] == shape)
      assert (scene["layout"] == shape).mean() > 0.3 * radius**2


def test_pixels_have_the_named_colour(scenes):
  for scene in scenes[:100]:
    main = scene["attributes"][0]
    if sum(t[0] == main[0] for t in scene["attributes"]) == 1:
      mean = scene["image"][scene["layout"] == main[0]].mean(0) / 255
      hue, wanted = (
        colorsys.rgb_to_hsv(*c)[0] for c in (mean, list(shapes.COLORS.values())[int(main[1])])
      )
      assert min(abs(hue - wanted), 1 - abs(hue - wanted)) < 0.06


def test_scenes_vary(scenes):
  assert len({s["text"] for s in scenes}) > 300
  assert np.bincount([s["label"] for s in scenes], minlength=8).min() > 20
  assert {sum(s["attributes"][:, 0] > 0) for s in scenes} == {1, 2, 3}


def test_edges_are_antialiased():
  """A large drawing averaged down to a quarter is nearly what is drawn small."""
  for i in range(20):
    large, small = shapes.draw(256, 0, i)["image"], shapes.draw(64, 0, i)["image"]
    mean = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(mean - small).mean() < 4


def test_splits_differ_and_eval_does_not_depend_on_train():
  a, b = shapes.Source(size=16, num_train=10), shapes.Source(size=16, num_train=20)
  assert len(a.examples("train")) == 10 and len(a.examples("eval")) == 1_000
  np.testing.assert_array_equal(a.examples("eval")[3]["image"], b.examples("eval")[3]["image"])
  assert (a.examples("train")[3]["image"] != a.examples("eval")[3]["image"]).any()
  assert a.class_names() == shapes.SHAPES


def test_sizes_and_grounds_restrict_what_is_drawn():
  source = shapes.Source(size=32, max_objects=2, sizes=("small", "large"), grounds=("plain",))
  scenes = [source.examples("train")[i] for i in range(60)]
  words = re.findall("small|medium|large", " ".join(s["text"] for s in scenes))
  assert set(words) == {"small", "large"}
  assert all(
    "large" in s["text"] for s in scenes if s["attributes"][1, 0] == 0
  )  # alone, it is not the small one
  for scene in scenes:  # along every line of the ground colours of a plain gradient change evenly
    line = scene["image"][0].astype(int)[scene["layout"][:6].max(0) == 0]
    if len(line) == 32:
      assert np.abs(np.diff(line, 2, axis=0)).max() <= 2


@pytest.mark.parametrize(
  "fields",
  [
    {"size": 8},
    {"max_objects": 4},
    {"num_eval": 0},
    {"sizes": ("huge",)},
    {"sizes": ()},
    {"grounds": ("plain", "plaid")},
  ],
)
def test_bad_fields(fields):
  with pytest.raises(UserError, match=next(iter(fields))):
    shapes.Source(**fields)
