"""Batches of sources with random access: order, process split, resuming, exact evaluation, and no
TensorFlow.
"""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from vqjax import data
from vqjax.data import memory
from vqjax.data.ops import image as ops
from vqjax.errors import UserError

SHAPES = {"name": "shapes", "size": 16, "num_train": 37, "num_eval": 23}


@pytest.fixture
def arrays(tmp_path):
  """23 + 37 pictures whose label says which they are."""
  rng = np.random.default_rng(0)
  np.savez(
    tmp_path / "a.npz",
    x_train=rng.integers(0, 256, (37, 9, 12, 3), np.uint8),
    y_train=np.arange(37),
    x_test=rng.integers(0, 256, (23, 9, 12, 3), np.uint8),
    y_test=np.arange(23),
  )
  return {"name": "arrays", "path": str(tmp_path / "a.npz")}


def take(config, ops, batch_size, num, **kwargs):
  stream = data.Dataset(config, ops).train(batch_size, **{"seed": 0} | kwargs)
  batches = [next(stream) for _ in range(num)]
  stream.close()
  return batches


def same(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_batches_have_the_documented_types():
  (batch,) = take(SHAPES, {}, 5, 1)
  assert batch["image"].shape == (5, 16, 16, 3) and batch["image"].dtype == np.uint8
  assert batch["label"].shape == (5,) and batch["label"].dtype == np.int32
  assert batch["layout"].shape == (5, 16, 16) and batch["layout"].dtype == np.uint8
  assert (
    batch["attributes"].shape == (5, 3, 6)
    and isinstance(batch["text"], list)
    and len(batch["text"]) == 5
  )
  assert batch.keys() == {"image", "label", "text", "layout", "attributes"}


def test_every_epoch_holds_every_example_in_a_new_order(arrays):
  labels = np.concatenate([b["label"] for b in take(arrays, {}, 37, 3)]).reshape(3, 37)
  np.testing.assert_array_equal(np.sort(labels, axis=1), np.tile(np.arange(37), (3, 1)))
  assert (labels[0] != labels[1]).any() and (labels[1] != labels[2]).any()
  assert (labels[0] != take(arrays, {}, 37, 1, seed=1)[0]["label"]).any()


def test_processes_share_what_one_would_read(arrays):
  ops = {"size": 7, "crop": "random", "flip": True}
  whole = take(arrays, ops, 8, 6)
  parts = [take(arrays, ops, 4, 6, process_index=i, process_count=2) for i in range(2)]
  for all_of_it, *halves in zip(whole, *parts):
    assert same(all_of_it, {k: np.concatenate([h[k] for h in halves]) for k in all_of_it})
  first_epoch = [np.concatenate([b["label"] for b in p[:4]]) for p in parts]
  assert not set(first_epoch[0]) & set(first_epoch[1])


@pytest.mark.parametrize("step", [1, 7])
def test_resumes_exactly(arrays, step):
  ops = {"size": 7, "crop": "random_resized", "flip": True}
  whole, rest = take(arrays, ops, 8, step + 4), take(arrays, ops, 8, 4, step=step)
  assert all(same(a, b) for a, b in zip(whole[step:], rest))
  assert not same(whole[0], whole[1])


def test_the_same_picture_is_cropped_anew_in_the_next_epoch(arrays):
  first, second = take(arrays, {"size": 7, "crop": "random"}, 37, 2)
  a, b = (batch["image"][np.argsort(batch["label"])] for batch in (first, second))
  assert (a != b).any((1, 2, 3)).mean() > 0.8


@pytest.mark.parametrize("config", ["arrays", "shapes"])
@pytest.mark.parametrize(
  "count,batch_size,limit", [(1, 8, None), (2, 5, None), (3, 8, 10), (2, 16, 1), (1, 23, None)]
)
def test_evaluation_is_exact(arrays, config, count, batch_size, limit):
  config = arrays if config == "arrays" else SHAPES
  parts = [
    list(
      data.Dataset(config).batches(batch_size, process_index=i, process_count=count, limit=limit)
    )
    for i in range(count)
  ]
  assert len({len(p) for p in parts}) == 1
  for batch, mask in sum(parts, []):
    assert batch["image"].shape[0] == batch_size == mask.size and mask.dtype == np.float32
  seen = np.concatenate([b["image"][m > 0] for step in zip(*parts) for b, m in step])
  source = data.Dataset(config).source.examples("eval")
  wanted = [source[i]["image"] for i in range(min(limit or 23, 23))]
  np.testing.assert_array_equal(seen, wanted)


def test_sample_is_spread_over_the_split(arrays):
  assert data.Dataset(arrays).sample(4)["label"].tolist() == [0, 5, 11, 17]
  assert data.Dataset(arrays).sample(46)["label"].tolist() == sorted([*range(23)] * 2)


def test_counts_and_names(arrays):
  assert data.Dataset(arrays).size("train") == 37 and data.Dataset(SHAPES).size() == 23
  assert data.Dataset(SHAPES).class_names[0] == "circle" and data.Dataset(arrays).class_names == ()


class Holes:
  """A source whose splits have every third file unreadable."""

  def examples(self, split):
    return self

  def __len__(self):
    return 10

  def __getitem__(self, index):
    return None if index % 3 == 0 else {"image": np.full((2, 2, 1), index, np.uint8)}


def reader(source, **fields):
  return memory.Reader(source, ops.Ops(**fields))


def test_unreadable_examples_are_replaced_in_training_and_masked_in_evaluation():
  stream = reader(Holes()).train(10, 0, 0, 0, 1)
  values = next(stream)["image"][:, 0, 0, 0]
  stream.close()
  assert sorted(values) == [1, 1, 1, 2, 4, 4, 5, 7, 7, 8]
  ((batch, mask),) = reader(Holes()).batches(10, "eval", 0, 1, None)
  np.testing.assert_array_equal(mask, [0, 1, 1, 0, 1, 1, 0, 1, 1, 0])


def test_one_example_costs_the_same_whatever_the_size_of_the_split():
  class Many(Holes):
    def __len__(self):
      return 10**15  # no list of its indices fits anywhere

  assert memory.Loader(Many(), ops.Ops()).read(6)[1] == 7


def test_examples_without_an_image_pass_the_ops():
  class Numbers(Holes):
    def __getitem__(self, index):
      return {"ids": np.full((2, 3), index, np.int32), "name": f"codes {index}"}

  ((batch, mask),) = reader(Numbers(), size=8).batches(10, "eval", 0, 1, None)
  assert (
    batch.keys() == {"ids"} and batch["ids"][:, 0, 0].tolist() == list(range(10)) and mask.all()
  )


def test_examples_of_another_kind_are_refused_before_they_are_batched():
  class Sounds(Holes):
    def __getitem__(self, index):
      return {"audio": np.zeros((9 + index, 1), np.float32), "label": np.int32(0)}

  with pytest.raises(UserError, match="ops.name: treats image and layout, but the data yield") as e:
    reader(Sounds()).train(4, 0, 0, 0, 1)
  assert "audio" in str(e.value) and "\n" not in str(e.value)


def test_unlike_shapes_are_named():
  class Unlike(Holes):
    def __getitem__(self, index):
      return {"image": np.zeros((2, 2 + index // 9, 1), np.uint8), "name": f"picture {index}"}

  with pytest.raises(
    UserError, match=r"picture 9: is 3x2x1, others are 2x2x1; set config\.ops\.size"
  ):
    list(reader(Unlike()).batches(4, "eval", 0, 1, None))


def test_an_error_in_the_background_reaches_the_caller(arrays):
  with pytest.raises(UserError, match="smaller than crop='random' with size=10"):
    take(arrays, {"size": 10, "crop": "random"}, 4, 1)


@pytest.mark.parametrize(
  "config,message",
  [
    ({"path": "x"}, "has no 'name'"),
    ({"name": "shape"}, "Did you mean 'shapes'"),
    ({"name": "shapes", "sise": 32}, r"config\.data\(shapes\)\.sise: unknown field.*'size'"),
    ({"name": "shapes", "size": 32.0}, "is a float, not int"),
    ({"name": "shapes", "size": 8}, "size: 8 is out of range; give a number at least 16"),
    ({"name": "folder"}, r"config\.data\(folder\): needs path"),
  ],
)
def test_bad_config(config, message):
  with pytest.raises(UserError, match=message):
    data.Dataset(config).train(4, seed=0)


def test_the_source_and_the_ops_are_checked_once_when_they_are_built(arrays):
  dataset = data.Dataset(arrays, {"size": 6})
  assert dataset.ops == ops.Ops(size=6) and dataset.source.path == arrays["path"]
  assert dataset.made_by is None and dataset.class_names == ()
  with pytest.raises(UserError, match=r"config\.ops\.sise: unknown field"):
    data.Dataset(SHAPES, {"sise": 3})


def write_folder(path, images):
  for i, image in enumerate(images):
    (path / f"{i // 37}").mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path / f"{i // 37}" / f"{i:02d}.png")
  return {"name": "folder", "path": str(path)}


def write_arrays(path, images):
  np.savez(path.with_suffix(".npz"), images=images)
  return {"name": "arrays", "path": f"{path}.npz"}


def write_codes(path, images):
  path.mkdir()
  splits = {}
  for split, rows in (("train", images[:37]), ("eval", images[37:])):
    np.save(path / f"{split}.npy", rows[:, :2, :2, 0].astype(np.uint16))
    splits[split] = [{"examples": len(rows), "files": {"ids": f"{split}.npy"}}]
  manifest = {"tokenizer": "abc", "class_names": [], "splits": splits, "workdir": str(path)}
  (path / "manifest.json").write_text(json.dumps(manifest))
  return {"name": "codes", "path": str(path)}


@pytest.mark.parametrize("file", ["eval.npy", "manifest.json", "text.json"])
def test_codes_that_were_cut_off(tmp_path, file):
  config = write_codes(tmp_path / "codes", np.zeros((60, 8, 9, 3), np.uint8))
  manifest = json.loads((tmp_path / "codes" / "manifest.json").read_text())
  manifest["splits"]["eval"][0]["files"]["text"] = "text.json"
  (tmp_path / "codes" / "manifest.json").write_text(json.dumps(manifest))
  (tmp_path / "codes" / "text.json").write_text(json.dumps(["a"] * 23))
  assert data.Dataset(config).sample(2)["text"] == ["a", "a"]
  content = (tmp_path / "codes" / file).read_bytes()
  (tmp_path / "codes" / file).write_bytes(content[: len(content) // 2])
  with pytest.raises(UserError, match="write the codes with python -m vqjax.tokenize anew") as e:
    data.Dataset(config).sample(2)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("write", [write_arrays, write_folder, write_codes])
def test_a_fingerprint_knows_the_data_and_not_their_place(tmp_path, write):
  images = np.random.default_rng(0).integers(0, 256, (60, 8, 9, 3), np.uint8)
  print_of = lambda name, images: data.Dataset(write(tmp_path / name, images)).fingerprint()
  here = print_of("here", images)
  assert here["train"] + here["eval"] == 60 and json.loads(json.dumps(here)) == here
  assert print_of("there", images) == here
  assert print_of("changed", images ^ 1)["sample"] != here["sample"]
  assert print_of("fewer", images[:-1]) != here
  assert here.get("tokenizer") == ("abc" if write is write_codes else None)


def test_a_fingerprint_of_scenes():
  here = data.Dataset(SHAPES).fingerprint()
  assert (here["train"], here["eval"]) == (37, 23) and here == data.Dataset(SHAPES).fingerprint()
  assert data.Dataset({**SHAPES, "seed": 1}).fingerprint()["sample"] != here["sample"]


def test_works_without_tensorflow(tmp_path):
  np.savez(tmp_path / "a.npz", images=np.zeros((20, 8, 8, 3), np.uint8))
  codes = write_codes(tmp_path / "codes", np.zeros((60, 8, 8, 3), np.uint8))
  (tmp_path / "folder").mkdir()
  for i in range(20):
    Image.new("RGB", (8, 8)).save(tmp_path / "folder" / f"{i}.png")
  code = f"""
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
from vqjax import data
from vqjax.errors import UserError
files = [data.resolve(path) for path in {[str(tmp_path / name) for name in ("a.npz", "folder")]!r}]
sources = {{"name": "shapes", "size": 16}}, *files, {codes}
for field, source in zip(("image", "image", "image", "ids"), sources):
  dataset = data.Dataset(source, {{"size": 8}})
  stream = dataset.train(4, seed=0)
  shape = next(stream)[field].shape
  stream.close()
  assert shape == next(dataset.batches(4))[0][field].shape == dataset.sample(4)[field].shape
  assert dataset.fingerprint()["sample"]
try:
  data.Dataset({{"name": "tfds", "dataset": "mnist"}}, {{}}).train(4, seed=0)
except UserError as e:
  print(e)
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert "'tfds' needs TensorFlow" in done.stdout and "pip install" in done.stdout


def test_a_split_without_a_readable_example_is_an_error():
  class Broken(Holes):
    def __getitem__(self, index):
      return None

  with pytest.raises(UserError, match="no example of this split can be read"):
    reader(Broken()).sample(1, "eval")


def test_training_batches_are_made_by_several_threads_and_come_in_order(monkeypatch):
  """The batches of steps 0 and 1 wait for each other, those of steps 2 and 3 as well; the earlier
  one is finished last.
  """
  monkeypatch.setattr(memory.sharding, "threads", lambda: 2)
  meet = threading.Barrier(2)
  finished = [threading.Event() for _ in range(20)]

  def load(counter):
    if counter < 4:
      meet.wait(timeout=20)
      assert counter % 2 or finished[counter + 1].wait(timeout=20)
      finished[counter].set()
    return {"label": np.int32(counter)}

  stream = memory.MemoryStream(load, 1, 0, 0, 1)
  assert [int(next(stream)["label"][0]) for _ in range(8)] == list(range(8))
  stream.close()
