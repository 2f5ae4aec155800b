"""--data=PATH: every kind is recognised, and everything else is one clear line."""

import gzip
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from vqjax import build, data
from vqjax.errors import UserError


def write_images(folder):
  for i in range(20):
    (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(folder / str(i % 2) / f"{i}.png")


def test_every_kind(tmp_path, monkeypatch):
  write_images(tmp_path / "photos")
  np.savez(tmp_path / "a.npz", images=np.zeros((20, 4, 4), np.uint8))
  (tmp_path / "packed").mkdir()
  np.save(tmp_path / "packed" / "b.npy", np.zeros((20, 4, 4), np.uint8))
  (tmp_path / "mnist").mkdir()
  for name in ("train", "t10k"):
    content = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(8)
    (tmp_path / "mnist" / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
  monkeypatch.chdir(tmp_path)
  for path, name, resolved in [
    ("photos", "folder", "photos"),
    ("a.npz", "arrays", "a.npz"),
    ("mnist", "arrays", "mnist"),
    ("./packed", "arrays", "packed/b.npy"),
  ]:
    config = data.resolve(path)
    assert (
      config == {"name": name, "path": str(tmp_path / resolved)}
      and pathlib.Path(config["path"]).is_absolute()
    )
    assert data.Dataset(config).size("train") > 0


@pytest.mark.parametrize(
  "make,message",
  [
    (lambda p: None, "does not exist"),
    (lambda p: p.with_name("thinh").mkdir(), "does not exist. Did you mean 'thinh'"),
    (
      lambda p: p.mkdir(),
      r"is none of these: a folder of sound .*a folder of images \(.png, .*an .npz.*of codes\.$",
    ),
    (lambda p: p.write_text("x"), "is none of these: .*Give the folder it lies in"),
    (
      lambda p: (p.mkdir(), np.save(p / "a.npy", 0), np.save(p / "b.npy", 0)),
      "name one of a.npy, b.npy",
    ),
    (lambda p: (p.mkdir(), np.save(p / "a.npy", np.zeros(3))), r"has shape \[3\]"),
    (lambda p: (p.mkdir(), (p / "train-images-idx3-ubyte.gz").write_bytes(b"x")), "cannot be read"),
  ],
)
def test_everything_else_is_one_line(tmp_path, make, message):
  make(tmp_path / "thing")
  with pytest.raises(UserError, match=message) as e:
    data.resolve(str(tmp_path / "thing"))
  assert "\n" not in str(e.value)


def test_no_path():
  with pytest.raises(UserError, match="--data=: is empty; give the path"):
    data.resolve("")


def test_pictures_come_before_the_arrays_beside_them_and_a_manifest_before_all(tmp_path):
  write_images(tmp_path / "a")
  for name in ("x.npy", "y.npy"):
    np.save(tmp_path / "a" / name, np.zeros((2, 2, 2)))
  assert data.resolve(str(tmp_path / "a"))["name"] == "folder"
  (tmp_path / "a" / "manifest.json").write_text('{"name": "another tool\'s"}')
  assert data.resolve(str(tmp_path / "a"))["name"] == "folder"
  manifest = {"tokenizer": "abc", "class_names": [], "splits": {"train": [], "eval": []}}
  (tmp_path / "a" / "manifest.json").write_text(json.dumps(manifest))
  assert data.resolve(str(tmp_path / "a"))["name"] == "codes"


@pytest.mark.parametrize(
  "text,message", [('{"tokenizer": "abc", ', "is damaged"), ('{"tokenizer": "a"}', "class_names")]
)
def test_a_damaged_manifest_is_one_line(tmp_path, text, message):
  (tmp_path / "manifest.json").write_text(text)
  with pytest.raises(UserError, match=f"{message}.*python -m vqjax.tokenize anew"):
    data.resolve(str(tmp_path))


@pytest.mark.parametrize("name", build.names("data.sources"))
def test_every_source_states_its_contract(name):
  source = build.member("data.sources", name)
  assert hasattr(source, "class_names")
  assert hasattr(source, "records") != hasattr(source, "examples")
  if hasattr(source, "recognise"):
    assert isinstance(source.precedence, int) and source.kind


def test_real_data(real_data):
  kinds = {
    "fashion_mnist": "arrays",
    "emoji": "arrays",
    "nuclei_layout": "arrays",
    "photos256": "folder",
    "sign_digits64": "folder",
  }
  assert {k: data.resolve(str(real_data / k))["name"] for k in kinds} == kinds
  with pytest.raises(UserError, match="has no images"):
    data.resolve(str(real_data / "fsdd"))
