"""--data=PATH: every kind is recognised, and everything else is one clear line."""

import gzip
import pathlib

import numpy as np
import pytest
from PIL import Image

from vqjax import data
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
    assert data.num_examples(config, "train") > 0


@pytest.mark.parametrize(
  "make,message",
  [
    (lambda p: None, "does not exist"),
    (lambda p: p.with_name("thinh").mkdir(), "does not exist. Did you mean 'thinh'"),
    (lambda p: p.mkdir(), "is empty of data"),
    (lambda p: p.write_text("x"), "is not a folder of images, an .npz"),
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
