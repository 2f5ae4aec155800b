"""Reading torch files: every format, and nothing in them runs."""

import collections
import os
import sys
import types

import numpy as np
import pytest

from vqjax import tensors
from vqjax.errors import UserError
from vqjax.importers import _torch_file as torch_file

torch = pytest.importorskip("torch")

WEIGHT = torch.arange(6.0).reshape(2, 3)


class Touch:
  """Makes a file when it is unpickled by an ordinary unpickler."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
  "content",
  [
    {"w": WEIGHT},
    {"state_dict": {"w": WEIGHT}, "global_step": 3},
    collections.OrderedDict(w=torch.nn.Parameter(WEIGHT)),
    {"w": WEIGHT.bfloat16()},
  ],
  ids=["plain", "lightning", "parameter", "bfloat16"],
)
def test_state_dicts(tmp_path, content):
  torch.save(content, tmp_path / "file.ckpt")
  state = torch_file.load(tmp_path / "file.ckpt")
  assert state.keys() == {"w"} and state["w"].dtype == np.float32
  np.testing.assert_array_equal(state["w"], WEIGHT)


def test_format_before_zip_files(tmp_path):
  torch.save({"w": WEIGHT}, tmp_path / "file.pt", _use_new_zipfile_serialization=False)
  np.testing.assert_array_equal(torch_file.load(tmp_path / "file.pt")["w"], WEIGHT)


def test_numpy_and_safetensors(tmp_path):
  np.savez(tmp_path / "file.npz", w=WEIGHT.numpy())
  np.testing.assert_array_equal(torch_file.load(tmp_path / "file.npz")["w"], WEIGHT)
  (tmp_path / "cut.npz").write_bytes((tmp_path / "file.npz").read_bytes()[:90])
  with pytest.raises(UserError, match="cut.npz' is no .npz, or damaged"):
    torch_file.load(tmp_path / "cut.npz")
  torch_file.save(tmp_path / "file.safetensors", {"state_dict": {"w": WEIGHT.numpy()}})
  np.testing.assert_array_equal(torch_file.load(tmp_path / "file.safetensors")["w"], WEIGHT)
  half = tensors.content({"w": WEIGHT.numpy().astype("bfloat16"), "n": np.arange(2)})
  (tmp_path / "half.safetensors").write_bytes(half)
  found = torch_file.load(tmp_path / "half.safetensors")
  assert found["w"].dtype == np.float32 and found["n"].dtype == np.int64


@pytest.fixture
def package(monkeypatch):
  """A package that is there while saving, as the author's was, and not while reading."""
  module = types.ModuleType("authors_package")
  exec(
    "import torch\nclass Net(torch.nn.Module):\n  pass\nclass Callback:\n  pass", module.__dict__
  )
  monkeypatch.setitem(sys.modules, "authors_package", module)
  return module


def test_objects_of_unknown_classes_are_passed_over(tmp_path, package, monkeypatch):
  callback = package.Callback()
  callback.best = 0.5
  callbacks = {package.Callback: {"best": 1}, "now": callback}
  torch.save({"state_dict": {"w": WEIGHT}, "callbacks": callbacks}, tmp_path / "last.ckpt")
  monkeypatch.delitem(sys.modules, "authors_package")
  np.testing.assert_array_equal(torch_file.load(tmp_path / "last.ckpt")["w"], WEIGHT)


def test_whole_modules(tmp_path, package, monkeypatch):
  net = package.Net()
  net.blocks = torch.nn.Sequential(
    collections.OrderedDict(input=torch.nn.Conv2d(1, 2, 3), relu=torch.nn.ReLU())
  )
  net.register_buffer("scale", torch.ones(1))
  expected = {name: x.numpy() for name, x in net.state_dict().items()}
  torch.save(net, tmp_path / "encoder.pkl")
  monkeypatch.delitem(sys.modules, "authors_package")
  state = torch_file.load(tmp_path / "encoder.pkl")
  assert state.keys() == expected.keys()
  for name, x in expected.items():
    np.testing.assert_array_equal(state[name], x)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_executed(tmp_path, zipped):
  torch.save(
    {"state_dict": {"w": WEIGHT}, "more": Touch(tmp_path / "made")},
    tmp_path / "evil.ckpt",
    _use_new_zipfile_serialization=zipped,
  )
  try:
    assert torch_file.load(tmp_path / "evil.ckpt").keys() == {"w"}
  except UserError as e:
    assert "weights-only" in str(e)
  assert not (tmp_path / "made").exists()


def test_faults_are_one_line(tmp_path):
  (tmp_path / "noise.ckpt").write_bytes(b"no such format" * 20)
  (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
  torch.save({"state_dict": {}}, tmp_path / "empty.ckpt")
  for name, message in (
    ("absent.ckpt", "no file"),
    ("noise.ckpt", "cannot read"),
    ("cut.safetensors", "cannot read"),
    ("empty.ckpt", "no tensors"),
  ):
    with pytest.raises(UserError, match=message) as caught:
      torch_file.load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_torch_missing(tmp_path, monkeypatch):
  torch.save({"w": WEIGHT}, tmp_path / "file.ckpt")
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match="needs PyTorch"):
    torch_file.load(tmp_path / "file.ckpt")
