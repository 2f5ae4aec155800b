"""Files of a run, in a folder or in a bucket: paths, whole and growing files, and what is said of a
write that fails.

Local paths are pathlib's, paths with a scheme etils.epath's (gs://, s3://); both answer to the same
methods. An object in a bucket appears whole, and can neither grow nor be renamed with a folder. A
path to an exported run, which is one file, or into it is vqjax.packed's, and answers to those that
read.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import pathlib
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vqjax.errors import UserError, reason

if TYPE_CHECKING:
  from etils import epath

  from vqjax.packed import Packed

  Path = pathlib.Path | epath.Path | Packed

_SCHEME = re.compile(r"([a-z][a-z0-9]+):/+(?=.)")  # pathlib makes gs:/ of gs://
_DRIVERS = {"gs": "gcsfs", "s3": "s3fs"}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UPLOAD_SECONDS = 60.0

EXPORTED = ".safetensors"  # how the name of an exported run ends


def path(text: str | os.PathLike[str]) -> Path:
  """A local path; one of etils.epath where `text` begins with a scheme such as gs://; one of
  vqjax.packed where it names an exported run, or something within.
  """
  file, inner = split_export(str(text))
  if not file or not (found := plain(file)).is_file():
    return plain(text)
  from vqjax.packed import Packed

  return Packed(str(found), inner)


def split_export(text: str) -> tuple[str, str]:
  """(the part of a path that ends as the name of an exported run, what stands within it); "" and ""
  where no part does.
  """
  found = re.match(rf"(.*?{re.escape(EXPORTED)})(?:/(.*))?$", text, re.DOTALL)
  return (found[1], (found[2] or "").strip("/")) if found else ("", "")


def is_packed(file: Path) -> bool:
  """Whether `file` is an exported run, or lies within one."""
  from vqjax.packed import Packed

  return isinstance(file, Packed)


def plain(text: str | os.PathLike[str]) -> Path:
  """As `path`, of a file or folder that is none of vqjax.packed."""
  if not (scheme := _SCHEME.match(str(text))):
    return pathlib.Path(text).expanduser()
  if scheme[1] in _DRIVERS and importlib.util.find_spec(_DRIVERS[scheme[1]]):
    _prefer_fsspec(scheme[1])
  from etils import epath

  try:
    return epath.Path(f"{scheme[1]}://{str(text)[scheme.end() :]}")
  except KeyError:
    raise UserError(
      f"{text}: {scheme[1]}:// is unknown; give a folder, or gs://BUCKET/FOLDER."
    ) from None


def _prefer_fsspec(scheme: str) -> None:
  os.environ.setdefault("EPATH_USE_TF", "false")  # else epath imports TensorFlow, for seconds
  import fsspec.config

  # Else it never sees what other processes write.
  protocol = fsspec.config.conf.setdefault({"gs": "gcs"}.get(scheme, scheme), {})
  protocol.setdefault("use_listings_cache", False)


def is_remote(file: Path) -> bool:
  """Whether `file` lies in a bucket."""
  return bool(_SCHEME.match(str(file)))


def make_workdir(workdir: Path) -> None:
  """Creates the folder of a run. Raises UserError where runs cannot live there."""
  if is_remote(workdir):
    scheme = str(workdir).partition(":")[0]
    if scheme != "gs":  # Orbax writes to no other
      raise UserError(
        f"--workdir={workdir}: a run lives in a folder or under gs://; mount the bucket "
        "(mount-s3 BUCKET /mnt/BUCKET) and give the path there."
      )
    if not importlib.util.find_spec("gcsfs"):  # brings google-cloud-storage, which Orbax asks for
      raise UserError(f"--workdir={workdir}: gs:// needs gcsfs; pip install gcsfs.")
  if make_folder(workdir):
    what = "is a file" if workdir.is_file() else "cannot be written"
    raise UserError(f"--workdir={workdir}: {what}; choose a folder that you own.")


def make_folder(folder: Path) -> str:
  """Makes it; says what is wrong where nothing can be written there, else ""."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    return f"cannot be a folder ({e.strerror})"
  return "" if is_remote(folder) or os.access(folder, os.W_OK) else "cannot be written"


def write_bytes(file: Path, content: bytes, workdir: Path | None = None) -> None:
  """Writes the whole of `file`: a run that is killed meanwhile finds the old or the new one.

  Raises UserError as `saving` does.
  """
  with saving(file, workdir, len(content)):
    if is_remote(file):
      file.write_bytes(content)
      return
    beside = file.with_name(f".{uuid.uuid4().hex}.new")  # another process may write it as well
    try:
      file.parent.mkdir(parents=True, exist_ok=True)
      beside.write_bytes(content)
      beside.replace(file)
    except OSError:
      with contextlib.suppress(OSError):
        beside.unlink()
      raise


def write_json(file: Path, content: Any) -> None:
  """Writes JSON into a workdir as `write_bytes` does, unless `file` holds just that."""
  text = (json.dumps(content, indent=2) + "\n").encode()
  if not file.exists() or file.read_bytes() != text:
    write_bytes(file, text, file.parent)


def read_json(file: Path) -> Any:
  """Raises UserError where `file` is no JSON."""
  try:
    return json.loads(file.read_text())
  except ValueError as e:
    raise UserError(
      f"{file}: is damaged ({e}); remove it and run python -m vqjax.main with --config again."
    ) from None


def notes(file: Path) -> dict[str, Any]:
  """What `read_json` reads, where it can be done without: {} of what is missing or damaged."""
  with contextlib.suppress(UserError, OSError):
    return read_json(file)
  return {}


def move(source: Path, target: Path) -> None:
  """Renames a folder; in a bucket, where nothing can be renamed, copies its files, then removes
  it.
  """
  if not is_remote(source):
    source.rename(target)
    return
  _copy(source, target)
  source.rmtree()


def copy_files(source: Path, target: Path) -> None:
  """Copies the files of a folder, which has no folders in it, into another that exists."""
  for file in source.iterdir():
    (target / file.name).write_bytes(file.read_bytes())


def _copy(source: Path, target: Path) -> None:
  if not source.is_dir():
    source.copy(target, overwrite=True)
    return
  target.mkdir(parents=True, exist_ok=True)
  for part in source.iterdir():
    _copy(part, target / part.name)


class Growing:
  """A file that bytes are added to, after the first `keep` of those that it has.

  On a disk each addition is written at once. In a bucket the whole object is written anew, at most
  once a minute and by `flush`. Methods raise UserError as `saving` does.
  """

  def __init__(self, file: Path, workdir: Path, keep: int = 0):
    self.file, self._workdir = file, workdir
    self._uploaded, self._changed = time.monotonic(), False
    with saving(file, workdir, 0):
      if is_remote(file):
        self._content = bytearray(file.read_bytes()[:keep] if keep else b"")
      else:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._raw = file.open("ab", buffering=0)  # a buffer would fail once more when it is closed
        if file.stat().st_size > keep:
          os.truncate(file, keep)

  def write(self, content: bytes) -> None:
    with saving(self.file, self._workdir, len(content)):
      if not is_remote(self.file):
        while content:
          content = content[self._raw.write(content) :]
        return
    self._content += content
    self._changed = True
    if time.monotonic() - self._uploaded > _UPLOAD_SECONDS:
      self.flush()

  def flush(self) -> None:
    """Brings everything to where a killed process does not lose it."""
    if self._changed:
      write_bytes(self.file, bytes(self._content), self._workdir)
      self._uploaded, self._changed = time.monotonic(), False

  def close(self) -> None:
    self.flush()
    if not is_remote(self.file):
      self._raw.close()


def cache() -> str:
  """Where this machine keeps compiled programs, and notes of what it wrote: VQJAX_CACHE as it was
  given, which may be a bucket, or empty for nowhere.
  """
  return os.environ.get("VQJAX_CACHE", str(pathlib.Path.home() / ".cache" / "vqjax" / "xla"))


def saved_steps(workdir: Path) -> list[int]:
  """The steps of a run's finished checkpoints, in order; none where it cannot be read."""
  folder = workdir / "checkpoints"
  try:
    steps = [p for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    if is_remote(workdir):  # folders are there from the first file on; this one comes last
      steps = [p for p in steps if (p / "commit_success.txt").exists()]
  except OSError:
    return []
  return sorted(int(p.name) for p in steps)


def kept(workdir: Path) -> str:
  """What of a run is safe, in words."""
  steps = saved_steps(workdir)
  return f"the last good step is {steps[-1]}" if steps else "no step had been saved"


@contextlib.contextmanager
def saving(file: Path, workdir: Path | None = None, needed: int = 0) -> Iterator[None]:
  """Turns what the system has against writing `file` into a UserError; other errors pass.

  It names the file, the last good step of the run in `workdir`, and on a full disk how many bytes
  are `needed` and free.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as e:
    if (found := _system(e)) is None:
      raise
    raise UserError(_refusal(file, workdir, needed, *found)) from e


def _refusal(file: Path, workdir: Path | None, needed: int, number: int, text: str) -> str:
  said = f"{file}: cannot be written ({text})"
  if number in _FULL:
    said += f": {_size(needed)} needed, {_size(_free(file))} free"
  if workdir is not None:
    said += f"; {kept(workdir)}"
  remedy = "Make room" if number in _FULL else "Put that right"
  return f"{said}. {remedy}, then run the same command again."


def _system(error: BaseException | None) -> tuple[int, str] | None:
  """(errno or 0, its text) of a file system's error, whichever library raised it; else None."""
  while error is not None:
    if isinstance(error, OSError) and error.errno is not None:
      return error.errno, os.strerror(error.errno)
    text = str(error)
    # TensorStore and TensorFlow have their own errors; some keep the number, all keep the words.
    if number := re.search(r"os_error_code='?(\d+)", text):
      return int(number[1]), os.strerror(int(number[1]))
    for number in (*_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO):
      if os.strerror(number) in text:
        return number, os.strerror(number)
    if isinstance(error, OSError) or any(c.__name__ == "OpError" for c in type(error).__mro__):
      return 0, reason(error)
    error = error.__cause__ or error.__context__
  return None


def _free(file: Path) -> int:
  folder = pathlib.Path(file).absolute()
  while not folder.exists() and folder != folder.parent:
    folder = folder.parent
  return shutil.disk_usage(folder).free


def _size(number: int) -> str:
  for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
    if number >= 1000**power:
      return f"{number / 1000**power:.3g} {unit}"
  return f"{number} bytes"
