"""TFDS: order, process split, exact resuming in a fresh process, errors in one line."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

from vqjax import data  # noqa: E402
from vqjax.errors import UserError  # noqa: E402

SEVERAL = ("picture", "number", "the")  # see the fixture `tfds_pictures`
OPS = {"size": 7, "crop": "random_resized", "flip": True}


def take(config, batch_size, num, ops=OPS, **kwargs):
  stream = data.Dataset(config, ops).train(batch_size, **{"seed": 0} | kwargs)
  batches = [next(stream) for _ in range(num)]
  stream.close()
  return batches


def same(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_deterministic_batches(tfds_pictures):
  a, b, c = (take(tfds_pictures, 6, 12, seed=seed) for seed in (0, 0, 1))
  assert all(map(same, a, b)) and not any(map(same, a, c))
  assert (
    a[0]["image"].shape == (6, 7, 7, 3)
    and a[0]["image"].dtype == np.uint8
    and a[0]["label"].dtype == np.int32
  )
  for text, label in zip(a[0]["text"], a[0]["label"]):
    assert text == f"picture {label}"


def test_every_epoch_holds_every_example(tfds_pictures):
  first, second = (b["label"] for b in take(tfds_pictures, 50, 2, {"size": 4}))
  assert set(first) == set(second) == set(range(50)) and (first != second).any()


def test_one_of_several_captions_is_drawn_each_epoch(tfds_pictures):
  several = tfds_pictures | {"text": "captions/text"}
  dataset, seen = data.Dataset(several, OPS), {}
  for batch in take(several, 10, 5 * 12):
    for text, label in zip(batch["text"], batch["label"]):
      assert text in [f"{word} {label}" for word in SEVERAL]
      seen.setdefault(int(label), []).append(text)
  assert all(len(texts) == 12 for texts in seen.values())
  words = [text.split()[0] for texts in seen.values() for text in texts]
  assert min(words.count(word) for word in SEVERAL) > 600 / 3 * 0.8
  assert np.mean([len(set(texts)) == 3 for texts in seen.values()]) > 0.9
  assert set(dataset.texts()) == {f"{word} {i}" for word in SEVERAL for i in range(50)}
  for how, wanted in (("one", SEVERAL[0]), ("all", [f"{word} {{}}" for word in SEVERAL])):
    ((batch, _),) = dataset.batches(13, texts=how)
    for text, label in zip(batch["text"], batch["label"]):
      one = how == "one"
      assert text == (f"{wanted} {label}" if one else [word.format(label) for word in wanted])


def test_tfds_processes_have_parts_of_their_own(tfds_pictures):
  parts = [
    take(tfds_pictures, 25, 1, process_index=i, process_count=2)[0]["label"] for i in range(2)
  ]
  assert sorted(np.concatenate(parts)) == list(range(50))


RESUME = """
import json, pathlib, sys
from vqjax import data
config, ops, directory = json.loads(sys.argv[1])
stream = data.Dataset(config, ops).train(6, seed=0, step=11)
stream.restore(pathlib.Path(directory))
print(json.dumps([[b["text"], b["image"].tolist()] for b, _ in zip(stream, range(15))]))
"""  # and leaves without closing: a process must end all the same


def test_resumes_exactly_in_a_fresh_process(tfds_pictures, tmp_path):
  stream = data.Dataset(tfds_pictures, OPS).train(6, seed=0)
  for _ in range(11):
    next(stream)
  stream.save(tmp_path)
  assert any(tmp_path.glob("data-00000-of-00001*"))
  wanted = [[b["text"], b["image"].tolist()] for b, _ in zip(stream, range(15))]
  stream.close()
  done = subprocess.run(
    [sys.executable, "-c", RESUME, json.dumps([tfds_pictures, OPS, str(tmp_path)])],
    capture_output=True,
    text=True,
    timeout=180,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert json.loads(done.stdout.splitlines()[-1]) == wanted


def test_restoring_with_another_number_of_processes_says_so(tfds_pictures, tmp_path):
  data.Dataset(tfds_pictures, OPS).train(6, seed=0).save(tmp_path)
  stream = data.Dataset(tfds_pictures, OPS).train(6, seed=0, process_index=0, process_count=2)
  with pytest.raises(UserError, match="saved by 1 processes, not 2"):
    stream.restore(tmp_path)


@pytest.mark.parametrize(
  "count,batch_size,limit", [(1, 4, None), (2, 4, None), (3, 4, None), (2, 3, 5), (1, 13, None)]
)
def test_tfds_evaluation_is_exact(tfds_pictures, count, batch_size, limit):
  parts = [
    list(
      data.Dataset(tfds_pictures, {"size": 9}).batches(
        batch_size, process_index=i, process_count=count, limit=limit
      )
    )
    for i in range(count)
  ]
  assert len({len(p) for p in parts}) == 1
  order = [b["label"].tolist() for b, _ in data.Dataset(tfds_pictures, {"size": 9}).batches(1)]
  seen = [
    [label]
    for step in zip(*parts)
    for b, m in step
    for label, ok in zip(b["label"].tolist(), m)
    if ok
  ]
  assert seen == order[:limit] and sorted(sum(order, [])) == list(range(13))


def test_counts_names_and_samples(tfds_pictures):
  dataset = data.Dataset(tfds_pictures, {"size": 9})
  assert dataset.fingerprint() == dict(train=50, eval=13, dataset="tiny", version="1.0.0")
  assert dataset.size("train") == 50 and len(dataset.class_names) == 50
  assert dataset.sample(15)["image"].shape == (15, 9, 9, 3)


@pytest.mark.parametrize(
  "fields,message",
  [
    ({"dataset": "cifar"}, "TFDS knows no 'cifar'"),
    ({"dataset": "mnist"}, "is not prepared in .*no network.*--data=PATH"),
    ({"dataset": "mnist:99.0.0"}, "99.0.0"),
    ({"dataset": ""}, "config.data.dataset"),
  ],
)
def test_missing_datasets_are_one_quick_line(tmp_path, fields, message, monkeypatch):
  monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no network, wherever the test runs
  start = time.monotonic()
  with pytest.raises(UserError, match=message) as e:
    data.Dataset({"name": "tfds", "data_dir": str(tmp_path), **fields}).train(4, seed=0)
  assert "\n" not in str(e.value) and time.monotonic() - start < 10


def test_missing_splits_and_features(tfds_pictures):
  with pytest.raises(
    UserError, match=r"config\.data\.eval_split: tiny has no split 'valid'; it has"
  ):
    data.Dataset({**tfds_pictures, "eval_split": "valid"}).size()
  with pytest.raises(
    UserError, match=r"config\.data\.image: tiny has no image feature 'label'; it has image"
  ):
    data.Dataset({**tfds_pictures, "image": "label"}).train(4, seed=0)
  with pytest.raises(UserError, match="fewer examples than processes"):
    data.Dataset(tfds_pictures).train(4, seed=0, process_count=51)


class Sounds(tfds.core.GeneratorBasedBuilder):
  """Two steps of a stair each, as TFDS keeps 16 bits."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = {
      "audio": tfds.features.Audio(sample_rate=4_000),
      "label": tfds.features.ClassLabel(num_classes=3),
    }
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(6), "test": self._generate_examples(3)}

  def _generate_examples(self, num):
    for i in range(num):
      stair = np.int64([8_192 * (1 + i % 3)] * 50 + [-16_384] * 50)
      yield i, {"audio": stair, "label": i % 3}


def test_tfds_sound(tmp_path):
  Sounds(data_dir=str(tmp_path)).download_and_prepare()
  config = {"name": "tfds", "dataset": "sounds", "data_dir": str(tmp_path), "shuffle_buffer": 4}
  dataset = data.Dataset(config, dict(name="audio", rate=4_000, length=120, crop="start"))
  ((batch, mask),) = dataset.batches(3)
  assert batch.keys() == {"audio", "label"} and batch["audio"].shape == (3, 120, 1) and mask.all()
  for sound, label in zip(batch["audio"][..., 0], batch["label"]):
    assert (sound[:50] == (1 + label) / 4).all() and (sound[50:100] == -0.5).all()
    assert not sound[100:].any()
  stream = dataset.train(2, seed=0)
  assert next(stream)["audio"].dtype == np.float32
  stream.close()
