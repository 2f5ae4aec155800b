"""Sample: python -m vqjax.sample --workdir=PRIOR --num=64 --output=samples.png [--label=3] …

Conditions are given by name: --label=3, --layout=MAP.png (a pixel's value is its class),
--text="a red circle". A flag may be given several times, and --text_file=FILE (so for each of them)
holds one value a line. What can be read stands below the pictures.
--output may be a picture of all samples, or what the signal is itself: sound as .wav or .flac,
numbered where there are several.
--image=A.png --keep=0.5 completes a picture (--audio=A.wav a sound) from its first codes (--keep
alone: held-out examples of the run's data, above what the prior was shown, above the completions);
--mask=M.png draws anew what is white (masked and diffusion priors); --height and --width go beyond
the training size by a sliding window; --gif=FILE shows the steps; --rank=CLIP_RUN puts the samples
of each --text in order, the best first, with their scores (cosines). Options of the scheme:
--temperature, --guidance, --steps, …
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vqjax import cli
from vqjax.errors import UserError


def main(argv: Sequence[str]) -> None:
  from vqjax import build
  from vqjax.api.levels import condition_fields, scheme_options

  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=cli.path, help="a trained prior")
  parser.add_argument("--output", type=cli.local, help="samples.png, or what the signal is")
  parser.add_argument("--num", type=cli.count, default=16)
  parser.add_argument("--seed", type=int, default=0)
  conditions, options = condition_fields(), scheme_options()
  for name, condition in conditions.items():
    parser.add_argument(f"--{name}", action="append", default=[], help=condition.help)
    more = f"as many --{name} as it has lines"
    parser.add_argument(f"--{name}_file", type=cli.local, metavar="FILE", help=more)
  fields = {build.member("signals", name).field for name in build.names("signals")}
  inputs = sorted(fields - conditions.keys())
  for field in inputs:
    parser.add_argument(f"--{field}", type=cli.local, help="what is completed")
  parser.add_argument("--data", metavar="PATH", help="whose held-out examples --keep completes")
  for name in ("mask", "gif"):
    parser.add_argument(f"--{name}", type=cli.local)
  parser.add_argument("--keep", type=float, help="share of the codes that stays; 0.5 by default")
  parser.add_argument("--rank", type=cli.path, help="a run that embeds images and captions")
  for name in ("height", "width"):
    parser.add_argument(f"--{name}", type=int)
  for name, kind in options.items():
    parser.add_argument(f"--{name}", type=kind)
  args = parser.parse_args(argv)
  completed = {field: file for field in inputs if (file := getattr(args, field))}
  args.input = next(iter(completed.values()), None)
  _check(args, options)
  from vqjax import api, pictures

  model = api.load_prior(args.workdir, "--workdir")
  own = model.info.signal.field
  if own in inputs and (others := completed.keys() - {own}):
    raise UserError(f"--{min(others)}: this prior draws {own}; give --{own}.")
  given = _given(model, {name: texts for name in conditions if (texts := _texts(name, args))}, args)
  ranker = api.Ranker.open(args.rank, "--rank") if args.rank else None
  signal = model.info.signal
  output = args.output or pathlib.Path(f"samples{signal.suffix}")
  signal.check_page(output)
  cli.output(output)
  rows, known = _draw(model, args, given, _chosen(args, options), ranker)
  written = signal.save_page(output, rows, together=bool(known))
  print(f"{args.num} sample(s) in {', '.join(map(str, written[:2]))}{' …' if written[2:] else ''}")
  if args.gif:
    given = known.pop("given", {}) | given
    frames = model.frames(args.num, **known, **given, **_chosen(args, options), seed=args.seed)
    across = min(4, signal.columns or 4)
    sheets = [pictures.sheet([f[i : i + across] for i in range(0, len(f), across)]) for f in frames]
    pictures.save_gif(args.gif, sheets)
    print(f"{len(frames)} steps in {args.gif}")


def _chosen(args: Any, options: Sequence[str]) -> dict[str, Any]:
  return {name: value for name in options if (value := getattr(args, name)) is not None}


def _check(args: Any, options: Sequence[str]) -> None:
  """Raises UserError for what can be said before anything is loaded."""
  from vqjax.schemes import Draw, Guidance
  from vqjax.schemes._options import check_keep

  if args.gif and args.gif.suffix.lower() != ".gif":
    raise UserError(f"--gif={args.gif}: is written as GIF; end the name in .gif.")
  if args.mask and not args.input:
    raise UserError("--mask: says what of a picture is drawn anew; give the picture as --image.")
  if args.mask and args.keep is not None:
    raise UserError("--mask, --keep: each says which codes stay; give one of them.")
  if args.keep is not None:
    check_keep(args.keep)
  large = args.height is not None or args.width is not None
  if large and (args.input or args.gif or args.keep is not None):
    raise UserError(
      "--height, --width: only free samples grow beyond the training size; leave out --image, "
      "--keep and --gif."
    )
  if args.rank and (args.input or args.keep is not None or args.gif):
    raise UserError("--rank: orders free samples; leave out --image, --keep and --gif.")
  if args.rank and not (args.text or args.text_file):
    raise UserError("--rank: orders by a caption; give --text.")
  chosen = _chosen(args, options)
  Draw.taken(chosen)
  Guidance.taken(chosen)


def _texts(name: str, args: Any) -> list[str]:
  """What a condition's flags say, those of its file after the others."""
  texts, file = list(getattr(args, name)), getattr(args, f"{name}_file")
  if file:
    try:
      texts += file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as e:
      raise UserError(f"--{name}_file={file}: cannot be read ({e}); give a text file.") from None
    if not texts:
      raise UserError(f"--{name}_file={file}: is empty; write one value a line.")
  return texts


def _given(model: Any, texts: dict[str, list[str]], args: Any) -> dict[str, np.ndarray]:
  """Conditions from their flags' texts, one value per sample: several in runs of equal length."""
  given = {}
  asked = (args.height, args.width)  # what is no size, the model says
  size = tuple(n if n and n > 0 else m for n, m in zip(asked, model.info.size))
  for name, several in texts.items():
    condition = model.condition(name)
    values = np.concatenate([condition.parse(text, size) for text in several])
    if len(values) > args.num:
      shown = f"{several[0][:40]}{' …' if len(several) > 1 or len(several[0]) > 40 else ''}"
      raise UserError(
        f"--num={args.num}: is fewer than the {len(values)} values of --{name}={shown}; draw at "
        "least one of each."
      )
    given[name] = values[np.sort(np.arange(args.num) % len(values))]
  return given


def _draw(
  model: Any, args: Any, given: dict[str, Any], options: dict[str, Any], ranker: Any
) -> tuple[list[Any], dict[str, Any]]:
  """(vqjax.signals.Rows, what `frames` needs to draw the same)."""
  from vqjax.signals import Row

  options = options | {"seed": args.seed}
  captions = lambda given: np.array(model.captions(args.num, given) or [""] * args.num, object)
  if args.input:
    signal, info = model.info.signal, model.info
    value = signal.open(args.input, info.shape, info.size)
    known = {"ids": model.encode(np.repeat(value[None], args.num, 0)), "keep": args.keep}
    if args.mask:
      known["mask"] = _mask(args.mask, info.size)
    drawn, texts = model.complete_codes(**known, **given, **options), captions(given)
    beside = [slice(i, i + 8) for i in range(0, args.num, 8)]
    page = lambda row: Row(np.concatenate([value[None], drawn[row]]), None, ["", *texts[row]])
    return [page(row) for row in beside], known
  if args.keep is not None:
    ids, conditions = model.held_out(args.num, args.data)
    known, given = {"ids": ids, "keep": args.keep}, conditions | given
    values, hidden = model.shown(**known)
    drawn = Row(model.complete_codes(**known, **given, **options), None, list(captions(given)))
    return [Row(values), Row(values, hidden), drawn], known | {"given": conditions}
  drawn = model.sample(args.num, height=args.height, width=args.width, **given, **options)
  groups = [
    value for value in given.values() if np.ndim(value) == 1 and len(dict.fromkeys(value)) > 1
  ]
  columns = max(1, round(args.num**0.5))
  if ranker:
    return _ranked(ranker, drawn, given["text"], columns), {}
  if groups:  # a row per class or caption
    rows = [np.flatnonzero(groups[0] == value) for value in dict.fromkeys(groups[0])]
  else:
    rows = [np.arange(args.num)[i : i + columns] for i in range(0, args.num, columns)]
  return [Row(drawn[row], None, list(captions(given)[row])) for row in rows], {}


def _mask(file: pathlib.Path, size: tuple[int, ...]) -> np.ndarray:
  """[H, W] of that size, 1 where the picture is white."""
  from vqjax import pictures

  if len(size) != 2:
    raise UserError(f"--mask={file}: is a picture, the prior draws none; use --keep.")
  white = pictures.read(file, 1)[..., 0] > 127
  return pictures.fit(white.astype(np.uint8), *size)


def _ranked(ranker: Any, drawn: np.ndarray, texts: np.ndarray, columns: int) -> list[Any]:
  """Rows with scores below them: the best first, several captions in a row each."""
  from vqjax.signals import Row

  rows = []
  several = list(dict.fromkeys(texts))
  for text in several:
    own = drawn[[i for i, other in enumerate(texts) if other == text]]
    order, scores = ranker.rank(own, text)
    words = [f"{scores[i]:.3f} {text}" for i in order]
    print(f"{text}: best {scores.max():.3f}, mean {scores.mean():.3f}")
    wide = len(order) if len(several) > 1 else columns
    for start in range(0, len(order), wide):
      part = slice(start, start + wide)
      rows.append(Row(own[order[part]], None, words[part]))
  return rows


if __name__ == "__main__":
  cli.run(main)
