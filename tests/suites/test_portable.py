"""The comparison of coded files between processes: crops lie in their pictures, nothing that
differs goes unseen.
"""

import importlib.util
import pathlib
import types

import numpy as np
import pytest

from vqjax.suites import portable

_spec = importlib.util.spec_from_file_location(
  "codec_conftest", pathlib.Path(__file__).parents[1] / "codec" / "conftest.py"
)
helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helpers)


@pytest.mark.parametrize("kind", ["image", "video", "books", "hierarchy"])
def test_crops_are_written_read_and_compared(kind, tmp_path):
  codec = helpers.make(helpers.LEVELS[kind])
  info = codec.tokenizer.info
  pictures = [helpers.draw(info.levels, info.size, seed) for seed in range(3)]
  examples, sizes = portable.crops(info, pictures, 12)
  assert len(set(sizes)) > 3 and all(map(np.array_equal, examples[0], pictures[0]))
  for i, example in enumerate(examples):
    coarse, whole = example[0], pictures[i % 3][0]
    windows = np.lib.stride_tricks.sliding_window_view(whole, coarse.shape)
    assert (windows == coarse).reshape(-1, coarse.size).all(1).any()
  portable.keep(tmp_path / "codes.npz", examples, sizes)
  model = types.SimpleNamespace(codec=codec)
  first, second = (portable.report(model, tmp_path, 5) for _ in range(2))
  assert first == second and set(first) == {"static", "context"}
  assert {found["read"] for found in first.values()} == {"all codes"}
  portable.keep(tmp_path / "codes.npz", examples[::-1], sizes[::-1])
  other = portable.report(model, tmp_path, 5)
  assert other["static"]["archive"] != first["static"]["archive"]
  assert other["static"]["read"].endswith("wrong")
