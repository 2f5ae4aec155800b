"""The codec beside WebP, JPEG and AVIF: python -m vqjax.bench --suite=codec --workdir=RUN
[--data=PATH] [--examples=N] [--output=FILE.png]

Over held-out images of a tokenizer or a prior: what each mode costs in one archive and in a file
each, images per second in both directions beside the mere reconstruction, and a plot of PSNR
(mean of per-image PSNR) against bytes per image, whole files with their headers. At the bytes of
the tokenizer's files and at their PSNR the other formats are interpolated linearly between their
qualities.
"""

from __future__ import annotations

import io
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vqjax import cli
from vqjax.errors import UserError

FORMATS = {"WebP": "#2a7f3f", "JPEG": "#b03030", "AVIF": "#8040a0"}
QUALITIES = (1, 5, 10, 20, 30, 45, 60, 75, 90)
OURS = {"static": "#79b4e8", "context": "#2050c0", "integer": "#e07000", "prior": "#303030"}
Points = list[tuple[float, float]]  # (bytes per image, dB)


def psnr(images: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
  """The mean of per-image PSNR in dB, at most 100."""
  errors = [np.square((a.astype(float) - b) / 255).mean() for a, b in zip(images, found)]
  return float(np.mean(-10 * np.log10(np.maximum(errors, 1e-10))))


def curve(name: str, images: Sequence[np.ndarray]) -> Points:
  """What PIL's encoder of a format makes of images `[H, W, 1 or 3]`, by quality."""
  found = []
  for quality in QUALITIES:
    packed = [_packed(image, name, quality) for image in images]
    back = [_unpacked(data, image.shape[-1]) for data, image in zip(packed, images)]
    found.append((float(np.mean([len(data) for data in packed])), psnr(images, back)))
  return found


def _packed(image: np.ndarray, name: str, quality: int) -> bytes:
  out = io.BytesIO()
  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  options = {"method": 6} if name == "WebP" else {"optimize": True} if name == "JPEG" else {}
  picture.save(out, format=name, quality=quality, **options)
  return out.getvalue()


def _unpacked(data: bytes, channels: int) -> np.ndarray:
  picture = Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB")
  return np.asarray(picture).reshape(*picture.size[::-1], channels)


def interpolated(points: Points, at: float, axis: int) -> str:
  """The other coordinate of a curve where one is `at`; beyond its ends, the end and a sign."""
  found = sorted((p[axis], p[1 - axis]) for p in points)
  if not found[0][0] <= at <= found[-1][0]:
    end, sign = (found[0], "<") if at < found[0][0] else (found[-1], ">")
    return f"{sign} {end[1]:.1f}"
  return f"{np.interp(at, *zip(*found)):.1f}"


def plot(series: dict[str, tuple[str, Points]], title: str) -> np.ndarray:
  """Lines (single points as squares) of (bytes, dB), bytes on a logarithmic axis: uint8 RGB."""
  width, height, left, top, right, bottom = 760, 480, 60, 36, 20, 50
  points = [p for _, own in series.values() for p in own]
  low, high = (
    np.floor(np.log2(min(p[0] for p in points))),
    np.ceil(np.log2(max(p[0] for p in points))),
  )
  least, most = (f(side / 5) * 5 for f, side in ((np.floor, min(p[1] for p in points)),
                                                 (np.ceil, max(p[1] for p in points))))  # fmt: skip
  page = Image.new("RGB", (width, height), "white")
  draw = ImageDraw.Draw(page)
  x = lambda size: left + (np.log2(size) - low) / (high - low) * (width - left - right)
  y = lambda db: height - bottom - (db - least) / (most - least) * (height - top - bottom)
  for power in range(int(low), int(high) + 1):
    draw.line([(x(2.0**power), top), (x(2.0**power), height - bottom)], "#dddddd")
    draw.text((x(2.0**power), height - bottom + 6), str(2**power), "black", anchor="ma")
  for db in np.arange(least, most + 1, 5):
    draw.line([(left, y(db)), (width - right, y(db))], "#dddddd")
    draw.text((left - 6, y(db)), f"{db:.0f}", "black", anchor="rm")
  draw.text((width / 2, 10), title, "black", anchor="ma")
  draw.text((width / 2, height - 18), "bytes per image, headers included", "black", anchor="ma")
  draw.text((8, top - 18), "PSNR, dB", "black")
  for i, (name, (colour, own)) in enumerate(series.items()):
    at = [(x(size), y(db)) for size, db in own]
    if len(at) > 1:
      draw.line(at, colour, 2)
    for a, b in at:
      side = 2 if len(at) > 1 else 4
      draw.rectangle([a - side, b - side, a + side, b + side], colour)
    draw.rectangle([left + 12, top + 12 + 16 * i, left + 20, top + 20 + 16 * i], colour)
    draw.text((left + 26, top + 16 + 16 * i), name, "black", anchor="lm")
  return np.asarray(page)


def speed(call: Callable[[], Any], number: int) -> str:
  """Examples per second of the second call; the first compiles."""
  call()
  start = time.perf_counter()
  call()
  return f"{number / (time.perf_counter() - start):.1f}"


def main(argv: Sequence[str]) -> None:
  from vqjax import pictures, reconstruct, writers
  from vqjax.api import rates

  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=cli.path)
  parser.add_argument("--data", metavar="PATH", help="instead of what the tokenizer learned")
  parser.add_argument("--examples", type=cli.count, default=256)
  parser.add_argument("--output", type=cli.local, default=pathlib.Path("codec.png"))
  args = parser.parse_args(argv)
  pictures.check(args.output)
  model = reconstruct.opened(args.workdir)
  images = _images(model.codec.tokenizer, args)
  examples, _ = model.codec.encode(images)
  found = rates.measure(model, examples)
  size, number = model.info.size, len(images)
  heads = ["mode", "header, bytes", "codes, bytes", "bits per pixel", "bound"]
  print(f"{number} held-out images of {size[0]}x{size[1]} in one archive, of each image:")
  print(writers.table(heads, rates.rows(found, size)))
  print(writers.table(["images/s", "compress", "decompress"], _speeds(model, images, found)))
  ours, quality = _alone(model, images, found)
  others = {name: curve(name, images) for name in FORMATS}
  series = {f"vqjax, {m}": (OURS.get(m, "#2050c0"), [(b, quality)]) for m, b in ours.items()}
  series |= {name: (FORMATS[name], points) for name, points in others.items()}
  pictures.save(args.output, plot(series, f"{number} held-out images of {size[0]}x{size[1]}"))
  rows = [
    [mode, f"{size:.1f}", f"{quality:.2f}", *(interpolated(p, size, 0) for p in others.values())]
    + [interpolated(p, quality, 1) for p in others.values()]
    for mode, size in ours.items()
  ]
  heads = ["a file each", "bytes", "PSNR, dB"]
  heads += [f"{n}, dB at these bytes" for n in others] + [
    f"{n}, bytes at this PSNR" for n in others
  ]
  print(writers.table(heads, rows))
  print(f"written to {args.output}")


def _images(tokenizer: Any, args: Any) -> list[np.ndarray]:
  if (field := tokenizer.info.signal.field) != "image":
    raise UserError(f"--workdir={args.workdir}: is of {field}s; only images have other formats.")
  batches = tokenizer.loaded.dataset(args.data).batches(64, limit=args.examples)
  return [row for batch, mask in batches for row, real in zip(batch[field], mask) if real]


def _alone(model: Any, images: list[np.ndarray], modes: Any) -> tuple[dict[str, float], float]:
  """({mode: bytes of a file each}, PSNR of what comes back)."""
  few = images[:64]  # files of one picture pay every step for themselves
  found = {}
  for mode in modes:
    if mode in model.codec.modes:
      packed = model.codec.pack(
        few if model.codec.mode(mode).networked else images, mode, alone=True
      )
      found[mode] = float(np.mean([len(data) for data in packed]))
  (archive,) = model.codec.pack(images, "context")
  return found, psnr(images, model.codec.open(archive).read_all())


def _speeds(model: Any, images: list[np.ndarray], modes: Any) -> list[list[str]]:
  number, rows = len(images), []
  for mode in modes:
    if mode in model.codec.modes:
      (data,) = model.codec.pack(images, mode)
      into = speed(lambda mode=mode: model.codec.pack(images, mode), number)
      rows.append([mode, into, speed(lambda: model.codec.open(data).read_all(), number)])
  stacked = [np.stack(images[i : i + 64]) for i in range(0, number, 64)]
  plain = speed(lambda: [model.reconstruct(part) for part in stacked], number)
  return [*rows, ["reconstruct alone", plain, plain]]
