"""A stand-in for a bucket: gs:// as etils.epath and TensorStore see it, in a local folder.

Objects appear whole; nothing can be appended to or renamed, and folders are but prefixes.
"""

import io
import os
import pathlib
import shutil

from etils.epath import backend, gpath, stat_utils
from orbax.checkpoint._src.path import gcs_utils

from vqjax import files


class Object(io.BytesIO):
  """Written on close, whole."""

  def __init__(self, file, text):
    super().__init__()
    self._file, self._text = file, text

  def write(self, content):
    return super().write(content.encode() if self._text else content)

  def close(self):
    if not self.closed:
      self._file.parent.mkdir(parents=True, exist_ok=True)
      self._file.write_bytes(self.getvalue())
    super().close()


class Bucket(backend._OsPathBackend):
  def __init__(self, root):
    self._root = root

  def _at(self, path):
    assert os.fspath(path).startswith("gs://"), path
    return self._root / os.fspath(path).removeprefix("gs://")

  def open(self, path, mode):
    if mode.startswith("r"):
      return super().open(self._at(path), mode)
    assert mode in ("w", "wb"), "an object cannot grow"
    return Object(self._at(path), mode == "w")

  def glob(self, path):
    return [
      "gs://" + str(pathlib.Path(p).relative_to(self._root))
      for p in super().glob(str(self._at(path)))
    ]

  def walk(self, top, **options):
    for folder, folders, names in super().walk(self._at(top), **options):
      yield "gs://" + str(pathlib.Path(folder).relative_to(self._root)), folders, names

  def makedirs(self, path, *, exist_ok=False, mode=None):
    super().makedirs(self._at(path), exist_ok=True)

  mkdir = makedirs

  def rename(self, path, dst):
    raise AssertionError(f"{path}: nothing in a bucket can be renamed")

  replace = rename

  def copy(self, path, dst, overwrite):
    self._at(dst).parent.mkdir(parents=True, exist_ok=True)
    super().copy(self._at(path), self._at(dst), overwrite)

  def rmtree(self, path):
    shutil.rmtree(self._at(path))

  def stat(self, path):
    found = self._at(path).stat()
    return stat_utils.StatResult(
      is_directory=self._at(path).is_dir(),
      length=found.st_size,
      mtime=int(found.st_mtime),
      owner=None,
      group=None,
      mode=None,
    )


for _name in ("exists", "isdir", "listdir", "remove"):
  setattr(
    Bucket,
    _name,
    lambda self, path, _name=_name: getattr(backend._OsPathBackend, _name)(self, self._at(path)),
  )


def stand_in(monkeypatch, root):
  """Puts gs:// under `root` for a test; returns a workdir there."""
  bucket = Bucket(root)
  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", bucket)
  monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
  monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)

  def kvstore(path):  # a file of shardings, else a folder
    place = str(bucket._at(path))
    return {"driver": "file", "path": place if place.endswith("/_sharding") else place + "/"}

  monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", kvstore)
  spec = files.importlib.util.find_spec
  monkeypatch.setattr(
    files.importlib.util, "find_spec", lambda name: True if name == "gcsfs" else spec(name)
  )
  return files.path("gs://bucket/runs/a")
