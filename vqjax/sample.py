"""Sample: python -m vqjax.sample --workdir=PRIOR --num=64 --output=grid.png [--label=3]
[--guidance=3] [--temperature=0.9] …

--layout=MAP.png conditions on a label map (pixel value = class); --image=A.png --keep=0.5 completes
a picture from its first codes (--keep alone: held-out pictures of the run's data, above what the
prior was shown, above the completions); --mask=M.png draws anew what is white (masked and diffusion
priors); --height and --width go beyond the training size by a sliding window; --gif=FILE shows the
steps.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vqjax import cli
from vqjax.errors import UserError

OPTIONS = {
  "temperature": float,
  "top_k": int,
  "top_p": float,
  "guidance": float,
  "guidance_schedule": str,
  "steps": int,
  "choice_temperature": float,
}


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=pathlib.Path, help="a trained prior")
  parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("samples.png"))
  parser.add_argument("--num", type=int, default=16)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--label", type=_labels, help="a class, several separated by commas (one row each), or 'all'"
  )
  for name in ("layout", "image", "mask", "gif"):
    parser.add_argument(f"--{name}", type=pathlib.Path)
  parser.add_argument("--keep", type=float, help="share of the codes that stays; 0.5 with --image")
  for name in ("height", "width"):
    parser.add_argument(f"--{name}", type=int)
  for name, kind in OPTIONS.items():
    parser.add_argument(f"--{name}", type=kind)
  args = parser.parse_args(argv)
  from vqjax import api, pictures

  _check(args)
  pictures.check(args.output)  # before anything is drawn

  model = api.load(args.workdir)
  given: dict[str, Any] = {"seed": args.seed} | {
    k: v for k in OPTIONS if (v := getattr(args, k)) is not None
  }
  if args.layout:
    given["layout"] = pictures.read_layout(args.layout)
  if args.label:
    given["label"] = _spread(args.label, args.num, model.sampler.condition.labels)
  known = {}  # what is completed: its codes, and which of them stay
  if args.image:
    image = _read(model, args.image)
    known = {
      "ids": model.encode(np.repeat(image[None], args.num, 0)),
      "keep": 0.5 if args.keep is None else args.keep,
    }
    if args.mask:
      known["mask"] = pictures.read(args.mask, 1)[..., 0] > 127
    drawn = model.complete_codes(**known, **given)
    rows = [np.concatenate([image[None], drawn[i : i + 8]]) for i in range(0, args.num, 8)]
  elif args.keep is not None:
    ids, conditions = model.held_out(args.num)
    known, given = {"ids": ids, "keep": args.keep}, conditions | given
    rows = [*_shown(model, **known), model.complete_codes(**known, **given)]
  else:
    drawn = model.sample(args.num, height=args.height, width=args.width, **given)
    columns = max(1, round(args.num**0.5))
    rows = [drawn[i : i + columns] for i in range(0, args.num, columns)]
    if len(set(given.get("label", ()))) > 1:  # a row per class
      rows = [drawn[given["label"] == label] for label in dict.fromkeys(given["label"])]
  pictures.save(args.output, pictures.grid(rows))
  print(f"{args.num} sample(s) in {args.output}")
  if args.gif:
    frames = model.frames(args.num, **known, **given)
    pictures.save_gif(
      args.gif, [pictures.grid([f[i : i + 4] for i in range(0, len(f), 4)]) for f in frames]
    )
    print(f"{len(frames)} steps in {args.gif}")


def _check(args: Any) -> None:
  """Raises UserError for options that do not go together."""
  if args.num < 1:
    raise UserError(f"--num={args.num}: draw at least one.")
  if args.gif and args.gif.suffix.lower() != ".gif":
    raise UserError(f"--gif={args.gif}: is written as GIF; end the name in .gif.")
  if args.mask and not args.image:
    raise UserError("--mask: says what of a picture is drawn anew; give the picture as --image.")
  if args.mask and args.keep is not None:
    raise UserError("--mask, --keep: each says which codes stay; give one of them.")
  if (args.height or args.width) and (args.image or args.gif or args.keep is not None):
    raise UserError(
      "--height, --width: only free samples grow beyond the training size; leave out --image, --keep and --gif."
    )


def _read(model: Any, file: pathlib.Path) -> np.ndarray:
  """A picture as the tokenizer's data had them."""
  from vqjax import pictures
  from vqjax.data import ops

  fields = model.sampler.prior.tokenizer.config.ops.to_dict()
  fields["size"] = fields["size"] or model.image_shape[0]
  return ops.apply(ops.Ops(**fields), {"image": pictures.read(file, model.channels)})["image"]


def _shown(model: Any, ids: Any, keep: float) -> tuple[np.ndarray, np.ndarray]:
  """Codes as the tokenizer shows them, and the same with grey where the prior sees nothing."""
  images, codes = model.decode(ids), model.sampler.prior.codes
  kept = model.sampler.keep_first(keep).reshape(*codes.shape, -1)[..., 0]
  cells = kept.repeat(images.shape[1] // codes.shape[0], 0).repeat(
    images.shape[2] // codes.shape[1], 1
  )
  return images, np.where(cells[None, ..., None], images, np.uint8(128))


def _labels(text: str) -> list[int] | str:
  return "all" if text == "all" else [int(part) for part in text.split(",")]


def _spread(labels: list[int] | str, num: int, classes: int) -> np.ndarray:
  """One label per sample: the classes asked for, in runs of equal length."""
  labels = list(range(max(1, classes))) if labels == "all" else labels
  return np.asarray(labels, np.int32)[np.sort(np.arange(num) % len(labels))]


if __name__ == "__main__":
  cli.run(main)
