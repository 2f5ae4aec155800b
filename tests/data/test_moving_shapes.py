"""Moving shapes: a pure function, whose attributes are what the pixels show; borders; ops."""

import math

import numpy as np
import pytest

from vqjax import build
from vqjax.data.ops import generator, video as ops
from vqjax.data.sources import moving_shapes
from vqjax.errors import UserError


def example(index, **fields):
  return moving_shapes.Source(**fields).examples("train")[index]


def test_a_pure_function_whose_splits_differ():
  a, b = example(3), moving_shapes.Source().examples("train")[3]
  np.testing.assert_array_equal(a["video"], b["video"])
  other = moving_shapes.Source().examples("eval")[3]
  assert a["text"] != other["text"] or (a["video"] != other["video"]).any()
  assert a["video"].shape == (8, 32, 32, 3) and a["video"].dtype == np.uint8
  assert a["attributes"].shape == (8, 2, 6) and a["label"].dtype == np.int32


@pytest.mark.parametrize("edge", ["bounce", "wrap"])
def test_pixels_are_where_the_attributes_say(edge):
  """The centre of what is drawn (on a circle, by mean angles), and the way from frame to frame."""
  for index in range(12):
    found = example(index, max_objects=1, shapes=("circle", "square", "cross"), edge=edge)
    lit = np.abs(found["video"].astype(int) - moving_shapes.GROUND).sum(-1)
    centres = (np.arange(32) + 0.5) / 32
    for t, attributes in enumerate(found["attributes"][:, 0]):
      at = []
      for axis in (0, 1):  # x, then y
        waves = np.exp(2j * math.pi * centres) * lit[t].sum(axis)
        at.append(np.angle(waves.sum()) / (2 * math.pi) % 1)
      apart = np.abs((np.array(at) - attributes[3:5] + 0.5) % 1 - 0.5)
      assert apart.max() < 0.01, (index, t)


def test_bouncing_objects_stay_inside_at_their_speed():
  source = moving_shapes.Source(frames=40, max_objects=1)
  for index in range(6):
    (mover,) = moving_shapes.place(source, index)
    track = np.array([mover.at(t, "bounce") for t in range(40)])
    assert (
      track[:, :2].min() >= mover.radius - 1e-9 and track[:, :2].max() <= 1 - mover.radius + 1e-9
    )
    speed = np.hypot(*np.diff(track[:, :2], axis=0).T)
    # Slower only in a frame in which the border is met.
    assert (speed <= mover.speed + 1e-9).all() and np.median(speed) == pytest.approx(mover.speed)
    turned = np.abs(np.exp(1j * track[1:, 2]) - np.exp(1j * track[:-1, 2])) > 1e-6
    assert turned.sum() >= 1 and (np.abs(speed - mover.speed)[~turned] < 1e-9).all()


def test_the_caption_and_colours_are_those_drawn():
  for index in range(20):
    found = example(index)
    movers = moving_shapes.place(moving_shapes.Source(), index)
    assert found["text"] == " and ".join(map(str, movers))
    assert len({m.color for m in movers}) == len(movers)
    assert found["label"] == moving_shapes.SHAPES.index(movers[0].shape)
    empty = found["attributes"][:, len(movers) :]
    assert not empty.any() and (found["attributes"][:, : len(movers), 0] > 0).all()


@pytest.mark.parametrize(
  "fields, message",
  [
    (dict(size=8), "size: 8"),
    (dict(max_objects=4), "max_objects: 4"),
    (dict(shapes=("blob",)), "shapes: "),
    (dict(speed=(0.2, 0.1)), "speed: "),
    (dict(radius=(0.1,)), "radius: "),
    (dict(frames=0), "frames: 0"),
  ],
)
def test_fields_are_checked_in_one_line(fields, message):
  with pytest.raises(UserError, match=message) as e:
    build.build("data.sources", dict(name="moving_shapes") | fields)
  assert "\n" not in str(e.value)


def test_ops_take_frames_a_stride_apart_and_treat_all_alike():
  video = np.random.default_rng(0).integers(0, 256, (20, 6, 9, 3)).astype(np.uint8)
  cut = ops.Ops(frames=4, stride=3, size=6, crop="random", flip=True)
  starts, flips = set(), set()
  for counter in range(150):
    out = cut.apply({"video": video}, generator(0, counter))["video"]
    assert out.shape == (4, 6, 6, 3)
    found = [
      (start, left, flipped)
      for start in range(11)
      for left in range(4)
      for flipped in (1, -1)
      if (video[start : start + 12 : 3, :, left : left + 6][:, :, ::flipped] == out).all()
    ]
    ((start, _, flipped),) = found
    starts.add(start), flips.add(flipped)
  assert starts == set(range(11)) and flips == {1, -1}
  plain = cut.apply({"video": video})["video"]
  np.testing.assert_array_equal(plain, video[:12:3, :, 1:7])
  grey = ops.Ops(channels=1).apply({"video": video, "name": "a"})
  assert grey["video"].shape == (20, 6, 9, 1) and grey["name"] == "a"
  with pytest.raises(UserError, match="a: is 9x6, not size=8"):
    ops.Ops(size=8, crop="none").apply({"video": video, "name": "a"})
  with pytest.raises(UserError, match="crop: 'random' needs a size"):
    ops.Ops(crop="random")
