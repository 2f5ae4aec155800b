"""Ops on examples: windows against hand-computed boxes and PIL, purity in the seed."""

import logging

import numpy as np
import pytest
from PIL import Image

from vqjax import build
from vqjax.data.ops import generator, image as ops
from vqjax.errors import UserError


def picture(height, width, channels=3, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("height,width", [(6, 10), (10, 6), (7, 7)])
def test_center_is_pil_on_the_shorter_side_then_the_centre(height, width):
  image, side = picture(height, width), min(height, width)
  for size in (side // 2, side, 2 * side):
    whole = Image.fromarray(image).resize(
      (width * size // side, height * size // side), Image.Resampling.BICUBIC
    )
    left, top = (whole.width - size) // 2, (whole.height - size) // 2
    out = ops.Ops(size=size).apply({"image": image})["image"]
    wanted = np.asarray(whole).astype(int)[top : top + size, left : left + size]
    np.testing.assert_allclose(
      out.astype(int), wanted, atol=1
    )  # a box is rounded once more on the way


def test_center_of_odd_remainders_cuts_whole_pixels():
  image = picture(5, 8)
  np.testing.assert_array_equal(ops.Ops(size=5).apply({"image": image})["image"], image[:, 1:6])


def test_downscaling_averages_rather_than_skips():
  stripes = np.zeros((64, 64, 1), np.uint8)
  stripes[:, ::2] = 254
  out = ops.Ops(size=8).apply({"image": stripes})["image"].astype(int)
  assert out.shape == (8, 8, 1) and abs(out[:, 1:-1] - 127).max() <= 4


def test_random_is_a_window_at_full_resolution_and_central_in_evaluation():
  image = np.arange(7 * 9, dtype=np.uint8).reshape(7, 9, 1)
  corners = set()
  for counter in range(200):
    out = ops.Ops(size=4, crop="random").apply({"image": image}, generator(0, counter))["image"]
    top, left = divmod(int(out[0, 0, 0]), 9)
    np.testing.assert_array_equal(out, image[top : top + 4, left : left + 4])
    corners.add((top, left))
  assert corners == {(y, x) for y in range(4) for x in range(6)}
  out = ops.Ops(size=4, crop="random").apply({"image": image})["image"]
  np.testing.assert_array_equal(out, image[1:5, 2:6])


def test_too_small_for_the_window_says_what_and_how():
  with pytest.raises(
    UserError, match=r"cat/3\.png: is 9x7.*size=8.*Lower size to 7.*crop='center'"
  ):
    ops.Ops(size=8, crop="random").apply({"image": picture(7, 9), "name": "cat/3.png"})


def test_none_accepts_one_size_only():
  image = picture(8, 8)
  np.testing.assert_array_equal(
    ops.Ops(size=8, crop="none").apply({"image": image})["image"], image
  )
  with pytest.raises(UserError, match="is 9x8, not size=8"):
    ops.Ops(size=8, crop="none").apply({"image": picture(8, 9)})


def test_random_resized_windows_have_the_area_and_aspect_asked_for():
  config = ops.Ops(size=8, crop="random_resized", min_area=0.3)
  areas = []
  for counter in range(300):
    (top, left, h, w), out = ops.window(config, 50, 83, generator(1, counter), "")
    assert out == (8, 8) and 0 <= top <= 50 - h and 0 <= left <= 83 - w
    assert 0.7 < w / h < 1.4
    areas.append(h * w / (50 * 83))
  assert min(areas) > 0.29 and max(areas) > 0.6 and min(areas) < 0.35
  assert ops.window(config, 50, 83, None, "")[0] == (0, 16, 50, 50)


def test_flip_in_half_of_training_and_never_in_evaluation():
  image = picture(5, 5)
  outs = [ops.Ops(flip=True).apply({"image": image}, generator(0, c))["image"] for c in range(200)]
  flipped = sum((o == image[:, ::-1]).all() for o in outs)
  assert 70 < flipped < 130 and flipped + sum((o == image).all() for o in outs) == 200
  np.testing.assert_array_equal(ops.Ops(flip=True).apply({"image": image})["image"], image)


def test_layout_follows_the_image_and_keeps_its_classes():
  image = np.repeat(picture(31, 20, 1) // 128 * 200, 3, axis=-1)
  layout = (image[..., 0] > 0).astype(np.uint8) * 7
  for crop in ("random", "random_resized"):
    config = ops.Ops(size=15, crop=crop, flip=True)
    out = config.apply({"image": image, "layout": layout}, generator(0, 3))
    assert out["layout"].shape == (15, 15) and set(np.unique(out["layout"])) <= {0, 7}
    if crop == "random":
      np.testing.assert_array_equal(out["layout"] > 0, out["image"][..., 0] > 0)
    alone = config.apply({"layout": layout}, generator(0, 3))
    np.testing.assert_array_equal(alone["layout"], out["layout"])


def test_what_the_ops_keep():
  for example in (
    {"label": np.int32(3), "name": "a"},
    {"ids": np.zeros((2, 2), np.int32), "layout": np.zeros((8, 8), np.uint8)},  # tokenized before
  ):
    assert ops.Ops(size=4, flip=True).apply(example, generator(0, 0)) == example


def test_far_too_small_is_said_once(caplog):
  config = ops.Ops(size=41)
  with caplog.at_level(logging.WARNING):
    for height, width in ((11, 30), (10, 30), (9, 9)):
      config.apply({"image": picture(height, width), "name": f"{width}.png"})
  assert [r.getMessage() for r in caplog.records] == [
    "30.png: is 30x10, enlarged more than 4 times to size=41; the same is not said of others."
  ]


def test_generator_is_pure_and_streams_differ():
  draw = lambda *a: generator(*a).random(4).tolist()  # noqa: E731
  assert draw(1, 2, 3) == draw(1, 2, 3)
  assert (
    len({tuple(draw(*a)) for a in [(1, 2, 3), (2, 1, 3), (1, 2, 0), (1, 3, 3), (-1, 2, 3)]}) == 5
  )


@pytest.mark.parametrize(
  "config,message",
  [
    ({"sise": 3}, r"config\.ops\.sise: unknown field.*size"),
    ({"size": "3"}, "not int"),
    ({"crop": "centre"}, r"config\.ops\.crop"),
    ({"size": 0}, r"config\.ops: size: 0"),
    ({"crop": "random"}, "needs a size"),
    ({"channels": 4}, "channels: 4"),
    ({"min_area": 0.0}, "min_area"),
  ],
)
def test_bad_config(config, message):
  with pytest.raises(UserError, match=message):
    build.build("data.ops", config, "config.ops")
