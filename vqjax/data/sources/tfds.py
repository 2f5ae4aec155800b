"""TensorFlow Datasets by name.

Records are read in sequence, decoded late; needs tensorflow and tensorflow-datasets.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import urllib.error
import urllib.request
from typing import Any

from vqjax.errors import UserError, reason


@dataclasses.dataclass(frozen=True)
class Source:
  """Which data set, where it lies, and which of its features to read.

  Attributes:
    dataset: as in `tfds.builder`, e.g. "cifar10" or "imagenet2012:5.1.0".
    data_dir: where it is prepared; None is TFDS's own default.
    train_split: any TFDS split, e.g. "train[:90%]".
    eval_split: the held-out split.
    image: the feature with the image. Must be an encoded image.
    audio: the feature with the sound, read where there is no image.
    label: the feature with the class; not used where there is none of that name.
    text: the feature with the caption, or with several for an image, of which training draws one
      each time; likewise. "captions/text" is the feature within a feature.
    shuffle_buffer: records shuffled at once, after the files. It is part of every checkpoint, so
      keep it modest.
  """

  dataset: str
  data_dir: str | None = None
  train_split: str = "train"
  eval_split: str = "test"
  image: str = "image"
  audio: str = "audio"
  label: str = "label"
  text: str = "text"
  shuffle_buffer: int = 1_024

  def num_examples(self, split: str) -> int:
    """Raises UserError for a split that the data set lacks."""
    builder, name = _builder(self.dataset, self.data_dir), getattr(self, f"{split}_split")
    try:
      return builder.info.splits[name].num_examples
    except (KeyError, ValueError):
      raise UserError(
        f"config.data.{split}_split: {self.dataset} has no split {name!r}; it has "
        f"{', '.join(builder.info.splits)}."
      ) from None

  def class_names(self) -> tuple[str, ...]:
    features = self._features()
    names = getattr(_inner(features, self.label), "names", None)
    return tuple(names) if names else ()

  def identity(self) -> dict[str, str]:
    info = _builder(self.dataset, self.data_dir).info
    return {"dataset": info.name, "version": str(info.version)}

  def channels(self) -> int:
    """1 where every image is grey, otherwise 3."""
    return 1 if self._features()[self.image].shape[-1] == 1 else 3

  def rate(self) -> int:
    """Of every sound, Hz. Raises UserError where the data set does not say."""
    if rate := getattr(self._features()[self.audio], "sample_rate", None):
      return int(rate)
    raise UserError(f"config.data.audio: {self.dataset} says no sample rate; read it as files.")

  def records(
    self, split: str, *, seed: int | None = None, process_index: int = 0, process_count: int = 1
  ) -> Any:
    """Returns a tf.data.Dataset of {image: bytes, label, text}, of sound {audio: samples, …}.

    With a seed: endless, this process's part of the split, files and then records shuffled anew
      every epoch. Without:
    the whole split once, in its fixed order.
    """
    tfds = _tfds()
    if process_count > self.num_examples(split):
      raise UserError(
        f"config.data.{split}_split: fewer examples than processes ({process_count})."
      )
    train, part = seed is not None, getattr(self, f"{split}_split")
    if train:
      part = tfds.even_splits(part, process_count)[process_index]
    features = self._features()
    known = ("image" if self.image in features else "audio", "label", "text")
    paths = {k: getattr(self, k) for k in known}
    paths = {k: path for k, path in paths.items() if _inner(features, path) is not None}
    wanted: dict[str, Any] = {}
    for outer, *inner in (path.split("/", 1) for path in paths.values()):
      wanted[outer] = wanted.get(outer, set()) | set(inner) if inner else True
    skipped = {self.image: tfds.decode.SkipDecoding()} if "image" in paths else {}
    records = _builder(self.dataset, self.data_dir).as_dataset(
      split=part,
      shuffle_files=train,
      read_config=tfds.ReadConfig(
        try_autocache=False, shuffle_seed=seed, interleave_cycle_length=16 if train else 1
      ),
      decoders=tfds.decode.PartialDecoding(wanted, decoders=skipped),
    )
    records = records.map(lambda record: {k: _inner(record, path) for k, path in paths.items()})
    if train:
      records = records.shuffle(
        self.shuffle_buffer, seed=seed, reshuffle_each_iteration=True
      ).repeat()
    return records

  def _features(self) -> Any:
    tfds = _tfds()
    features = _builder(self.dataset, self.data_dir).info.features
    if self.image not in features and self.audio in features:
      if isinstance(features[self.audio], tfds.features.Audio):
        return features
    if self.image not in features or not isinstance(features[self.image], tfds.features.Image):
      images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
      raise UserError(
        f"config.data.image: {self.dataset} has no image feature {self.image!r}; "
        f"it has {', '.join(images) or 'none'}."
      )
    return features


def _inner(tree: Any, path: str) -> Any:
  """What stands in nested dicts, of features or of a record, at "outer/inner"; None for nothing."""
  outer, _, inner = path.partition("/")
  tree = getattr(tree, "feature", tree)  # a sequence of dicts, which a record has inside out
  found = tree[outer] if hasattr(tree, "keys") and outer in tree.keys() else None
  return _inner(found, inner) if inner else found


def _tfds() -> types.ModuleType:
  try:
    import tensorflow_datasets
  except ImportError as e:
    raise UserError(
      f"config.data.name: 'tfds' is not installed ({e}); pip install tensorflow-datasets."
    ) from None
  return tensorflow_datasets


@functools.lru_cache(maxsize=4)
def _builder(dataset: str, data_dir: str | None) -> Any:
  """Returns the prepared data set, downloading it where that is possible.

  Raises UserError where it is not.
  """
  tfds = _tfds()
  try:
    builder = tfds.builder(dataset, data_dir=data_dir)
  except tfds.core.registered.DatasetNotFoundError:
    close = difflib.get_close_matches(
      dataset, tfds.list_builders(with_community_datasets=False), n=1
    )
    hint = (
      f" Did you mean {close[0]!r}?" if close else " See tensorflow.org/datasets for the names."
    )
    raise UserError(
      f"config.data.dataset: TFDS knows no {dataset!r}; none is prepared in {data_dir}.{hint}"
    ) from None
  except (
    Exception
  ) as e:  # TFDS raises AssertionError, ValueError, ImportError … for what the name asks for.
    raise UserError(f"config.data.dataset: {dataset!r}: {reason(e)}") from None
  if not builder.is_prepared():
    where = f"config.data.dataset: {dataset} is not prepared in {builder.data_path}"
    try:
      # TFDS retries for minutes when there is no network, so ask first. An answer of any kind will
      # do.
      urllib.request.urlopen("https://storage.googleapis.com", timeout=5).close()
    except urllib.error.HTTPError:
      pass
    except OSError:
      raise UserError(
        f"{where} and there is no network to download it; prepare it elsewhere and set "
        "config.data.data_dir, or use --data=PATH."
      ) from None
    try:
      builder.download_and_prepare()
    except Exception as e:
      raise UserError(f"{where} and cannot be downloaded: {reason(e)}") from None
  return builder
