"""Batches from sources with random access, without TensorFlow: pure in (seed, step), made in the
background.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import itertools
import pathlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

import numpy as np

from vqjax import sharding
from vqjax.data import ops as ops_lib
from vqjax.data.sources import Examples
from vqjax.errors import UserError

Batch = dict[str, Any]
Texts = Literal["one", "all"]  # captions of an example that has several

# Examples that are read, pictures and all, for their captions.
TEXTS = 4_096
# Decoders of files let others run; more of them than this wait for Python. Each makes a batch.
THREADS = 16


class Stream(Protocol):
  """Endless training batches of one process, with a position that can be saved."""

  def __next__(self) -> Batch: ...

  def __iter__(self) -> Iterator[Batch]: ...

  def save(self, directory: pathlib.Path) -> None:
    """Writes this process's position into an existing directory, under a name with its index and
    the count.
    """

  def restore(self, directory: pathlib.Path) -> None:
    """Goes on exactly where `save` was called."""

  def close(self) -> None:
    """Stops background work."""


class Reader:
  """A source with random access."""

  def __init__(self, source: Any, ops: Any):
    self._source, self._ops = source, ops
    self._loaders: dict[str, Loader] = {}

  def _loader(self, split: str) -> Loader:
    if split not in self._loaders:
      self._loaders[split] = Loader(self._source.examples(split), self._ops)
    return self._loaders[split]

  def size(self, split: str) -> int:
    return len(self._source.examples(split))

  def train(self, batch_size: int, seed: int, step: int, index: int, count: int) -> Stream:
    return MemoryStream(TrainLoader(self._loader("train"), seed), batch_size, step, index, count)

  def batches(
    self,
    batch_size: int,
    split: str,
    index: int,
    count: int,
    limit: int | None,
    texts: Texts = "one",
  ) -> Iterator[tuple[Batch, np.ndarray]]:
    load = functools.partial(self._loader(split), texts=texts)
    examples, template = load.func.examples, load.func.template
    num = len(examples) if limit is None else min(limit, len(examples))

    def make(step: int) -> tuple[Batch, np.ndarray]:
      first = (step * count + index) * batch_size
      loaded = [load(i) if i < num else (template, False) for i in range(first, first + batch_size)]
      examples, good = zip(*loaded)
      return stack(examples), np.array(good, np.float32)

    return in_background(make, range(-(-num // (batch_size * count))))

  def sample(self, num: int, split: str) -> Batch:
    """Examples spread evenly over the split; repeated where it is smaller than `num`."""
    load = self._loader(split)
    return stack([load(i * len(load.examples) // num)[0] for i in range(num)])

  def texts(self) -> Iterator[str]:
    examples = self._source.examples("train")
    if hasattr(examples, "texts"):
      yield from each(examples.texts or ())
      return
    some = min(len(examples), TEXTS)
    for i in range(some):
      example = examples[i * len(examples) // some]
      if example is not None and "text" in example:
        yield from each([example["text"]])

  def labels(self, split: str) -> np.ndarray | None:
    labels = getattr(self._source.examples(split), "labels", None)
    return None if labels is None else np.asarray(labels)

  def fingerprint(self) -> dict[str, str]:
    return {"sample": digest(self._source.examples("train"))}


class Loader:
  """Finished examples by index: read, passed through the ops, and checked to be of one shape.

  `template` is a finished example: it shows the keys, shapes and types of all of them.
  """

  def __init__(self, examples: Examples, ops: Any):
    self.examples, self.ops = examples, ops
    self.template = finished(ops, self.read(0)[0])

  def read(self, index: int) -> tuple[dict[str, Any], int]:
    """Returns the example, or the next readable one, and its index.

    Raises UserError where there is none.
    """
    num = len(self.examples)
    for i in itertools.chain(range(index, num), range(index)):
      if (example := self.examples[i]) is not None:
        return example, i
    raise UserError(
      f"config.data: no example of this split can be read (of {num}); mend or replace them."
    )

  def __call__(
    self, index: int, rng: np.random.Generator | None = None, texts: Texts = "one"
  ) -> tuple[dict[str, Any], bool]:
    """Returns a finished example and whether it is the one asked for."""
    example, used = self.read(index)
    return finished(self.ops, example, self.template, rng, texts), used == index


def finished(
  ops: Any,
  example: dict[str, Any],
  template: Mapping[str, Any] | None = None,
  rng: np.random.Generator | None = None,
  texts: Texts = "one",
) -> dict[str, Any]:
  """The example passed through the ops and checked to be like `template`, with one of its captions,
  drawn or, without `rng`, the first; or with all of them.
  """
  text = example.get("text")
  if texts == "one" and isinstance(text, (list, tuple)):
    index = rng.integers(len(text)) if rng and text else 0
    example = example | {"text": text[index] if text else ""}
  if template is None:
    ops_lib.check_treated(ops, example)
  example = ops.apply(example, rng)
  return ops_lib.alike(ops, example, template or example)


class TrainLoader:
  """The n-th example of training over all processes: a new permutation every epoch, random ops
  drawn from (seed, n).
  """

  def __init__(self, load: Loader, seed: int):
    self.load, self.seed, self.num = load, seed, len(load.examples)

  def __call__(self, counter: int) -> dict[str, Any]:
    epoch, position = divmod(int(counter), self.num)
    rng = ops_lib.generator(self.seed, int(counter), stream=3)
    return self.load(int(permutation(self.num, self.seed, epoch)[position]), rng)[0]


_ORDER = threading.Lock()


def permutation(num: int, seed: int, epoch: int) -> np.ndarray:
  """The order of an epoch; kept, as neighbouring batches ask for the same one."""
  with _ORDER:  # or all threads would make a new one at once
    return _permutation(num, seed, epoch)


@functools.lru_cache(maxsize=4)
def _permutation(num: int, seed: int, epoch: int) -> np.ndarray:
  return ops_lib.generator(seed, epoch, stream=2).permutation(num)


class MemoryStream:
  """Training batches of a source with random access.

  Saves nothing: build it again at the step wanted.
  """

  def __init__(
    self, load: TrainLoader, batch_size: int, step: int, process_index: int, process_count: int
  ):
    self._load, self._batch_size = load, batch_size
    self._index, self._count = process_index, process_count
    self._batches = in_background(self._make, itertools.count(step))

  def __iter__(self) -> MemoryStream:
    return self

  def __next__(self) -> Batch:
    return next(self._batches)

  def _make(self, step: int) -> Batch:
    first = (step * self._count + self._index) * self._batch_size
    return stack([self._load(first + i) for i in range(self._batch_size)])

  def save(self, directory: pathlib.Path) -> None:
    del directory

  def restore(self, directory: pathlib.Path) -> None:
    del directory

  def close(self) -> None:
    self._batches.close()


def in_background(make: Callable[[int], Batch], steps: Iterable[int]) -> Generator[Any, None, None]:
  """Yields `make` of every step, in order: made ahead by as many threads as this process may use
  cores, up to THREADS, one step each and one more. `close` stops them.
  """
  workers, steps = min(THREADS, sharding.threads()), iter(steps)
  pool = ThreadPoolExecutor(workers, thread_name_prefix="data")
  ahead = lambda num: (pool.submit(make, step) for step in itertools.islice(steps, num))
  try:
    pending = collections.deque(ahead(workers + 1))
    while pending:
      done = pending.popleft()
      pending.extend(ahead(1))
      yield done.result()
  finally:
    pool.shutdown(wait=False, cancel_futures=True)


def each(texts: Iterable[str | Sequence[str]]) -> Iterator[str]:
  """The captions of examples that have one or several."""
  for text in texts:
    yield from (text,) if isinstance(text, str) else text


def stack(examples: list[dict[str, Any]] | tuple[dict[str, Any], ...]) -> Batch:
  """Finished examples -> a batch: arrays stacked, `text` a list, `name` dropped."""
  columns = {key: [e[key] for e in examples] for key in examples[0] if key != "name"}
  return {key: column if key == "text" else np.stack(column) for key, column in columns.items()}


def digest(examples: Examples, most: int = 16) -> str:
  """SHA-256 over fields, types, shapes and bytes of up to `most` examples, spread over a split;
  their names, in which a path may stand, left out.
  """
  content = getattr(examples, "content", examples.__getitem__)
  num, total = min(most, len(examples)), hashlib.sha256()
  for i in range(num):
    example = content(i * len(examples) // num) or {}
    for field in sorted(example.keys() - {"name"}):
      value = example[field]
      value = np.frombuffer(value.encode(), np.uint8) if isinstance(value, str) else value
      array = np.asarray(value)
      total.update(f"{field} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
  return total.hexdigest()
