"""Data: every source yields the same batches, a dict of numpy arrays, split by process and
deterministic in the seed.

    image       uint8 [B, H, W, C]      scaled to [-1, 1] on the device
    audio       float32 [B, T, C]       sound in about [-1, 1]
    video       uint8 [B, T, H, W, C]   frames as images have them
    label       int32 [B]               where the source has classes; class_names says which
    text        list of str, length B   where it has captions (never sent to the device as it is);
                                        of several for an example training draws one each time
    layout      uint8 [B, H, W]         where it has per-pixel classes
    ids         int32 [B, ...]          codes computed before, see sources/codes.py
    latents     float16 [B, ..., D]     floats computed before, likewise
    attributes  float32 [B, M, 6]       the drawn scenes' objects, see sources/shapes.py and, with
                                        time before M, sources/moving_shapes.py

A source is `{"name": <file of vqjax/data/sources>, **fields of its Source}`; the ops are likewise a
file of vqjax/data/ops, "image" where they have no name. Sources of records alone (tfds) need
TensorFlow, see sources/__init__.py.

Which example comes n-th, over all processes together, is a function of (seed, n), and so are its
random crops and flips. Streams over sources with random access therefore save nothing: open them at
the step wanted. A `tfds` stream saves its iterator.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vqjax import build
from vqjax.data import memory
from vqjax.data.memory import Batch, Stream
from vqjax.errors import UserError, guess

__all__ = ["Batch", "Dataset", "Stream", "resolve"]


class Dataset:
  """A source and the ops on its examples.

  Attributes:
    config: of the source, as `config.data`.
    source: what it names.
    ops: of `config.ops`.

  Raises:
    UserError: an unknown name or field, a wrong type, or TensorFlow missing where the source needs
      it. What lies in files is read, and found wrong, by the methods.
  """

  def __init__(self, source: Mapping[str, Any], ops: Mapping[str, Any] = {}):
    self.config = dict(source)
    self.source = build.build("data.sources", source, "config.data")
    self.ops = build.build("data.ops", dict(ops), "config.ops")
    if hasattr(self.source, "records"):
      self._reader = _pipeline(source["name"]).Records(self.source, self.ops)
    else:
      self._reader = memory.Reader(self.source, self.ops)

  @functools.cached_property
  def class_names(self) -> tuple[str, ...]:
    """Names of the classes that `label` counts; empty where they have none."""
    return self.source.class_names()

  @functools.cached_property
  def made_by(self) -> str | None:
    """The hash of the tokenizer that made these data, where they are codes."""
    return self.source.made_by() if hasattr(self.source, "made_by") else None

  def size(self, split: str = "eval") -> int:
    """Number of examples in "train" or "eval"; files that cannot be read are still counted."""
    return self._reader.size(split)

  def train(
    self,
    batch_size: int,
    *,
    seed: int,
    step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
  ) -> Stream:
    """Opens the endless training batches of this process.

    Args:
      batch_size: of this process.
      seed: of the order and of the random ops.
      step: batches to pass over; a stream that saves its position is opened at 0 and restored
        instead.
      process_index: of this process.
      process_count: their number; together they read what one process with their batch sizes added
        would; `tfds` instead gives each its own part of the files.
    """
    return self._reader.train(batch_size, seed, step, process_index, process_count)

  def batches(
    self,
    batch_size: int,
    *,
    split: str = "eval",
    process_index: int = 0,
    process_count: int = 1,
    limit: int | None = None,
    texts: memory.Texts = "one",
  ) -> Iterator[tuple[Batch, np.ndarray]]:
    """Goes over a split once, in a fixed order, without anything random.

    Yields (batch, mask float32 [batch_size]): every batch has full size, and the mask is 0 for what
    only fills it (and for files that cannot be read). All processes yield equally many batches.
    `limit` stops after so many examples in all. Of an example's several captions it has the first,
    or with texts="all" a sequence of all.
    """
    return self._reader.batches(batch_size, split, process_index, process_count, limit, texts)

  def sample(self, num: int, split: str = "eval") -> Batch:
    """The same few examples every time, for previews; repeated where the split has fewer."""
    return self._reader.sample(num, split)

  def texts(self) -> Iterator[str]:
    """Captions of training, the same every time; where they come with pictures alone, of the few
    thousand examples that stand for all. None where the data have none.
    """
    return self._reader.texts()

  def labels(self, split: str) -> np.ndarray | None:
    """All labels of a split, int [N]; None where there are none, or only together with pictures."""
    return self._reader.labels(split)

  def fingerprint(self) -> dict[str, Any]:
    """What tells these data from others, wherever they lie: JSON values, compared by equality.

    Holds the number of examples in each split, a SHA-256 of a few of them before the ops (see
    `memory.digest`) where there is random access, and what the source says of itself.
    """
    counts = {split: self.size(split) for split in ("train", "eval")}
    identity = self.source.identity() if hasattr(self.source, "identity") else {}
    return counts | identity | self._reader.fingerprint()


def resolve(path: str) -> dict[str, Any]:
  """Recognises what lies at `path` and returns the config of its source, the path absolute.

  Raises:
    UserError: no path, nothing there, or nothing that a source can read.
  """
  if not isinstance(path, str | os.PathLike):
    raise UserError(f"data: a {type(path).__name__} is no path; give that of a file or folder.")
  if not os.fspath(path):
    raise UserError("--data=: is empty; give the path of a file or folder, or leave it out.")
  full = pathlib.Path(path).expanduser().absolute()
  if not full.exists():
    beside = [p.name for p in full.parent.iterdir() if p.exists()] if full.parent.is_dir() else []
    raise UserError(f"--data={path}: does not exist.{guess(full.name, beside)}")
  sources = [build.member("data.sources", name) for name in build.names("data.sources")]
  sources = sorted((s for s in sources if hasattr(s, "recognise")), key=lambda s: s.precedence)
  config = next((found for s in sources if (found := s.recognise(full))), None)
  if config is None:
    kinds = "; ".join(s.kind for s in reversed(sources))
    remedy = " Give the folder it lies in, if that is one." if full.is_file() else ""
    raise UserError(f"--data={full}: is none of these: {kinds}.{remedy}")
  Dataset(config).size("train")  # What cannot be read is better said now.
  return config


def _pipeline(name: str) -> Any:
  try:
    from vqjax.data import pipeline
  except ImportError as e:
    raise UserError(
      f"config.data.name: {name!r} needs TensorFlow ({e}); run "
      "pip install tensorflow tensorflow-datasets, or use the source folder, arrays or shapes."
    ) from None
  return pipeline
