"""What every mode of the codec makes of held-out examples, beside the bound that no coder beats."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vqjax.codec import Example, _tables, books_of
from vqjax.errors import UserError
from vqjax.tasks import need
from vqjax.tasks._first_stage import joined, separated

_COUNTED = 8192  # training examples whose codes make a table where tokenize has not written one


class Rate(NamedTuple):
  """Bytes per example in an archive: of headers, of codes, and what its probabilities bound the
  latter by.
  """

  header: float
  payload: float
  bound: float


def held_out(model: Any, dataset: Any, limit: int, split: str = "eval") -> Iterator[tuple]:
  """Codes of a split in batches, each a tuple of levels [B, *grid]; read where the data are codes.

  Args:
    model: a Tokenizer or a Prior.
    dataset: its run's.
    limit: examples at the most.
  """
  tokenizer = model.codec.tokenizer
  for batch, mask in dataset.batches(64, split=split, limit=limit):
    if "ids" in batch:
      levels = tuple(batch[f"ids{i or ''}"] for i in range(len(model.info.levels)))
    else:
      levels = separated(tokenizer.encode(need(batch, model.info.signal.field)))
    yield tokenizer.checked(joined(tuple(np.asarray(x)[mask > 0] for x in levels)))


def examples(model: Any, dataset: Any, limit: int) -> list[Example]:
  """The same one by one, each a tuple of levels [*grid]."""
  batches = held_out(model, dataset, limit)
  return [tuple(level[i] for level in ids) for ids in batches for i in range(len(ids[0]))]


def count(tokenizer: Any, dataset: Any) -> None:
  """Writes the table of the mode `static` from a few thousand training examples, where there is
  none.
  """
  batches = held_out(tokenizer, dataset, _COUNTED, "train")
  _tables.keep(tokenizer.workdir, tokenizer.info.levels, tokenizer.identity, batches)


def measure(model: Any, examples: Sequence[Example]) -> dict[str, Rate]:
  """{mode: Rate} of those that the run serves, and "huffman" over the table of `static`."""
  codec, found = model.codec, {}
  sizes, number = [model.info.size] * len(examples), len(examples)
  for name in codec.modes:
    if not codec.serves(name):
      continue
    try:
      (data,) = codec.pack_codes(examples, sizes, name)
    except UserError as e:
      if not codec.mode(name).networked:
        raise
      print(f"{name}: left out: {e}")
      continue
    file = codec.open(data)
    bound = _bound(model, examples, name) / 8
    found[name] = Rate(file.header / number, file.payload / number, bound / number)
  if (tables := codec.source.tables) is not None:
    lengths = [[huffman_lengths(2 * counts + 1) for counts in level] for level in tables]
    payload = sum(_huffman_bits(example, lengths, model.info.levels) for example in examples) / 8
    found["huffman"] = Rate(0.0, payload / number, found["static"].bound)
  return found


def rows(found: dict[str, Rate], size: tuple[int, ...]) -> list[list[str]]:
  """Lines of a table: mode, bytes per example, bits per pixel (or sample) of codes and bound."""
  per = 8 / math.prod(size)
  return [
    [name, f"{r.header:.2f}", f"{r.payload:.2f}", f"{r.payload * per:.4f}", f"{r.bound * per:.4f}"]
    for name, r in found.items()
  ]


def _bound(model: Any, examples: Sequence[Example], mode: str) -> float:
  """Bits. Of networks: what they say of the codes before anything is made an integer."""
  if not model.codec.mode(mode).networked:
    return model.codec.bits(examples, mode)
  parts = [examples[start : start + 64] for start in range(0, len(examples), 64)]
  levels = [tuple(map(np.stack, zip(*part))) for part in parts]
  return sum(float(model.levels.nats(ids).sum()) for ids in levels) / math.log(2)


def _huffman_bits(example: Example, lengths: Any, levels: Any) -> int:
  return sum(
    int(own[column].sum())
    for ids, codes, of_level in zip(example, levels, lengths)
    for column, own in zip(books_of(ids, codes).T, of_level)
  )


def huffman_lengths(weights: np.ndarray) -> np.ndarray:
  """Bits of each symbol in a Huffman code for positive weights [K], int64 [K]."""
  lengths = np.zeros(len(weights), np.int64)
  heap = [(int(w), i, [i]) for i, w in enumerate(weights)]
  heapq.heapify(heap)
  while len(heap) > 1:
    (w, i, a), (v, _, b) = heapq.heappop(heap), heapq.heappop(heap)
    lengths[a + b] += 1
    heapq.heappush(heap, (w + v, i, a + b))
  return lengths
