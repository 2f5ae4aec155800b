"""Arrays in files: .npz, .npy, and folders of IDX pairs (the MNIST family). Numpy only.

Keys of an .npz, the first that is there (`x_train`, `y_train`, `x_test`, `y_test` … give both
splits):

  images    `images`, `x`, `image`; or the only array. [N, H, W] or [N, H, W, C], 1, 3 or 4 channels
            (alpha on white).
  video     `videos`, `video`, or whatever of the above has five axes: [N, T, H, W, C].
  labels    `labels`, `y`, `label`: integers [N] or [N, 1]. uint8 [N, H, W] is a `layout`, as are
            `layout`, `layouts`.
  captions  `captions`, `text`: strings [N], or [N, K] for several of each image; or a
            `captions.json` beside the file, a list in the same order of strings, of lists of them
            or of {"caption": …, "split": …}.
  split     `test`, booleans, True where held out; or `split`, strings: all but "train" is held out.
            Without one, one in ten is held out by a hash of its index.

Pixels: uint8, or other integers in 0..255; booleans; floats in [0, 1], [-1, 1] or [0, 255], told by
their extremes.

IDX: `*train*images*idx*` and `*labels*`, plain or .gz; `t10k` or `test` is held out. `classes.json`
names the classes.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from vqjax import fields, pictures
from vqjax.data.sources import hold_out
from vqjax.errors import UserError, reason

_IMAGES = ("images", "x", "image", "videos", "video")
_LABELS = ("labels", "y", "label")
_PACKED = (".npz", ".npy")
_LAYOUTS, _TEXTS = ("layout", "layouts"), ("captions", "text")
_BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)

Columns = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Source:
  """Field: the file, or the folder of IDX files."""

  precedence: ClassVar[int] = 2
  kind: ClassVar[str] = "an .npz or .npy file or a folder with one, a folder of IDX files"

  path: str = fields.place()

  @staticmethod
  def recognise(path: pathlib.Path) -> dict[str, Any] | None:
    """A folder of pictures with arrays beside them is not for this source, but for `folder`."""
    if path.is_file():
      return {"name": "arrays", "path": str(path)} if path.suffix in _PACKED else None
    files = [p for p in path.iterdir() if p.is_file()]
    if any(map(is_idx, files)):
      return {"name": "arrays", "path": str(path)}
    packed = sorted(p for p in files if p.suffix in _PACKED)
    if not packed or pictures.has_files(path):
      return None
    if len(packed) > 1:
      raise UserError(
        f"--data={path}: holds several arrays; name one of {', '.join(p.name for p in packed)}."
      )
    return {"name": "arrays", "path": str(packed[0])}

  def examples(self, split: str) -> Rows:
    path = pathlib.Path(self.path).expanduser()
    if not path.exists():
      raise UserError(
        f"config.data.path: {self.path!r} does not exist; give an .npz or .npy file, or a folder "
        "of IDX files."
      )
    changed = path.stat().st_mtime_ns
    columns = _load(path, changed)[split]
    if not len(_leading(columns)):
      raise UserError(f"{path}: has no examples for the {split} split.")
    return Rows(columns, f"{path.name} {split}")

  def class_names(self) -> tuple[str, ...]:
    path = pathlib.Path(self.path).expanduser()
    file = (path if path.is_dir() else path.parent) / "classes.json"
    if not file.is_file():
      return ()
    try:
      return tuple(map(str, json.loads(file.read_text())))
    except (ValueError, TypeError):
      raise UserError(
        f'config.data.path: {file} is no list of names; write ["first", "second", …] or remove it.'
      ) from None


@dataclasses.dataclass(frozen=True)
class Rows:
  """One split: columns of equal length."""

  columns: Columns
  name: str

  @property
  def texts(self) -> list[str | list[str]] | None:
    return self.columns.get("text")

  @property
  def labels(self) -> np.ndarray | None:
    return self.columns.get("label")

  def __len__(self) -> int:
    return len(_leading(self.columns))

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {key: column[index] for key, column in self.columns.items()} | {
      "name": f"{self.name} {index}"
    }


def is_idx(path: pathlib.Path) -> bool:
  """Whether a file's name is one of the MNIST family's."""
  return path.suffix in ("", ".gz") and "idx" in path.name and "ubyte" in path.name


@functools.lru_cache(maxsize=2)
def _load(path: pathlib.Path, changed: int) -> dict[str, Columns]:
  """Reads everything once; `changed` is part of the key, so that a rewritten file is read again."""
  del changed
  if path.is_dir():
    return _load_idx(path)
  if path.suffix not in _PACKED:
    raise UserError(f"{path}: is not an .npz or .npy file.")
  try:
    arrays = np.load(path, mmap_mode="r", allow_pickle=False)
    arrays = dict(arrays) if path.suffix == ".npz" else {"images": arrays}
  except _BROKEN as e:
    objects = "allow_pickle" in str(e)
    remedy = (
      "save strings as a unicode array, not as objects"
      if objects
      else "it is damaged or mislabelled"
    )
    raise UserError(f"{path}: cannot be read as {path.suffix}; {remedy} ({reason(e)}).") from None
  if len(arrays) == 1 and _find(arrays, _IMAGES) is None:
    arrays = {"images": next(iter(arrays.values()))}
  suffix = "" if _find(arrays, _IMAGES, "_train") is None else "_train"
  columns = _columns(arrays, path, suffix)
  if suffix and _find(arrays, _IMAGES, "_test") is not None:
    return {"train": columns, "eval": _columns(arrays, path, "_test")}
  num = len(_leading(columns))
  held = _held_out(arrays, path, num)
  beside = path.with_name("captions.json")
  if "text" not in columns and beside.is_file():
    columns["text"], split = _captions(beside, num)
    held = split if split is not None else held
  return _parted(columns, held)


def _parted(columns: Columns, held: np.ndarray | None) -> dict[str, Columns]:
  """The splits of entries of which those in `held`, bool [N], are held out; None chooses some by
  their numbers.
  """
  if held is None:
    held = hold_out([str(i) for i in range(len(_leading(columns)))])
  splits = {"train": ~held, "eval": held}
  return {
    split: {k: _select(v, keep) for k, v in columns.items()} for split, keep in splits.items()
  }


def _columns(arrays: Mapping[str, np.ndarray], path: pathlib.Path, suffix: str) -> Columns:
  """Finds images, labels, layout and captions among the arrays; checks that they fit together."""
  images = _find(arrays, _IMAGES, suffix)
  if images is None:
    wanted = ", ".join(k + suffix for k in _IMAGES)
    raise UserError(
      f"{path}: has no images; looked for {wanted}, found {', '.join(arrays) or 'nothing'}."
    )
  where = f"{path}: images{suffix}"
  if images.ndim == 5:
    frames = to_pixels(images.reshape(-1, *images.shape[2:]), where)
    columns: Columns = {"video": frames.reshape(*images.shape[:4], -1)}
  else:
    columns = {"image": to_pixels(images, where)}
  num, (height, width) = len(images), _leading(columns).shape[-3:-1]
  labels, layout = _find(arrays, _LABELS, suffix), _find(arrays, _LAYOUTS, suffix)
  if labels is not None and labels.ndim == 3:
    labels, layout = None, labels
  if labels is not None:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
      raise UserError(
        f"{path}: labels{suffix} are {labels.dtype} {list(labels.shape)}; give integers [{num}], "
        f"or a uint8 map [{num}, {height}, {width}]."
      )
    if labels.size and not -(2**31) <= labels.min() <= labels.max() < 2**31:
      raise UserError(
        f"{path}: labels{suffix} are {labels.min()} to {labels.max()}; give classes of 32 bits."
      )
    columns["label"] = labels.astype(np.int32)
  if layout is not None:
    if layout.dtype != np.uint8 or layout.shape[1:] != (height, width):
      raise UserError(
        f"{path}: the layout{suffix} is {layout.dtype} {list(layout.shape)}; give uint8 "
        f"[{num}, {height}, {width}]."
      )
    columns["layout"] = layout
  texts = _find(arrays, _TEXTS, suffix)
  if texts is not None:
    if texts.dtype.kind not in "US" or texts.ndim not in (1, 2) or not texts.size:
      raise UserError(
        f"{path}: captions{suffix} are {texts.dtype} {list(texts.shape)}; give strings "
        f"[{num}] or [{num}, K]."
      )
    columns["text"] = texts.astype(str).tolist()
  for key, column in columns.items():
    if len(column) != num:
      raise UserError(
        f"{path}: has {num} images{suffix} but {len(column)} entries of {key}; they must pair up."
      )
  return columns


def _leading(columns: Columns) -> np.ndarray:
  """The images or videos."""
  return next(iter(columns.values()))


def to_pixels(images: np.ndarray, where: str) -> np.ndarray:
  """[N, H, W] or [N, H, W, C] of any supported range -> uint8 [N, H, W, 1 or 3].

  Raises UserError otherwise.
  """
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape[1:]:
    raise UserError(
      f"{where} has shape {list(images.shape)}; give [N, H, W] or [N, H, W, C], "
      "1, 3 or 4 channels last."
    )
  if images.dtype == bool:
    images = images * np.uint8(255)
  elif images.dtype != np.uint8 and images.size:
    images = _scaled(images, where)
  if images.shape[-1] == 4:
    alpha = images[..., 3:].astype(np.float32) / 255
    images = (images[..., :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
  return images.astype(np.uint8, copy=False)


def _scaled(images: np.ndarray, where: str) -> np.ndarray:
  if images.dtype.kind not in "iuf":
    raise UserError(f"{where} is {images.dtype}; give uint8, or floats in [0, 1].")
  low, high = images.min(), images.max()
  floats = images.dtype.kind == "f"
  if floats and 0 <= low and high <= 1:
    scale, shift = 255, 0.5
  elif floats and -1 <= low and high <= 1:
    scale, shift = 127.5, 128
  elif 0 <= low and high <= 255:
    scale, shift = 1, 0.5
  else:
    raise UserError(
      f"{where} is {images.dtype} from {low} to {high}; give uint8, or floats in [0, 1], [-1, 1] "
      "or [0, 255]."
    )
  return np.clip(images * np.float32(scale) + np.float32(shift), 0, 255).astype(np.uint8)


def _held_out(arrays: Mapping[str, np.ndarray], path: pathlib.Path, num: int) -> np.ndarray | None:
  held, wrong = None, None
  flags = arrays.get("test")
  if flags is not None and (flags.dtype == bool or flags.shape == (num,)):
    if flags.dtype == bool or flags.dtype.kind in "iu" and np.isin(flags, (0, 1)).all():
      held = flags.astype(bool)
    else:
      wrong = f"test is {flags.dtype}; give True or False"
  elif (names := arrays.get("split")) is not None:
    if names.dtype.kind in "US":
      held = names.astype(str) != "train"
    elif names.shape == (num,):
      wrong = f"split is {names.dtype}; give 'train' or another word"
  if wrong:
    raise UserError(f"{path}: {wrong} for each image.")
  if held is not None and held.shape != (num,):
    raise UserError(
      f"{path}: the split has shape {list(held.shape)} but there are {num} images; "
      "give one per image."
    )
  return held


def _captions(path: pathlib.Path, num: int) -> tuple[list[str | list[str]], np.ndarray | None]:
  """Captions and, where every entry has one, the split."""
  try:
    entries = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(entries, list):
      raise ValueError("it is not a list")
    entries = [{"caption": e} if isinstance(e, (str, list)) else e for e in entries]
    texts = [e["caption"] for e in entries]
    for text in texts:
      if not all(isinstance(t, str) for t in (text if isinstance(text, list) else [text])):
        raise ValueError(f"{text!r} is no caption")
    held = (
      np.array([e["split"] != "train" for e in entries])
      if all("split" in e for e in entries)
      else None
    )
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise UserError(
      f"{path}: give a JSON list of strings or of objects with a 'caption' ({reason(e)})."
    ) from None
  if len(texts) != num:
    raise UserError(
      f"{path}: has {len(texts)} captions for {num} images; they must pair up, or move it "
      "elsewhere."
    )
  return texts, held


def _load_idx(folder: pathlib.Path) -> dict[str, Columns]:
  files = sorted(f for f in folder.iterdir() if is_idx(f))
  splits = {}
  for split, words in (("train", ("train",)), ("eval", ("t10k", "test"))):
    found = {}
    for kind in ("images", "labels"):
      matches = {
        f.name.removesuffix(".gz"): f
        for f in files
        if kind in f.name and any(w in f.name for w in words)
      }
      if len(matches) > 1:
        raise UserError(
          f"{folder}: several {split} {kind}: {', '.join(sorted(matches))}; keep one data set "
          "in it."
        )
      found[kind] = _read_idx(*matches.values()) if matches else None
    if found["images"] is None and (split == "train" or found["labels"] is not None):
      raise UserError(
        f"{folder}: no {split} images; expected e.g. {words[0]}-images-idx3-ubyte.gz."
      )
    if found["images"] is not None:
      splits[split] = _columns({k: v for k, v in found.items() if v is not None}, folder, "")
  return splits if "eval" in splits else _parted(splits["train"], None)


def _read_idx(path: pathlib.Path) -> np.ndarray:
  """Reads one IDX file of unsigned bytes: 0, 0, 8, rank, big-endian sizes, data."""
  try:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
  except _BROKEN as e:
    raise UserError(f"{path}: cannot be read; it is cut short or not gzip ({reason(e)}).") from None
  rank = data[3] if data[:3] == b"\x00\x00\x08" and len(data) > 3 else 0
  if not rank or len(data) < 4 + 4 * rank:
    raise UserError(
      f"{path}: is not an IDX file of unsigned bytes "
      f"(it begins with {data[:4].hex() or 'nothing'})."
    )
  shape = np.frombuffer(data, ">u4", rank, 4).astype(np.int64)
  if (size := int(np.prod(shape))) != len(data) - 4 - 4 * rank:
    raise UserError(
      f"{path}: its header says {size} bytes {shape.tolist()}, "
      f"but {len(data) - 4 - 4 * rank} follow."
    )
  return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _find(
  arrays: Mapping[str, np.ndarray], keys: tuple[str, ...], suffix: str = ""
) -> np.ndarray | None:
  return next((arrays[k + suffix] for k in keys if k + suffix in arrays), None)


def _select(column: Any, keep: np.ndarray) -> Any:
  return [v for v, k in zip(column, keep) if k] if isinstance(column, list) else column[keep]
