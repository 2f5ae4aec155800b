"""tf.data: batches of TFDS records, with an iterator that is saved and restored exactly."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from vqjax import pictures  # noqa: E402
from vqjax.data import memory, ops as ops_lib  # noqa: E402
from vqjax.errors import UserError  # noqa: E402

tf.config.set_visible_devices([], "GPU")  # The accelerator's memory is JAX's.

Example = dict[str, Any]


class TfStream:
  """Batches of a tf.data.Dataset of finished examples."""

  def __init__(
    self, dataset: tf.data.Dataset, caught: list[Exception], batch_size: int, index: int, count: int
  ):
    options = tf.data.Options()
    options.deterministic = True
    self._held = [
      iter(dataset.batch(batch_size, drop_remainder=True).prefetch(2).with_options(options))
    ]
    self._caught, self._index, self._count = caught, index, count
    # Threads that are still calling back into Python when it exits would hang there.
    self.close = weakref.finalize(self, self._held.clear)

  def __iter__(self) -> TfStream:
    return self

  def __next__(self) -> memory.Batch:
    try:
      return _numpy(next(self._held[0]))
    except tf.errors.OpError:
      if self._caught:
        raise self._caught[0] from None
      raise

  def _file(self, directory: pathlib.Path) -> str:
    return str(pathlib.Path(directory) / f"data-{self._index:05d}-of-{self._count:05d}")

  def save(self, directory: pathlib.Path) -> None:
    tf.train.Checkpoint(iterator=self._held[0]).write(self._file(directory))

  def restore(self, directory: pathlib.Path) -> None:
    """Raises UserError where the position was saved by another number of processes."""
    saved = {
      p.name.split("-of-")[1].split(".")[0]
      for p in pathlib.Path(directory).glob("data-*-of-*.index")
    }
    if saved and f"{self._count:05d}" not in saved:
      raise UserError(
        f"{directory}: the data position was saved by {int(saved.pop())} processes, "
        f"not {self._count}; continue with as many."
      )
    tf.train.Checkpoint(iterator=self._held[0]).read(self._file(directory)).assert_consumed()


class Records:
  """A source of records, with the methods of `memory.Reader`."""

  def __init__(self, source: Any, ops: Any):
    self._source, self._ops = source, ops
    self._finish: dict[str, _Finish] = {}

  def _finisher(self, split: str) -> _Finish:
    if split not in self._finish:
      self._finish[split] = _Finish(self._source, self._ops, split)
    return self._finish[split]

  def size(self, split: str) -> int:
    return self._source.num_examples(split)

  def train(self, batch_size: int, seed: int, step: int, index: int, count: int) -> TfStream:
    """The random ops draw from (seed, the record's number among all processes). The position is
    saved and restored, so `step` is not looked at.
    """
    del step
    records = self._source.records("train", seed=seed, process_index=index, process_count=count)
    finish = self._finisher("train")

    def load(n: int, *values: Any) -> Example:
      counter = int(n) * count + index
      return finish(counter, *values, rng=ops_lib.generator(seed, counter, stream=3))

    function, caught = _mapped(load, finish.template)
    dataset = records.enumerate().map(lambda n, record: (n, *(record[k] for k in finish.keys)))
    dataset = dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)
    return TfStream(dataset, caught, batch_size, index, count)

  def batches(
    self,
    batch_size: int,
    split: str,
    index: int,
    count: int,
    limit: int | None,
    texts: memory.Texts = "one",
  ) -> Iterator[tuple[memory.Batch, np.ndarray]]:
    """Every process reads all records and decodes its own."""
    num = self.size(split) if limit is None else min(limit, self.size(split))
    finish, share = self._finisher(split), batch_size * count
    function, caught = _mapped(functools.partial(finish, texts=texts), finish.template)
    dataset = self._source.records(split).take(num).enumerate()
    dataset = dataset.filter(lambda n, _: (n % share) // batch_size == index)
    dataset = dataset.map(lambda n, record: (n, *(record[k] for k in finish.keys)))
    dataset = dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.concatenate(_filler(finish.template))
    batches = iter(TfStream(dataset, caught, batch_size, index, count))
    for first in range(index * batch_size, -(-num // share) * share, share):
      yield next(batches), (np.arange(first, first + batch_size) < num).astype(np.float32)

  def sample(self, num: int, split: str) -> memory.Batch:
    """The split's first examples (TFDS shuffles when it prepares); repeated where it is smaller."""
    finish = self._finisher(split)
    records = self._source.records(split).take(num).repeat().take(num).as_numpy_iterator()
    return memory.stack(
      [finish(n, *(record[k] for k in finish.keys)) for n, record in enumerate(records)]
    )

  def texts(self) -> Iterator[str]:
    if "text" not in self._finisher("train").keys:
      return
    records = self._source.records("train").take(memory.TEXTS).as_numpy_iterator()
    yield from memory.each(_text(record["text"]) for record in records)

  def labels(self, split: str) -> None:
    """They come with the pictures alone."""

  def fingerprint(self) -> dict[str, str]:
    """Nothing: records take long to reach, and the source's name and version stand for them."""
    return {}


class _Finish:
  """Finishes records of one split: decoded, passed through the ops, checked to be of one shape."""

  def __init__(self, source: Any, ops: Any, split: str):
    self.name, self.ops = f"{source.dataset} {split}", ops
    first = next(iter(source.records(split).take(1).as_numpy_iterator()), None)
    if first is None:
      raise UserError(f"config.data.{split}_split: is empty.")
    self.keys, self.template = tuple(first), None
    pictured = "image" in first
    self._decode = self._picture if pictured else self._sound
    self._fact = source.channels() if pictured else source.rate()
    self.template = self(0, *first.values())

  def __call__(
    self,
    counter: int,
    *values: Any,
    rng: np.random.Generator | None = None,
    texts: memory.Texts = "one",
  ) -> Example:
    example = dict(zip(self.keys, values)) | {"name": f"{self.name} {int(counter)}"}
    example |= self._decode(example)
    if "label" in example:
      example["label"] = np.int32(example["label"])
    if "text" in example:
      example["text"] = _text(example["text"])
    return memory.finished(self.ops, example, self.template, rng, texts)

  def _picture(self, example: Example) -> Example:
    try:
      image = pictures.decode(bytes(example["image"]))
    except Exception as e:
      raise UserError(f"{example['name']}: cannot be decoded ({e}).") from None
    return {"image": pictures.to_channels(image, self._fact)}

  def _sound(self, example: Example) -> Example:
    """TFDS has samples as integers of 16 bits, whatever their type, or as floats in [-1, 1]."""
    samples = np.asarray(example["audio"])
    scale = np.float32(1 / 32768 if samples.dtype.kind in "iu" else 1)
    samples = samples.astype(np.float32).reshape(len(samples), -1) * scale
    return {"audio": samples, "rate": np.int32(self._fact)}


def _text(value: Any) -> str | tuple[str, ...]:
  """A record's caption, or its several."""
  texts = tuple(bytes(text).decode("utf-8", "replace") for text in np.ravel(value))
  return texts if np.ndim(value) else texts[0]


def _mapped(
  load: Callable[..., Example], template: Example
) -> tuple[Callable[..., dict[str, tf.Tensor]], list[Exception]]:
  """Makes a function of numpy values one for Dataset.map; what it raises is kept in the list:
  tf.data garbles it.
  """
  caught: list[Exception] = []
  keys = [k for k in template if k != "name"]

  def call(*values: Any) -> list[Any]:
    try:
      example = load(*values)
    except Exception as e:
      caught.append(e)
      raise
    return [_packed(k, example[k]) for k in keys]

  def function(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
    types = [tf.string if k == "text" else tf.as_dtype(np.asarray(template[k]).dtype) for k in keys]
    # Declared stateless, as it is given its randomness: a stateful one could not be saved.
    values = tf.numpy_function(call, tensors, types, stateful=False)
    return {k: tf.ensure_shape(v, np.shape(template[k])) for k, v in zip(keys, values)}

  return function, caught


def _packed(key: str, value: Any) -> Any:
  """As a tensor can hold it: captions, of which there may be several, are JSON."""
  return json.dumps(value).encode() if key == "text" else np.asarray(value)


def _filler(template: Example) -> tf.data.Dataset:
  return tf.data.Dataset.from_tensors(
    {k: tf.constant(_packed(k, v)) for k, v in template.items() if k != "name"}
  ).repeat()


def _numpy(batch: dict[str, tf.Tensor]) -> memory.Batch:
  return {
    k: [json.loads(t) for t in v.numpy()] if k == "text" else v.numpy() for k, v in batch.items()
  }
