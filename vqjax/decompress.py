"""Decompress: python -m vqjax.decompress --input=FILE_OR_FOLDER --output=OUT [--workdir=RUN]

Gives back the pictures of files that python -m vqjax.compress wrote, of their original size, with
the very codes that were written. RUN is the tokenizer or prior that wrote them; on the machine that
wrote them it may be left out. OUT is a folder, or for a file of one picture also a file.
--only=NAME reads one picture of an archive. A file that is damaged or of other weights is named and
left out.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from vqjax import cli
from vqjax.errors import UserError, guess


def main(argv: Sequence[str]) -> None:
  from vqjax import reconstruct
  from vqjax.api import codec

  parser = cli.parser(__doc__)
  parser.add_argument("--input", required=True, type=cli.local, help="a file, or a folder")
  parser.add_argument("--output", required=True, type=cli.local)
  parser.add_argument("--workdir", type=cli.path)
  parser.add_argument("--only", metavar="NAME", help="of an archive's pictures")
  args = parser.parse_args(argv)
  inputs = reconstruct.inputs(args.input, (codec.SUFFIX,), "coded file")
  base = args.input if args.input.is_dir() else args.input.parent
  models: dict[Any, Any] = {}
  count = 0
  wrong: dict[pathlib.Path, dict[str, UserError]] = {file: {} for file in inputs}
  for file, faults in wrong.items():
    try:
      archive = _opened(file, args.workdir, models)
      signal = archive.tokenizer.info.signal
      targets = _targets(archive, file.relative_to(base), args, signal.suffix)
      _check_apart(targets, args.output, base)
    except UserError as e:
      faults[str(e)] = e
      continue
    for target, index in targets.items():
      try:
        signal.save(target, archive.read(index))
        count += 1
      except UserError as e:  # the other chunks can be read all the same
        faults[str(e)] = e
  faults = {line: e for found in wrong.values() for line, e in found.items()}
  if not count:
    raise next(iter(faults.values()))
  for line in faults:
    print(f"left out: {line}", file=sys.stderr)
  left_out = (
    f", {sum(map(bool, wrong.values()))} file(s) left out, whole or in part" if faults else ""
  )
  print(f"{count} {signal.noun}(s) in {args.output}{left_out}")


def _check_apart(targets: Iterable[pathlib.Path], output: pathlib.Path, base: pathlib.Path) -> None:
  """Raises UserError where what was compressed may lie where it would be written."""
  there = [str(target) for target in targets if target.exists()]
  if there and output.resolve() == base.resolve():
    raise UserError(
      f"--output={output}: holds the input, and {min(there)} is there already; choose another "
      "folder."
    )


def _opened(file: pathlib.Path, workdir: Any, models: dict[Any, Any]) -> Any:
  """The archive in a file, opened with --workdir or with the run that wrote it here."""
  from vqjax import reconstruct
  from vqjax.api import _written

  data = file.read_bytes()
  place = workdir if workdir is not None else _written.remembered(data, str(file))
  if place not in models:
    models[place] = reconstruct.opened(place)
  return models[place].codec.open(data, str(file))


def _targets(archive: Any, name: pathlib.Path, args: Any, suffix: str) -> dict[pathlib.Path, int]:
  """{file: number of the picture} of each that is asked for."""
  if args.only is not None:
    if args.only not in archive.names:
      raise UserError(
        f"--only={args.only}: {archive.name} has no picture of that name."
        f"{guess(args.only, archive.names)}"
      )
    target = args.output / pathlib.Path(args.only).with_suffix(suffix)
    return {target: archive.names.index(args.only)}
  if len(archive) == 1 and not archive.names:
    alone = args.output.suffix and not args.input.is_dir() and not args.output.is_dir()
    return {args.output if alone else args.output / name.with_suffix(suffix): 0}
  from vqjax import reconstruct

  named = [pathlib.Path(n) for n in archive.names] or [
    pathlib.Path(f"{name.stem}-{i:05d}") for i in range(len(archive))
  ]
  folder = args.output / name.parent / name.stem if args.input.is_dir() else args.output
  named = reconstruct.names(named, lambda file: suffix)
  return {folder / target: i for i, target in enumerate(named)}


if __name__ == "__main__":
  cli.run(main)
