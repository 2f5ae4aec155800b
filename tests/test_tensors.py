"""The safetensors format against the library of that name, and files that are none or damaged."""

import json

import ml_dtypes
import numpy as np
import pytest

from vqjax import tensors
from vqjax.errors import UserError

RNG = np.random.default_rng(0)
NAMED = {
  "scalar": np.float32(-1.5),
  "none": np.zeros((0, 3), np.float64),
  "turned": RNG.normal(size=(3, 5)).astype(np.float16).T,
  "flags": np.array([True, False, True]),
  "brain": RNG.normal(size=(2, 2)).astype(ml_dtypes.bfloat16),
} | {
  f"{kind}{8 * size}": np.arange(7).astype(f"{kind}{size}")
  for kind in "iu"
  for size in (1, 2, 4, 8)
}
TEXTS = {"config.json": '{"a": "ü\\n\\""}', "b": ""}


def test_what_is_written_is_read(tmp_path):
  (tmp_path / "f").write_bytes(tensors.content(NAMED, TEXTS))
  found = tensors.Tensors(tmp_path / "f")
  assert found.texts == TEXTS and found.keys() == NAMED.keys()
  for name, x in NAMED.items():
    assert found[name].dtype == x.dtype
    np.testing.assert_array_equal(found[name], x)
  assert dict(found.read(["u8"])).keys() == {"u8"}


def test_the_library_reads_it_and_is_read(tmp_path):
  library = pytest.importorskip("safetensors")
  from safetensors.numpy import load_file, save_file

  named = {k: np.ascontiguousarray(v) for k, v in NAMED.items() if k != "brain"}
  (tmp_path / "ours").write_bytes(tensors.content(named, TEXTS))
  save_file(named, tmp_path / "theirs", TEXTS)
  with library.safe_open(tmp_path / "ours", "numpy") as opened:
    assert opened.metadata() == TEXTS
  for found in (load_file(tmp_path / "ours"), tensors.Tensors(tmp_path / "theirs")):
    assert found.keys() == named.keys()
    for name, x in named.items():
      assert found[name].dtype == x.dtype
      np.testing.assert_array_equal(found[name], x)
  assert tensors.Tensors(tmp_path / "theirs").texts == TEXTS


def test_a_type_that_the_format_lacks():
  with pytest.raises(TypeError, match="x: complex128"):
    tensors.content({"x": np.zeros(1, complex)})


def written(header, rest=b""):
  head = header if isinstance(header, bytes) else json.dumps(header).encode()
  return len(head).to_bytes(8, "little") + head + rest


ENTRY = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


@pytest.mark.parametrize(
  "content, reason",
  [
    (b"", "no header"),
    (b"\x89PNG\r\n\x1a\n" + bytes(50), "no header"),
    ((1000).to_bytes(8, "little") + b"{}", "cut short within"),
    (written(b"[" * 100_000), "none of this format"),
    (written(b"\xff\xfe"), "none of this format"),
    (written([1]), "none of this format"),
    (written({"__metadata__": {"a": 1}}), "none of this format"),
    (written({"__metadata__": []}), "none of this format"),
    (written({"a": [0, 2]}, b"ab"), "none of this format"),
    (written({"a": ENTRY | {"dtype": []}}, b"ab"), "none of this format"),
    (written({"a": ENTRY | {"dtype": "F4"}}, b"ab"), "'F4', unknown here"),
    (written({"a": ENTRY | {"shape": [-2]}}, b"ab"), "none of this format"),
    (written({"a": ENTRY | {"shape": [3]}}, b"ab"), "none of this format"),
    (written({"a": ENTRY | {"shape": [2.0]}}, b"ab"), "none of this format"),
    (written({"a": ENTRY | {"data_offsets": [2, 4]}}, b"abcd"), "do not follow"),
    (written({"a": ENTRY, "b": ENTRY}, b"ab"), "do not follow"),
    (written({"a": ENTRY}, b"a"), "should be of"),
    (written({"a": ENTRY}, b"abc"), "should be of"),
  ],
)
def test_faults_are_one_line(tmp_path, content, reason):
  (tmp_path / "f").write_bytes(content)
  with pytest.raises(UserError, match=reason) as caught:
    tensors.Tensors(tmp_path / "f")
  assert str(caught.value).startswith(str(tmp_path / "f")) and "\n" not in str(caught.value)
