"""Video in files: there and back, frames on demand, what is broken said in one line."""

import numpy as np
import pytest
from PIL import Image

from vqjax import pictures, videos
from vqjax.data.sources import frames as numbered, moving_shapes, videos as source
from vqjax.errors import UserError

VIDEO = moving_shapes.Source(size=32, frames=6).examples("train")[1]["video"]


def written(folder, suffix, video=VIDEO):
  file = folder / f"a{suffix}"
  videos.save(file, video)
  return file


def test_a_gif_of_few_colours_loses_nothing(tmp_path):
  opened = videos.read(written(tmp_path, ".gif"))
  assert len(opened) == 6
  np.testing.assert_array_equal(opened[np.arange(6)], VIDEO)
  np.testing.assert_array_equal(opened[np.array([1, 4])], VIDEO[[1, 4]])
  still = np.repeat(VIDEO[:1], 5, axis=0)  # frames that are the same stay as many
  assert len(videos.read(written(tmp_path, ".gif", still))) == 5


def test_an_mp4_loses_little_and_other_libraries_agree(tmp_path):
  av = pytest.importorskip("av")
  file = written(tmp_path, ".mp4", VIDEO[:, :31])
  opened = videos.read(file)
  with av.open(str(file)) as container:
    theirs = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
  found = opened[np.arange(6)]
  np.testing.assert_array_equal(found, theirs)
  assert found.shape == (6, 32, 32, 3)  # an odd side is made even
  assert np.abs(found[:, :31].astype(int) - VIDEO[:, :31]).mean() < 3
  np.testing.assert_array_equal(opened[np.array([2, 5])], theirs[[2, 5]])


def test_fewer_frames_than_asked_for_rest_on_the_last(tmp_path):
  opened = videos.read(written(tmp_path, ".gif"))
  found = videos.fitted(opened, 5, stride=2, start=1)
  np.testing.assert_array_equal(found, VIDEO[[1, 3, 5, 5, 5]])
  np.testing.assert_array_equal(videos.fitted(VIDEO, None, stride=3), VIDEO[[0, 3]])


def test_strips_hold_every_frame():
  strip = videos.strips(VIDEO[None])
  assert strip.shape == (1, 32, 6 * 33 - 1, 3)
  for t in range(6):
    np.testing.assert_array_equal(strip[0, :, 33 * t : 33 * t + 32], VIDEO[t])
  page = videos.page([np.stack([VIDEO, VIDEO[::-1]]), VIDEO[None, :2]])
  assert page.shape[0] == 6 and (page[5] != page[0]).any()


def test_what_is_broken_is_one_line(tmp_path):
  (tmp_path / "text.gif").write_text("no gif")
  (tmp_path / "text.mp4").write_text("no film")
  cut = written(tmp_path, ".gif")
  cut.write_bytes(cut.read_bytes()[:40])
  for file in (tmp_path / "text.gif", tmp_path / "text.mp4", cut, tmp_path / "none.webp"):
    with pytest.raises(UserError, match="cannot be read as video") as e:
      videos.read(file)
    assert "\n" not in str(e.value)
  with pytest.raises(UserError, match="no video format; end the name in .gif or .mp4"):
    videos.save(tmp_path / "a.webm", VIDEO)


def test_a_folder_of_films_and_one_of_pictures_are_told_apart(tmp_path):
  for i in range(4):
    written(tmp_path, f"{i}.gif")
  assert source.Source.recognise(tmp_path)["name"] == "videos"
  examples = source.Source(str(tmp_path)).examples("train")
  assert len(examples[0]["video"]) == 6 and "label" not in examples[0]
  pictures.save(tmp_path / "still.png", VIDEO[0])
  assert source.Source.recognise(tmp_path) is None
  for file in tmp_path.glob("*.*"):
    file.unlink()
  pictures.save(tmp_path / "still.gif", VIDEO[0])
  assert source.Source.recognise(tmp_path) is None


def test_numbered_frames_come_in_the_order_of_their_numbers(tmp_path):
  for name in ("a", "b", "c"):
    for t in range(6):
      pictures.save(tmp_path / "x" / name / f"{name}{9 + t}.png", VIDEO[t])
  examples = [numbered.Source(str(tmp_path)).examples(split) for split in ("train", "eval")]
  assert sum(map(len, examples)) == 3
  np.testing.assert_array_equal(videos.fitted(examples[0][0]["video"], None), VIDEO)
  assert examples[0].content(0)["file"].dtype == np.uint8
  Image.new("RGB", (8, 9)).save(tmp_path / "x" / "a" / "a20.png")
  odd = videos.Frames(tuple(sorted((tmp_path / "x" / "a").iterdir())))
  with pytest.raises(UserError, match="frames of 32x32 and 8x9; make them alike"):
    odd[np.arange(len(odd))]
  pictures.save(tmp_path / "loose.png", VIDEO[0])
  with pytest.raises(UserError, match="loose.png lies in no folder of its own"):
    numbered._folders(["loose.png", "x/a/a9.png"])
