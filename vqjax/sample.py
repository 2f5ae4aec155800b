"""Sample: python -m vqjax.sample --workdir=PRIOR --num=64 --output=grid.png [--label=3] [--guidance=3] [--temperature=0.9] …

--layout=MAP.png conditions on a label map (pixel value = class); --image=A.png --keep=0.5 completes a picture from its first codes
(--keep alone: held-out pictures of the run's data, above what the prior was shown, above the completions);
--mask=M.png draws anew what is white (masked and diffusion priors); --height and --width go beyond the training size by a sliding
window; --gif=FILE shows the steps.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vqjax import cli
from vqjax.errors import UserError

OPTIONS = {"temperature": float, "top_k": int, "top_p": float, "guidance": float, "steps": int, "choice_temperature": float}


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=pathlib.Path, help="a trained prior")
  parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("samples.png"))
  parser.add_argument("--num", type=int, default=16)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--label", type=_labels, help="a class, several separated by commas (one row each), or 'all'")
  for name in ("layout", "image", "mask", "gif"):
    parser.add_argument(f"--{name}", type=pathlib.Path)
  parser.add_argument("--keep", type=float, help="share of the codes that stays; 0.5 with --image")
  for name in ("height", "width"):
    parser.add_argument(f"--{name}", type=int)
  for name, kind in OPTIONS.items():
    parser.add_argument(f"--{name}", type=kind)
  args = parser.parse_args(argv)
  if args.num < 1:
    raise UserError(f"--num={args.num}: draw at least one.")
  from vqjax import api, writers
  from vqjax.data import ops

  model = api.load(args.workdir)
  options = {k: v for k in OPTIONS if (v := getattr(args, k)) is not None}
  conditions = {"seed": args.seed}
  if args.layout:
    conditions["layout"] = ops.read_image(args.layout, 1)[..., 0]
  if args.image:
    image = ops.apply(ops.Ops(**model.config.ops), {"image": ops.read_image(args.image, model.channels)})["image"]
    mask = None if args.mask is None else ops.read_image(args.mask, 1)[..., 0] > 127
    keep = 0.5 if args.keep is None else args.keep
    label = args.label[0] if args.label else None
    drawn = model.complete(np.repeat(image[None], args.num, 0), keep, mask, label=label, **conditions, **options)
    rows = [np.concatenate([image[None], drawn[i:i + 8]]) for i in range(0, args.num, 8)]
  elif args.keep is not None:
    rows = _complete_held_out(model, args.num, args.keep, **conditions, **options)
  else:
    labels = None if args.label is None else _spread(args.label, args.num, model.sampler.condition.labels)
    drawn = model.sample(args.num, label=labels, height=args.height, width=args.width, **conditions, **options)
    columns = max(1, round(args.num**0.5))
    rows = [drawn[i:i + columns] for i in range(0, args.num, columns)]
  writers.save_image(args.output, writers.grid(rows))
  print(f"{args.num} sample(s) in {args.output}")
  if args.gif:
    labels = None if args.label is None else _spread(args.label, min(args.num, 16), model.sampler.condition.labels)
    frames = model.frames(min(args.num, 16), label=labels, layout=conditions.get("layout"), seed=args.seed, **options)
    writers.save_gif(args.gif, [writers.grid([f[i:i + 4] for i in range(0, len(f), 4)]) for f in frames])
    print(f"{len(frames)} steps in {args.gif}")


def _complete_held_out(model: Any, num: int, keep: float, **options: Any) -> list[np.ndarray]:
  """Rows of pictures: held-out ones as the tokenizer shows them, the same with grey where the prior sees nothing, completed."""
  from vqjax import data

  batch = data.sample_batch(model.config.data, model.config.ops, num)
  images = batch["image"] if "image" in batch else model.decode(batch["ids"])
  label = batch.get("label") if model.sampler.condition.labels else None
  codes = model.sampler.prior.codes
  kept = model.sampler.keep_first(keep).reshape(*codes.shape, -1)[..., 0]
  cells = kept.repeat(images.shape[1] // codes.shape[0], 0).repeat(images.shape[2] // codes.shape[1], 1)
  shown = model.reconstruct(images)
  return [shown, np.where(cells[None, ..., None], shown, np.uint8(128)), model.complete(images, keep, label=label, **options)]


def _labels(text: str) -> list[int] | str:
  return "all" if text == "all" else [int(part) for part in text.split(",")]


def _spread(labels: list[int] | str, num: int, classes: int) -> np.ndarray:
  """One label per sample: the classes asked for, in runs of equal length."""
  labels = list(range(max(1, classes))) if labels == "all" else labels
  return np.asarray(labels, np.int32)[np.sort(np.arange(num) % len(labels))]


if __name__ == "__main__":
  cli.run(main)
