"""Video in files and in memory: gif, webp and mp4, read lazily, laid side by side, written.

Animated pictures are PIL's; mp4 and its kin need `av`, which is imported where it is needed.
"""

from __future__ import annotations

import dataclasses
import fractions
import pathlib
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import GifImagePlugin, Image

from vqjax import pictures
from vqjax.errors import UserError, reason

ANIMATED = (".gif", ".webp", ".apng")
FILMED = (".mp4", ".webm", ".mov", ".avi", ".mkv", ".m4v")
SUFFIXES = ANIMATED + FILMED
WRITTEN = (".gif", ".mp4")
RATE = 8.0  # frames in a second of what is written


def _av() -> types.ModuleType:
  try:
    import av
  except ImportError as e:
    raise UserError(f"films ({', '.join(FILMED)}) need av ({e}); run pip install av.") from None
  return av


@dataclasses.dataclass(frozen=True)
class File:
  """A video on the disk: its length is known, its frames are decoded when they are asked for.

  Attributes:
    path: of the file.
    frames: how many it has.
  """

  path: pathlib.Path
  frames: int

  def __len__(self) -> int:
    return self.frames

  def __getitem__(self, index: np.ndarray) -> np.ndarray:
    """The frames of these numbers, which do not decrease, as RGB uint8 [T, H, W, 3].

    Frames before the last one are decoded, too: codecs store what changes.
    """
    wanted = [int(i) for i in np.ravel(index)]
    found: dict[int, np.ndarray] = {}
    for number, frame in enumerate(_decoded(self.path)):
      if number in wanted:
        found[number] = frame()
      if number >= wanted[-1]:
        break
    if missing := set(wanted) - found.keys():
      raise UserError(f"{self.path}: ends before frame {min(missing)}; it is cut off.")
    return np.stack([found[i] for i in wanted])


@dataclasses.dataclass(frozen=True)
class Frames:
  """The same of a folder of numbered frames.

  Attributes:
    files: of the pictures, in their order.
  """

  files: tuple[pathlib.Path, ...]

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: np.ndarray) -> np.ndarray:
    """As `File` does. Raises UserError for frames of several sizes."""
    frames = [pictures.decode(self.files[int(i)]) for i in np.ravel(index)]
    if len(sizes := {frame.shape for frame in frames}) > 1:
      shown = " and ".join(sorted(f"{w}x{h}" for h, w, _ in sizes))
      raise UserError(f"{self.files[0].parent}: has frames of {shown}; make them alike.")
    return np.stack(frames)


def decode(file: str | pathlib.Path) -> File:
  """What a file holds. Raises UserError, or whatever a decoder does, where nothing can be read."""
  path = pathlib.Path(file)
  if path.suffix.lower() in FILMED:
    with _av().open(str(path)) as container:
      stream = container.streams.video[0]
      frames = stream.frames or sum(1 for _ in container.decode(stream))
  else:
    with Image.open(path) as image:
      frames = getattr(image, "n_frames", 1)
  if frames < 1:
    raise UserError(f"{path}: holds no frame.")
  return File(path, frames)


def read(file: str | pathlib.Path) -> File:
  """As `decode`. Raises UserError for whatever is wrong with the file."""
  try:
    opened = decode(file)
    opened[np.zeros(1, int)]
  except UserError:
    raise
  except Exception as e:  # decoders raise nearly anything on damaged files
    raise UserError(f"{file}: cannot be read as video ({reason(e)}).") from None
  return opened


def _decoded(path: pathlib.Path) -> Iterator[Any]:
  """A function for each frame in turn, which makes it RGB uint8 [H, W, 3]."""
  if path.suffix.lower() in FILMED:
    with _av().open(str(path)) as container:
      for frame in container.decode(video=0):
        yield lambda frame=frame: frame.to_ndarray(format="rgb24")
    return
  with Image.open(path) as image:
    for i in range(getattr(image, "n_frames", 1)):
      image.seek(i)
      yield lambda: pictures.on_white(image)


def fitted(video: Any, frames: int | None, stride: int = 1, start: int = 0) -> np.ndarray:
  """`frames` of a video, `stride` apart, from `start` on; where it ends before, its last one is
  repeated. None takes all.
  """
  frames = -(-(len(video) - start) // stride) if frames is None else frames
  index = np.minimum(start + stride * np.arange(frames), len(video) - 1)
  unique, again = np.unique(index, return_inverse=True)
  return video[unique][again]


def cut(
  video: np.ndarray, box: pictures.Box, size: tuple[int, int], channels: int | None
) -> np.ndarray:
  """The same part of every frame of uint8 [T, H, W, C], resized to `size`."""
  frames = [pictures.cut(frame, box, size, Image.Resampling.BICUBIC) for frame in video]
  return np.stack([pictures.to_channels(frame, channels) for frame in frames])


def strips(videos: np.ndarray) -> np.ndarray:
  """Frames beside each other: [B, T, H, W, C] -> [B, H, T (W + 1) - 1, C], a white line between."""
  gap = np.full((*videos.shape[:3], 1, videos.shape[4]), 255, np.uint8)
  wide = np.concatenate([videos, gap], axis=3).transpose(0, 2, 1, 3, 4)
  return wide.reshape(*wide.shape[:2], -1, videos.shape[4])[:, :, :-1]


def check(file: pathlib.Path) -> None:
  """Raises UserError where the suffix is none that is written."""
  if file.suffix.lower() not in WRITTEN:
    raise UserError(
      f"{file}: {file.suffix or 'no suffix'} is no video format; end the name in .gif or .mp4."
    )


def save(file: pathlib.Path, video: np.ndarray, rate: float = RATE) -> None:
  """Writes uint8 [T, H, W, 1 or 3], `rate` frames in a second. A gif of at most 256 colours loses
  nothing; an mp4 (H.264 of every colour, quality 12) loses little, and its sides are made even.

  Raises UserError as `check` does.
  """
  check(file)
  file.parent.mkdir(parents=True, exist_ok=True)
  video = np.repeat(video, 3, axis=-1) if video.shape[-1] == 1 else video
  if file.suffix.lower() == ".mp4":
    _save_mp4(file, video, rate)
    return
  frames = [_indexed(frame) for frame in video]
  # Image by image: PIL's own way makes one frame of several that are the same.
  blocks = list(GifImagePlugin.getheader(frames[0], info={"loop": 0, "version": b"89a"})[0])
  for frame in frames:
    blocks += GifImagePlugin.getdata(frame, duration=round(1000 / rate), include_color_table=True)
  file.write_bytes(b"".join(blocks) + b";")


def _indexed(frame: np.ndarray) -> Image.Image:
  """A picture of a palette: its own colours where these are few enough."""
  flat = frame.reshape(-1, 3)
  colours, index = np.unique(flat, axis=0, return_inverse=True)
  if len(colours) > 256:
    return Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE)
  image = Image.fromarray(index.reshape(frame.shape[:2]).astype(np.uint8), "P")
  image.putpalette(colours.tobytes())
  return image


def _save_mp4(file: pathlib.Path, video: np.ndarray, rate: float) -> None:
  av = _av()
  odd = [(0, n % 2) for n in video.shape[1:3]]
  video = np.pad(video, [(0, 0), *odd, (0, 0)], mode="edge")
  with av.open(str(file), "w") as container:
    stream = container.add_stream("libx264", rate=fractions.Fraction(rate).limit_denominator(1000))
    stream.height, stream.width = video.shape[1:3]
    stream.pix_fmt = "yuv444p"
    stream.options = {"crf": "12"}
    for frame in video:
      for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
        container.mux(packet)
    for packet in stream.encode():
      container.mux(packet)


def page(rows: Sequence[np.ndarray], captions: Sequence[Sequence[str]] = ()) -> np.ndarray:
  """Rows of videos [N, T, H, W, C] side by side as one, uint8 [T, H', W', 3]; of different lengths
  the shorter ones rest on their last frame.
  """
  longest = max(row.shape[1] for row in rows)
  at = lambda row, t: row[:, min(t, row.shape[1] - 1)]
  return np.stack(
    [pictures.sheet([at(row, t) for row in rows], captions=captions) for t in range(longest)]
  )
