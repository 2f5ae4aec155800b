"""Arrays in files: keys, ranges, splits, IDX, and files that are not what they say."""

import gzip
import json

import numpy as np
import pytest

from vqjax.data.sources import arrays, hold_out
from vqjax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 5, 6, 3), np.uint8)


def load(path, **content):
  if content:
    np.savez(path, **content)
  source = arrays.Source(str(path))
  return source.examples("train"), source.examples("eval")


@pytest.mark.parametrize("images,labels", [("images", "labels"), ("x", "y"), ("image", "label")])
def test_keys_and_hold_out(tmp_path, images, labels):
  train, held = load(tmp_path / "a.npz", **{images: IMAGES, labels: np.arange(40)[:, None]})
  which = [int(rows[i]["label"]) for rows in (train, held) for i in range(len(rows))]
  assert sorted(which) == list(range(40)) and 0 < len(held) < 12
  np.testing.assert_array_equal(train[3]["image"], IMAGES[which[3]])
  assert train[0]["label"].dtype == np.int32


def test_hold_out_is_one_in_ten_and_never_empty():
  assert 0.09 < hold_out([str(i) for i in range(20_000)]).mean() < 0.115
  assert hold_out(["a", "b"]).sum() == 1
  many = [str(i) for i in range(100)]
  np.testing.assert_array_equal(
    hold_out(many)[:50], hold_out(many[:50])
  )  # more data does not move examples


def test_splits_named_in_the_file(tmp_path):
  train, held = load(
    tmp_path / "a.npz", x_train=IMAGES[:30], y_train=np.zeros(30, int), x_test=IMAGES[30:]
  )
  assert (len(train), len(held)) == (30, 10) and "label" in train[0] and "label" not in held[0]
  test = np.arange(40) % 4 == 0
  split = np.where(test, "val", "train")
  for i, key in enumerate(({"test": test}, {"test": test.astype(int)}, {"split": split})):
    train, held = load(tmp_path / f"{i}.npz", images=IMAGES, **key)
    np.testing.assert_array_equal(np.stack([held[i]["image"] for i in range(10)]), IMAGES[test])


def test_one_in_ten_of_training_alone_is_held_out(tmp_path):
  write_idx(tmp_path, train=IMAGES[..., 0])
  for name in ("images-idx3-ubyte.gz", "labels-idx1-ubyte"):
    (tmp_path / f"t10k-{name}").unlink()
  content = dict(x_train=IMAGES, y_train=np.arange(40))
  for train, held in (load(tmp_path / "a.npz", **content), load(tmp_path)):
    labels = [int(rows[i]["label"]) for rows in (train, held) for i in range(len(rows))]
    assert sorted(labels) == list(range(40)) and 0 < len(held) < 12


def test_layout_grey_and_npy(tmp_path):
  train, _ = load(tmp_path / "a.npz", images=IMAGES[..., 0], labels=IMAGES[..., 1])
  np.testing.assert_array_equal(train[0]["layout"], IMAGES[0, ..., 1])
  assert train[0]["image"].shape == (5, 6, 1) and "label" not in train[0]
  np.save(tmp_path / "b.npy", IMAGES)
  assert load(tmp_path / "b.npy")[0][0]["image"].shape == (5, 6, 3)


def test_captions(tmp_path):
  texts = [f"picture {i}" for i in range(40)]
  train, _ = load(tmp_path / "a.npz", images=IMAGES, captions=np.array(texts))
  assert train[0]["text"] == "picture 0"
  (tmp_path / "captions.json").write_text(
    json.dumps([{"caption": t, "split": "test" if i < 5 else "train"} for i, t in enumerate(texts)])
  )
  train, held = load(tmp_path / "b.npz", images=IMAGES)
  assert len(held) == 5 and train[0]["text"] == "picture 5"
  (tmp_path / "captions.json").write_text(json.dumps([[t, t + " again"] for t in texts]))
  assert load(tmp_path / "d.npz", images=IMAGES)[0][0]["text"] in [[t, t + " again"] for t in texts]
  (tmp_path / "captions.json").write_text(json.dumps([["a", 5]] * 40))
  with pytest.raises(UserError, match="'a', 5.* is no caption"):
    load(tmp_path / "e.npz", images=IMAGES)
  (tmp_path / "captions.json").write_text(json.dumps(texts[:3]))
  with pytest.raises(UserError, match="3 captions for 40 images"):
    load(tmp_path / "c.npz", images=IMAGES)


@pytest.mark.parametrize(
  "images,wanted",
  [
    (np.float32([0, 0.5, 1]), [0, 128, 255]),
    (np.float64([-1, 0, 1]), [0, 128, 255]),
    (np.float32([0, 7.2, 255]), [0, 7, 255]),
    (np.int64([0, 7, 255]), [0, 7, 255]),
    (np.array([False, True, True]), [0, 255, 255]),
  ],
)
def test_ranges(images, wanted):
  out = arrays.to_pixels(images.reshape(1, 3, 1), "f")
  assert out.dtype == np.uint8
  np.testing.assert_array_equal(out.ravel(), wanted)


def test_alpha_lies_on_white():
  out = arrays.to_pixels(np.array([[[[10, 20, 30, 255], [10, 20, 30, 0]]]], np.uint8), "f")
  np.testing.assert_array_equal(out, [[[[10, 20, 30], [255, 255, 255]]]])


@pytest.mark.parametrize(
  "content,message",
  [
    (dict(audio=np.zeros(9), rate=np.zeros(1)), "has no images.*found audio, rate"),
    (dict(images=IMAGES[0, 0]), r"shape \[6, 3\]"),
    (dict(images=IMAGES.transpose(0, 3, 1, 2)), "channels last"),
    (dict(images=IMAGES, labels=np.zeros(3, int)), "40 images but 3 entries of label"),
    (dict(images=IMAGES, labels=np.zeros(40)), "labels are float64"),
    (dict(images=IMAGES, labels=IMAGES[:, :3, :, 0]), "layout is uint8"),
    (dict(images=IMAGES * 300.0), "from 0.0 to 76500.0"),
    (dict(images=np.full((4, 2, 2), np.nan)), "from nan"),
    (dict(images=IMAGES.astype("U")), "give uint8"),
    (dict(images=IMAGES, captions=np.arange(40)), "captions are int64"),
    (dict(images=IMAGES, test=np.zeros(3, bool)), r"split has shape \[3\]"),
    (dict(images=IMAGES, test=np.arange(40)), "test is int64; give True or False for each image"),
    (dict(images=IMAGES, split=np.arange(40)), "split is int64; give 'train' or another word"),
    (dict(images=IMAGES, test=np.zeros(40, bool)), "no examples for the eval split"),
    (dict(images=IMAGES, captions=np.array(["a"] * 40, object)), "not as objects"),
  ],
)
def test_wrong_contents(tmp_path, content, message):
  with pytest.raises(UserError, match=message) as e:
    load(tmp_path / "a.npz", **content)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  "name,content",
  [
    ("a.npz", b""),
    ("a.npz", b"PK\x03\x04 nonsense"),
    ("a.npy", b"\x93NUMPY"),
    ("a.npz", b"hello"),
    ("a.txt", b"hello"),
  ],
)
def test_files_that_lie(tmp_path, name, content):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=name) as e:
    load(tmp_path / name)
  assert "\n" not in str(e.value)


def test_truncated_npz(tmp_path):
  np.savez(tmp_path / "whole.npz", images=IMAGES)
  (tmp_path / "a.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:900])
  with pytest.raises(UserError, match="damaged"):
    load(tmp_path / "a.npz")


def test_missing():
  with pytest.raises(UserError, match="does not exist"):
    arrays.Source("/nowhere/a.npz").examples("train")


def idx(values, magic=None):
  header = bytes([0, 0, 8, values.ndim]) if magic is None else magic
  return header + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()


def write_idx(folder, train=IMAGES[:30, ..., 0], test=IMAGES[30:, ..., 0]):
  for name, images in (("train", train), ("t10k", test)):
    (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(np.arange(len(images), dtype=np.uint8)))


def test_idx(tmp_path):
  write_idx(tmp_path)
  (tmp_path / "classes.json").write_text('["a", "b"]')
  train, held = load(tmp_path)
  assert (len(train), len(held)) == (30, 10) and held[3]["label"] == 3
  np.testing.assert_array_equal(held[3]["image"], IMAGES[33, ..., :1])
  assert arrays.Source(str(tmp_path)).class_names() == ("a", "b")


@pytest.mark.parametrize(
  "damage,message",
  [
    (lambda b: b[:-20], "cut short|cannot be read"),
    (
      lambda b: gzip.compress(gzip.decompress(b)[:-7]),
      r"header says 900 bytes \[30, 5, 6\], but 893 follow",
    ),
    (lambda b: gzip.compress(b"\x00\x00\x0d" + gzip.decompress(b)[3:]), "is not an IDX file"),
    (lambda b: b"plain text", "cannot be read"),
    (lambda b: gzip.compress(b""), "nothing"),
  ],
)
def test_damaged_idx(tmp_path, damage, message):
  write_idx(tmp_path)
  file = tmp_path / "train-images-idx3-ubyte.gz"
  file.write_bytes(damage(file.read_bytes()))
  with pytest.raises(UserError, match=message):
    load(tmp_path)


def test_idx_without_a_split(tmp_path):
  write_idx(tmp_path)
  (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
  with pytest.raises(UserError, match="no eval images"):
    load(tmp_path)


def test_real_files(real_data):
  train, held = load(real_data / "fashion_mnist")
  assert (len(train), len(held)) == (60_000, 10_000)
  pixels = train.columns["image"]
  assert (
    pixels.shape[1:] == (28, 28, 1) and round(float(pixels.mean()), 4) == 72.9404
  )  # as published
  assert np.bincount(train.columns["label"]).tolist() == [6_000] * 10
  assert arrays.Source(str(real_data / "fashion_mnist")).class_names()[0] == "T-shirt/top"
  train, held = load(real_data / "emoji" / "emoji64.npz")
  assert (len(train), len(held)) == (3243, 273) and train[0]["text"] == "keycap: #"
  train, held = load(real_data / "nuclei_layout" / "nuclei128.npz")
  assert len(train) + len(held) == 664 and train[0]["layout"].max() <= 2


def test_arrays_of_video(tmp_path):
  video = np.random.default_rng(0).integers(0, 256, (20, 3, 6, 8, 3)).astype(np.uint8)
  np.savez(tmp_path / "a.npz", videos=video, labels=np.arange(20), test=np.arange(20) < 5)
  np.save(tmp_path / "b.npy", (video / 255).astype(np.float32))
  for file, held in (("a.npz", video[:5]), ("b.npy", None)):
    source = arrays.Source(str(tmp_path / file))
    examples = source.examples("eval")
    assert examples[0].keys() >= {"video", "name"} and "image" not in examples[0]
    if held is not None:
      np.testing.assert_array_equal([examples[i]["video"] for i in range(len(examples))], held)
      assert examples[2]["label"] == 2
    assert len(examples) + len(source.examples("train")) == 20
  with pytest.raises(UserError, match="give .N, H, W. or"):
    np.save(tmp_path / "c.npy", video[..., :2])
    arrays.Source(str(tmp_path / "c.npy")).examples("train")
