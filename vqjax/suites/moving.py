"""What a prior of moving shapes keeps: python -m vqjax.bench --suite=moving --workdir=PRIOR
[--num=64 --frames=2 --temperature=1.0 --output=predicted.gif]

Gives the prior the first frames of held-out videos of one object each, and reads from the pixels of
what it draws after them, without a network, whether the object is there and has the shape, the
colour and the direction that it had. Beside it stand what the same eyes read of the real videos, of
their reconstructions by the tokenizer (the most that a prior can reach) and of frames that stand
still (what no motion gets).

How a frame is read: its colour is that of the palette which is nearest to most of the pixels that
are not ground; its place is the centre of these; its shape is the one whose drawing at that place
covers the same pixels best; too few pixels are no object. A video's direction is that of the way
from the last given frame to the first drawn one, from there to the next, and so on; where the true
object meets the border the two may differ, so that a way counts as kept if it is within 45 degrees
of the true one, which the data tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vqjax import cli
from vqjax.data.sources import moving_shapes, shapes
from vqjax.errors import UserError

_SEEN = 48  # by which a pixel's channels, together, must differ from the ground to be no ground
_COVERED = 0.25  # share of a pixel that an object must cover to count there
_LEAST = 0.4  # of the area that an object must have to count as one


class Read(NamedTuple):
  """What is seen in one frame: the index of a shape and of a colour, or -1 for no object; its
  centre in units of the side.
  """

  shape: int
  color: int
  x: float
  y: float


def read(frame: np.ndarray, known: Sequence[str], radius: float) -> Read:
  """Reads one object of about this radius from uint8 [S, S, 3]; its shape is one of `known`."""
  size = len(frame)
  light = np.abs(frame.astype(int) - moving_shapes.GROUND).sum(-1)
  weight = np.where(light > _SEEN, light, 0).astype(float)
  palette = 255 * np.array([shapes.COLORS[c] for c in moving_shapes.COLORS])
  tones = palette - moving_shapes.GROUND
  # A pixel on the outline mixes object and ground: the direction from the ground is the colour's.
  off = frame.astype(float) - moving_shapes.GROUND
  cosine = (
    off
    @ tones.T
    / np.maximum(
      np.linalg.norm(off, axis=-1, keepdims=True) * np.linalg.norm(tones, axis=-1)[None, None], 1e-6
    )
  )
  votes = np.bincount(cosine.argmax(-1).reshape(-1), weight.reshape(-1), len(palette))
  color = int(votes.argmax())
  cover = np.clip(off @ tones[color] / (tones[color] @ tones[color]), 0, 1)
  cover = np.where((weight > 0) & (cover > _COVERED), cover, 0)
  if cover.sum() < _LEAST * np.pi * (radius * size) ** 2 / 2:
    return Read(-1, -1, np.nan, np.nan)
  centres = (np.arange(size) + 0.5) / size
  x, y = ((cover.sum(axis) * centres).sum() / cover.sum() for axis in (0, 1))
  fits = []
  for name in known:
    tried = [
      np.abs(moving_shapes.mask(name, x, y, r, size, "bounce") - cover).sum()
      for r in radius * np.array([0.85, 0.92, 1.0, 1.08, 1.15])
    ]
    fits.append(min(tried))
  return Read(int(np.argmin(fits)), color, float(x), float(y))


def kept(
  video: np.ndarray, truth: np.ndarray, given: int, known: Sequence[str]
) -> dict[str, float]:
  """Shares of the frames after the `given` ones that keep each property.

  Args:
    video: uint8 [T, S, S, 3].
    truth: [T, 6], the object's attributes as moving_shapes has them.
    given: frames.
    known: the shapes that there are.
  """
  seen = [read(frame, known, float(truth[0, 2])) for frame in video]
  shape, color = int(truth[0, 0]) - 1, int(truth[0, 1])
  found = {"object": [], "shape": [], "colour": [], "direction": [], "pixels off": []}
  for t in range(given, len(video)):
    now, before = seen[t], seen[t - 1]
    found["object"].append(now.shape >= 0)
    found["shape"].append(now.shape == shape)
    found["colour"].append(now.color == color)
    way = np.array([now.x - before.x, now.y - before.y])
    real = truth[t, 3:5] - truth[t - 1, 3:5]
    length = np.linalg.norm(way) * np.linalg.norm(real)
    # No object, or one that stands still, has no direction; NaN fails the comparison, too.
    found["direction"].append(bool(way @ real > np.cos(np.pi / 4) * length > 1e-6))
    if now.shape >= 0:
      off = np.hypot(now.x - truth[t, 3], now.y - truth[t, 4]) * video.shape[1]
      found["pixels off"].append(off)
  return {name: float(np.mean(values)) if values else np.nan for name, values in found.items()}


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=cli.path)
  parser.add_argument("--num", type=cli.count, default=64, help="held-out videos")
  parser.add_argument("--frames", type=int, default=2, help="that are given")
  parser.add_argument("--temperature", type=float, default=1.0)
  parser.add_argument("--output", type=cli.local, help="a gif: real videos above predictions")
  args = parser.parse_args(argv)
  from vqjax import api, videos, writers

  model = api.load(args.workdir)
  source = _source(model, args)
  examples = source.examples("eval")
  chosen = [examples[i] for i in range(args.num)]
  real = np.stack([example["video"] for example in chosen])
  truth = np.stack([example["attributes"][:, 0] for example in chosen])
  ids = model.encode(real)
  drawn = model.complete_codes(ids, keep=args.frames / real.shape[1], temperature=args.temperature)
  still = np.concatenate(
    [
      real[:, : args.frames],
      np.repeat(real[:, args.frames - 1 : args.frames], real.shape[1] - args.frames, 1),
    ],
    1,
  )
  rows = []
  named = {"real": real, "reconstructed": model.decode(ids), "predicted": drawn, "standing": still}
  for name, several in named.items():
    each = [kept(v, t, args.frames, source.shapes) for v, t in zip(several, truth)]
    mean = {key: np.nanmean([one[key] for one in each]) for key in each[0]}
    off = f"{mean.pop('pixels off'):.2f}"
    rows.append([name, *(f"{value:.1%}" for value in mean.values()), off])
  print(
    f"{args.num} held-out videos, {args.frames} of {real.shape[1]} frames given, temperature "
    f"{args.temperature:g}: share of the frames after them"
  )
  titles = [
    "video",
    "has an object",
    "keeps its shape",
    "its colour",
    "its direction",
    "pixels off",
  ]
  print(writers.table(titles, rows))
  if args.output:
    columns = min(8, args.num)
    hidden = np.zeros(real.shape[:4], bool)
    hidden[:, args.frames :] = True
    shown = np.where(hidden[..., None], np.uint8(128), real)
    videos.save(args.output, videos.page([x[:columns] for x in (real, shown, drawn)]), rate=3)
    print(f"real videos, what was given, predictions in {args.output}")


def _source(model: Any, args: Any) -> moving_shapes.Source:
  """The run's data. Raises UserError where the run draws other things, or several in a video."""
  from vqjax import api

  if not isinstance(model, api.Prior) or model.config.data.name != "moving_shapes":
    raise UserError(f"--workdir={args.workdir}: is no prior of moving shapes; give one.")
  source = model.loaded.dataset().source
  if source.max_objects != 1:
    raise UserError(
      f"--workdir={args.workdir}: its videos have up to {source.max_objects} objects, which would "
      "have to be told apart; give a run with config.data.max_objects=1."
    )
  if not 0 < args.frames < source.frames:
    raise UserError(f"--frames={args.frames}: is outside 1 to {source.frames - 1}.")
  return source
