"""Data: every source yields the same batches, a dict of numpy arrays, split by process and
deterministic in the seed.

    image       uint8 [B, H, W, C]      scaled to [-1, 1] on the device
    label       int32 [B]               where the source has classes; class_names() says which
    text        list of str, length B   where it has captions (never sent to the device as it is)
    layout      uint8 [B, H, W]         where it has per-pixel classes
    attributes  float32 [B, M, 6]       the drawn scenes' objects, see sources/shapes.py

A source is `{"name": <file of vqjax/data/sources>, **fields of its Source}`; the ops are the fields
of `ops.Ops`. `shapes`, `arrays` and the evaluation of `folder` need no TensorFlow; training from
`folder`, and `tfds`, go through pipeline.py.

Which example comes n-th, over all processes together, is a function of (seed, n), and so are its
random crops and flips. Streams over sources with random access therefore save nothing: open them at
the step wanted. A `tfds` stream saves its iterator.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vqjax import build
from vqjax.data import memory, ops as ops_lib
from vqjax.data.memory import Batch, Stream
from vqjax.errors import UserError, near_miss

__all__ = [
  "Batch",
  "Stream",
  "class_names",
  "eval_batches",
  "made_by",
  "num_examples",
  "resolve",
  "sample_batch",
  "train_stream",
]


def resolve(path: str) -> dict[str, Any]:
  """Recognises what lies at `path` and returns the config of its source, the path absolute.

  A folder of images, with or without class folders and captions; an .npz or .npy file, or a folder
  with just one; a folder of IDX files; what `python -m vqjax.tokenize` wrote.

  Raises:
    UserError: nothing there, or nothing that a source can read.
  """
  full = pathlib.Path(path).expanduser().absolute()
  if not full.exists():
    hint = (
      near_miss(full.name, [p.name for p in full.parent.iterdir()]) if full.parent.is_dir() else ""
    )
    raise UserError(f"--data={path}: does not exist.{hint if 'Did you' in hint else ''}")
  config = _recognise(full)
  source(config).examples("train")  # What cannot be read is better said now.
  return config


def _recognise(full: pathlib.Path) -> dict[str, Any]:
  from vqjax.data.sources import arrays, codes

  kinds = "a folder of images, an .npz or .npy file, or a folder of IDX files or of codes"
  if full.is_file():
    if full.suffix in (".npz", ".npy"):
      return {"name": "arrays", "path": str(full)}
    raise UserError(f"--data={full}: is not {kinds}; give the folder it lies in, if that is one.")
  children = [p for p in full.iterdir() if p.is_file()]
  if full / codes.MANIFEST in children:
    return {"name": "codes", "path": str(full)}
  if any(map(arrays.is_idx, children)):
    return {"name": "arrays", "path": str(full)}
  if ops_lib.has_images(full):
    return {"name": "folder", "path": str(full)}
  packed = sorted(p for p in children if p.suffix in (".npz", ".npy"))
  if len(packed) == 1:
    return {"name": "arrays", "path": str(packed[0])}
  if packed:
    raise UserError(
      f"--data={full}: holds several arrays; name one of {', '.join(p.name for p in packed)}."
    )
  raise UserError(f"--data={full}: is empty of data; expected {kinds}.")


def source(config: Mapping[str, Any]) -> Any:
  """Builds the source that `config["name"]` names.

  Raises UserError for an unknown name or field, or a wrong type.
  """
  config = dict(config)
  if "name" not in config:
    raise UserError(
      f"config.data: has no 'name'. Choose from {', '.join(build.names('data.sources'))}."
    )
  name = config.pop("name")
  cls = build.module("data.sources", name).Source
  build.check_fields(cls, config, f"config.data({name})")
  if missing := [
    f.name
    for f in dataclasses.fields(cls)
    if f.default is dataclasses.MISSING and f.name not in config
  ]:
    raise UserError(f"config.data({name}): needs {', '.join(missing)}.")
  try:
    built = cls(**config)
  except UserError as e:
    raise UserError(f"config.data({name}).{e}") from None
  if name == "tfds":
    _pipeline(name)  # TensorFlow is missed here, in one line, rather than in the middle.
  return built


def train_stream(
  cfg_data: Mapping[str, Any],
  cfg_ops: Mapping[str, Any],
  batch_size: int,
  *,
  seed: int,
  step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Stream:
  """Opens the endless training batches of this process.

  Args:
    cfg_data: names the source.
    cfg_ops: fields of `ops.Ops`.
    batch_size: of this process.
    seed: of the order and of the random ops.
    step: batches to pass over; a stream that saves its position is opened at 0 and restored
      instead.
    process_index: of this process.
    process_count: their number; together they read what one process with their batch sizes added
      would; `tfds` instead gives each its own part of the files.
  """
  built, ops = source(cfg_data), ops_lib.from_config(cfg_ops)
  if cfg_data["name"] == "tfds":
    return _pipeline("tfds").records_stream(
      built, ops, batch_size, seed, process_index, process_count
    )
  load = memory.TrainLoader(built.examples("train"), ops, seed)
  if cfg_data["name"] == "folder":
    return _pipeline("folder").files_stream(load, batch_size, step, process_index, process_count)
  return memory.MemoryStream(load, batch_size, step, process_index, process_count)


def eval_batches(
  cfg_data: Mapping[str, Any],
  cfg_ops: Mapping[str, Any],
  batch_size: int,
  *,
  split: str = "eval",
  process_index: int = 0,
  process_count: int = 1,
  limit: int | None = None,
) -> Iterator[tuple[Batch, np.ndarray]]:
  """Goes over a split once, in a fixed order, without anything random.

  Yields (batch, mask float32 [batch_size]): every batch has full size, and the mask is 0 for what
  only fills it (and for files that cannot be read). All processes yield equally many batches.
  `limit` stops after so many examples in all.
  """
  built, ops = source(cfg_data), ops_lib.from_config(cfg_ops)
  if cfg_data["name"] == "tfds":
    return _pipeline("tfds").records_eval(
      built, ops, batch_size, split=split, index=process_index, count=process_count, limit=limit
    )
  return memory.eval_batches(
    memory.Loader(built.examples(split), ops), batch_size, process_index, process_count, limit
  )


def sample_batch(
  cfg_data: Mapping[str, Any], cfg_ops: Mapping[str, Any], batch_size: int, split: str = "eval"
) -> Batch:
  """The same few examples every time, spread over the split: for previews."""
  built, ops = source(cfg_data), ops_lib.from_config(cfg_ops)
  if cfg_data["name"] == "tfds":
    return _pipeline("tfds").records_sample(built, ops, batch_size, split)
  return memory.sample_batch(memory.Loader(built.examples(split), ops), batch_size)


def num_examples(cfg_data: Mapping[str, Any], split: str) -> int:
  """Number of examples in "train" or "eval"; files that cannot be read are still counted."""
  built = source(cfg_data)
  return built.num_examples(split) if cfg_data["name"] == "tfds" else len(built.examples(split))


def made_by(cfg_data: Mapping[str, Any]) -> str | None:
  """The hash of the tokenizer that made these data, where they are codes."""
  built = source(cfg_data)
  return built.made_by() if hasattr(built, "made_by") else None


def class_names(cfg_data: Mapping[str, Any]) -> tuple[str, ...]:
  """Names of the classes that `label` counts; empty where they have none."""
  return source(cfg_data).class_names()


def _pipeline(name: str) -> Any:
  try:
    from vqjax.data import pipeline
  except ImportError as e:
    raise UserError(
      f"config.data.name: {name!r} needs TensorFlow ({e}); run "
      "pip install tensorflow tensorflow-datasets, or use the source arrays or shapes."
    ) from None
  return pipeline
