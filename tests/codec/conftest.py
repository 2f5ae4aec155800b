"""A codec whose tokenizer is nothing but its sizes: files without anything that computes pixels."""

import types

import numpy as np
import pytest

from vqjax.api.codec import Codec
from vqjax.api.tokenizer import Tokenizer
from vqjax.codec import Source, _tables, digest
from vqjax.latents import Codes
from vqjax.signals.image import Signal

LEVELS = {
  "image": (Codes((4, 4), 9),),
  "sound": (Codes((6,), 300),),
  "video": (Codes((2, 3, 3), 5),),
  "books": (Codes((3, 3), 5, books=3),),
  "hierarchy": (Codes((2, 2), 7), Codes((4, 4), 11)),
  "one code": (Codes((2, 2), 1),),
}


class Sizes:
  """A tokenizer's `info`, `identity` and `checked`: cells of four positions on every axis."""

  identity = "0123456789abcdef"
  checked, _codes = Tokenizer.checked, True

  def __init__(self, levels):
    finest = len(levels) - 1
    grid = lambda *size: tuple(tuple(n * 2**i // 4 for n in size) for i in range(finest + 1))
    axes = len(levels[0].shape)
    model = types.SimpleNamespace(grid=lambda *size: grid(*size) if finest else grid(*size)[0])
    signal = types.SimpleNamespace(field=Signal.field, axes=axes)
    self.info = types.SimpleNamespace(
      levels=levels,
      signal=signal,
      factors=(4,) * axes,
      first=(4,) * axes,
      size=tuple(4 * n for n in levels[0].shape),
      modules=types.SimpleNamespace(model=model),
    )
    self.workdir, self.levels = "run", levels


def draw(levels, size, seed=0):
  """Codes of an example, by level, of which some are much more frequent than others."""
  rng, found = np.random.default_rng(seed), []
  for i, codes in enumerate(levels):
    grid = (*(-(-n // 4) * 2**i for n in size), *codes.grid[len(codes.shape) :])
    found.append((codes.size * rng.random(grid) ** 3).astype(np.int32))
  return tuple(found)


def tables_of(levels):
  batch = tuple(np.stack([draw(levels, (32,) * len(levels[0].shape), s)[0]]) for s in (1,))
  return _tables.count([batch], levels[:1]) + tuple(
    tuple(np.arange(c.size) for _ in range(c.books)) for c in levels[1:]
  )


@pytest.fixture(params=LEVELS)
def codec(request):
  """A Codec over latents of every kind."""
  return make(LEVELS[request.param])


def make(levels, tables=True):
  source = Source("run", levels, tables_of(levels) if tables else None, (), digest(b"prior"))
  return Codec(Sizes(levels), source)
