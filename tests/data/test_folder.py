"""A folder of images: splits, classes, captions and bad files."""

import csv
import json
import logging

import numpy as np
import pytest
from PIL import Image

from vqjax import data
from vqjax.data.sources import _files, folder as source, frames
from vqjax.errors import UserError


def write(path, value=0, size=(4, 4)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", size, (value, value, value)).save(path)


def load(root):
  return source.Source(str(root)).examples("train"), source.Source(str(root)).examples("eval")


def test_plain_folder_is_split_by_name(tmp_path):
  for i in range(60):
    write(tmp_path / f"{i}.png", i)
  train, held = load(tmp_path)
  assert sorted(train.names + held.names) == sorted(f"{i}.png" for i in range(60))
  assert 0 < len(held) < 15 and train.classes == ()
  for i in (0, 5):
    assert train[i]["image"][0, 0, 0] == int(train.names[i].split(".")[0]) and train[i].keys() == {
      "image",
      "name",
    }


def test_what_was_read_is_kept_while_there_is_room(tmp_path, monkeypatch):
  monkeypatch.setattr(_files, "KEPT", 3 * 4 * 4 * 5)  # five pictures
  for i in range(20):
    write(tmp_path / "train" / f"{i}.png", i)
  train, _ = load(tmp_path)
  first = [train[i] for i in range(len(train))]
  assert not first[0]["image"].flags.writeable and first[-1]["image"].flags.writeable
  for i in range(20):
    write(tmp_path / "train" / f"{i}.png", 100)
  for i, example in enumerate(first):
    now = train[i]
    assert now["name"] == example["name"]
    assert (now["image"] == (example["image"] if i < 5 else 100)).all()
  train.kept.add("film", {"video": range(9)})  # the list of its pictures takes room, too
  assert train.kept.get("film") is None


@pytest.mark.parametrize("evaluation", ["eval", "validation", "valid", "val", "Test"])
def test_split_folders_and_classes(tmp_path, evaluation):
  write(tmp_path / "train" / "b" / "1.png")
  write(tmp_path / "train" / "a" / "deep" / "2.jpg")
  write(tmp_path / evaluation / "a" / "3.webp")
  write(tmp_path / evaluation / "c" / "4.bmp")
  train, held = load(tmp_path)
  assert train.names == (
    "train/a/deep/2.jpg",
    "train/b/1.png",
  ) and train.classes == held.classes == ("a", "b", "c")
  assert [train[i]["label"] for i in range(2)] == [0, 1] and [
    held[i]["label"] for i in range(2)
  ] == [0, 2]


def test_train_folder_alone_is_held_out_from(tmp_path, caplog):
  for i in range(30):
    write(tmp_path / "train" / f"{i}.png")
  write(tmp_path / "other" / "x.png")
  with caplog.at_level(logging.WARNING):
    train, held = load(tmp_path)
  assert len(train) + len(held) == 30 and all(
    n.startswith("train/") for n in train.names + held.names
  )
  assert "1 images outside train" in caplog.text


def test_no_labels_where_images_lie_beside_folders(tmp_path):
  for name in ("a/1.png", "b/2.png", "3.png"):
    write(tmp_path / name)
  assert load(tmp_path)[0].classes == ()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
@pytest.mark.parametrize("split", ["", "train/"])
def test_captions(tmp_path, kind, split):
  texts = {f"{i:02d}.png": f'caption {i}, "quoted"' for i in range(8)}
  for name in texts:
    write(tmp_path / split / name)
  if kind == "csv":
    with (tmp_path / split / "metadata.csv").open("w", newline="") as f:
      csv.writer(f).writerows([("file_name", "text"), *texts.items()])
  elif kind == "jsonl":
    (tmp_path / split / "metadata.jsonl").write_text(
      "\n".join(json.dumps({"file_name": n, "text": t}) for n, t in texts.items()) + "\n\n"
    )
  else:
    for name, text in texts.items():
      (tmp_path / split / name).with_suffix(".txt").write_text(text + "\n")
  train, held = load(tmp_path)
  for files in (train, held):
    for i in range(len(files)):
      assert files[i]["text"] == texts[files.names[i].removeprefix(split)]


def test_folders_of_frames_have_captions_and_are_listed_once(tmp_path, monkeypatch):
  for i in range(8):
    for frame in range(2):
      write(tmp_path / f"v{i}" / f"{frame}.png")
    (tmp_path / f"v{i}" / "0.txt").write_text("of a frame")
    (tmp_path / f"v{i}.txt").write_text(f"caption {i}")
  split = frames.Source(str(tmp_path)).examples("train")
  first = split[0]
  assert [first["text"], len(first["video"])] == [f"caption {split.names[0][1:]}", 2]
  monkeypatch.setattr(frames, "_files_of", None)  # what was found is kept
  assert split[0]["video"] is first["video"]


@pytest.mark.parametrize(
  "file, lines",
  [
    ("metadata.csv", ["file_name,text", *(f"{i}.png,{i} {w}" for w in "ab" for i in range(8))]),
    (
      "metadata.jsonl",
      [json.dumps({"file_name": f"{i}.png", "text": [f"{i} a", f"{i} b"]}) for i in range(8)],
    ),
  ],
)
def test_several_captions(tmp_path, file, lines):
  for i in range(8):
    write(tmp_path / f"{i}.png")
  (tmp_path / file).write_text("\n".join(lines))
  train, _ = load(tmp_path)
  for i, name in enumerate(train.names):
    assert train[i]["text"] == (f"{name[0]} a", f"{name[0]} b")


@pytest.mark.parametrize(
  "file,content,message",
  [
    ("metadata.csv", "name,text\na.png,x\n", "entry 1 needs file_name and text"),
    ("metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{"file_name"\n', "entry 2 needs"),
    (
      "metadata.csv",
      "file_name,text\nelsewhere.png,x\n",
      "no caption names one of this folder.s images",
    ),
  ],
)
def test_bad_captions(tmp_path, file, content, message):
  write(tmp_path / "a.png")
  (tmp_path / file).write_text(content)
  with pytest.raises(UserError, match=message):
    load(tmp_path)


def test_a_table_without_captions_is_passed_over(tmp_path, caplog):
  for name in "ab":
    write(tmp_path / f"{name}.png")
  (tmp_path / "metadata.csv").write_text("image_id,diagnosis\na,x\n")
  train, _ = load(tmp_path)
  assert train.texts is None and "metadata.csv: has no column text" in caplog.text


def test_a_bad_file_is_left_out_and_named_once(tmp_path, caplog):
  for i in range(40):
    write(tmp_path / "train" / f"{i:02d}.png", i)
    write(tmp_path / "eval" / f"{i:02d}.png", i)
  for n, cut in ((7, 30), (11, 0)):
    file = tmp_path / "train" / f"{n:02d}.png"
    file.write_bytes(file.read_bytes()[:cut])
  train, _ = load(tmp_path)
  with caplog.at_level(logging.WARNING):
    assert train[7] is None and train[11] is None and train[7] is None
    assert train[8]["image"][0, 0, 0] == 8
  assert caplog.text.count("07.png") == 1 and "2 of 80 so far" in caplog.text


def test_too_many_bad_files_are_an_error(tmp_path):
  for i in range(20):
    write(tmp_path / f"{i}.png")
    if i < 2:
      (tmp_path / f"{i}.png").write_text("not an image")
  train, held = load(tmp_path)
  with pytest.raises(UserError, match="2 of 20 images cannot be read, more than 5%"):
    for files in (train, held):
      for i in range(len(files)):
        files[i]


def test_empty_and_missing(tmp_path):
  with pytest.raises(UserError, match="has no images"):
    load(tmp_path)
  with pytest.raises(UserError, match="is not a folder"):
    load(tmp_path / "nowhere")
  write(tmp_path / "only.png")
  with pytest.raises(UserError, match="no images for the eval split"):
    load(tmp_path)


def test_real_photographs(real_data):
  train, held = load(real_data / "sign_digits64")
  assert len(train) + len(held) == 2_062 and train.classes == tuple("0123456789")
  assert train[0]["image"].shape == (64, 64, 3) and np.ptp(train[0]["image"]) > 50


def test_a_file_that_is_gone_is_left_out_of_the_fingerprint(tmp_path, caplog):
  for i in range(40):
    write(tmp_path / f"{i:02d}.png", i)
  train, _ = load(tmp_path)
  (tmp_path / train.names[0]).unlink()
  assert train.content(0) is None and train.content(1)["file"].dtype == np.uint8
  assert train.names[0] in caplog.text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """40 pictures in a folder each, so that the label says which they are; two are unreadable."""
  root = tmp_path_factory.mktemp("folder")
  for i in range(44):
    file = root / ("train" if i < 40 else "eval") / f"{i % 40:02d}" / "a.png"
    file.parent.mkdir(parents=True)
    image = np.random.default_rng(i).integers(0, 256, (9, 10 + i % 3, 3), np.uint8)
    Image.fromarray(image).save(file)
    file.with_suffix(".txt").write_text(f"picture {i}")
  for i in (3, 17):
    (root / "train" / f"{i:02d}" / "a.png").write_bytes(b"damaged")
  return {"name": "folder", "path": str(root)}


def taken(config, batch_size, num, ops):
  stream = data.Dataset(config, ops).train(batch_size, seed=0)
  batches = [next(stream) for _ in range(num)]
  stream.close()
  return batches


def test_every_epoch_holds_every_readable_example(folder):
  first, second = (b["label"] for b in taken(folder, 40, 2, {"size": 4}))
  assert set(first) == set(second) == set(range(40)) - {3, 17} and (first != second).any()
  assert data.Dataset(folder).size() == 4 and data.Dataset(folder).class_names[:2] == ("00", "01")
  assert data.Dataset(folder, {"size": 9, "channels": 1}).sample(3)["image"].shape == (3, 9, 9, 1)


def test_evaluation_masks_what_cannot_be_read(folder):
  seen = [
    x
    for b, m in data.Dataset(folder, {"size": 9}).batches(7, split="train")
    for x in b["label"][m > 0]
  ]
  assert seen == sorted(set(range(40)) - {3, 17})


def test_errors_inside_the_pipeline_come_out_whole(folder, tmp_path):
  with pytest.raises(UserError, match=r"a\.png: is 1\dx9x3, others are 1\dx9x3"):
    taken(folder, 8, 5, {})
  for i in range(20):
    Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    if i in (4, 9, 11):
      (tmp_path / f"{i}.png").write_bytes(b"damaged")
  with pytest.raises(UserError, match="of 20 images cannot be read, more than 5%"):
    taken({"name": "folder", "path": str(tmp_path)}, 8, 20, {"size": 7})


def test_small_images_in_the_pipeline(tmp_path):
  for i in range(40):
    Image.new("RGB", (8, 5 if i == 20 else 8)).save(tmp_path / f"{i}.png")
  with pytest.raises(UserError, match=r"20\.png: is 8x5, smaller than crop='random' with size=6"):
    taken({"name": "folder", "path": str(tmp_path)}, 8, 20, {"size": 6, "crop": "random"})
