"""An exported run: one safetensors file that is read like the folder of the run that it was.

Its texts are the run's small files and its tensors the weights that predictions use, each under the
name that it has in the run: `config.json`, `params/model/encoder/…`. Runs that it depends on are
folders within: `tokenizer/config.json`. A small file that is no text is a tensor of its bytes.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

import vqjax
from vqjax import files, tensors
from vqjax.errors import UserError

FORMAT = 1  # a reader refuses a higher one
_SUM = "sha256"  # of all else in the file
_NEW = "python -m vqjax.export"


class Packed(pathlib.PurePosixPath):
  """A file or folder within an exported run, or the whole: what readers ask of a local path.

  Every question raises UserError, one line that names the file, where that is damaged, foreign or
  of a newer format; so does what would write.
  """

  __slots__ = ()

  @property
  def container(self) -> files.Path:
    """The safetensors file."""
    return files.plain(files.split_export(str(self))[0])

  @property
  def _inner(self) -> str:
    return files.split_export(str(self))[1]

  @property
  def _content(self) -> tensors.Tensors:
    file = self.container
    # What a bucket holds is taken as it was when it was first read.
    stat = None if files.is_remote(file) else file.stat()
    return _opened(str(file), stat and (stat.st_size, stat.st_mtime_ns))

  def is_file(self) -> bool:
    return self._inner in self._content.texts or self._inner in self._content

  def is_dir(self) -> bool:
    start, content = f"{self._inner}/" if self._inner else "", self._content
    return any(name.startswith(start) for names in (content.texts, content) for name in names)

  def exists(self) -> bool:
    return self.is_file() or self.is_dir()

  def read_bytes(self) -> bytes:
    if self._inner in self._content.texts:
      return self._content.texts[self._inner].encode()
    if not self.is_file():
      raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
    return self._content[self._inner].tobytes()

  def read_text(self, encoding: str = "utf-8") -> str:
    return self.read_bytes().decode(encoding)

  def weights(self, names: Iterable[str]) -> dict[str, np.ndarray]:
    """{name: tensor} of those below this folder that are there."""
    content, full = self._content, {str(pathlib.PurePosixPath(self._inner, n)): n for n in names}
    return {full[name]: x for name, x in content.read(full.keys() & content.keys())}

  def absolute(self) -> Packed:
    return Packed(str(self.container.absolute()), self._inner)

  def mkdir(self, *_: Any, **__: Any) -> None:
    raise UserError(
      f"{self.container}: is an exported run, which is read and never written; give a folder, and "
      f"--config.init_from={self.container} to train on from its weights."
    )

  write_bytes = mkdir


def results(workdir: files.Path) -> files.Path:
  """Where a command leaves what it finds out about a run: its workdir, or of an exported run
  F.safetensors the folder F beside it.
  """
  if not isinstance(workdir, Packed):
    return workdir
  file, inner = files.split_export(str(workdir))
  return files.plain(file.removesuffix(files.EXPORTED)) / inner


@functools.lru_cache(maxsize=32)
def _opened(file: str, stamp: Any) -> tensors.Tensors:
  """The file, checked once for each `stamp`."""
  del stamp
  found = tensors.Tensors(files.plain(file))
  version = found.texts.get("format_version", "")
  if found.texts.get("format") != "vqjax" or not version.isdecimal():
    raise UserError(
      f"{file}: holds tensors, but no run that {_NEW} wrote; published weights are read by "
      "python -m vqjax.convert."
    )
  if int(version) > FORMAT:
    raise UserError(
      f"{file}: is of format {version}, written by {found.texts.get('made_by')}; vqjax "
      f"{vqjax.__version__} reads {FORMAT}; install a newer one."
    )
  if _digest(found.texts, found) != found.texts.get(_SUM):
    raise UserError(f"{file}: is damaged: its contents are not what was written; get it anew.")
  return found


def _digest(texts: Mapping[str, str], named: Mapping[str, np.ndarray]) -> str:
  told = {name: text for name, text in texts.items() if name != _SUM}
  # A file's are read in the order in which they stand there.
  read = named.read(named) if isinstance(named, tensors.Tensors) else named.items()
  sums = {
    name: [str(x.dtype), x.shape, hashlib.sha256(tensors.raw(x)).hexdigest()] for name, x in read
  }
  return hashlib.sha256(json.dumps([told, sums], sort_keys=True).encode()).hexdigest()


def content(texts: Mapping[str, str], named: Mapping[str, np.ndarray]) -> bytes:
  """The file of a run with these small files and these tensors."""
  made_by = f"vqjax {vqjax.__version__}"
  texts = {"format": "vqjax", "format_version": str(FORMAT), "made_by": made_by} | dict(texts)
  return tensors.content(named, texts | {_SUM: _digest(texts, named)})
