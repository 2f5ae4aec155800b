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
from collections.abc import Iterator, Sequence
from typing import Any

from vqjax import cli, files
from vqjax.errors import UserError


def main(argv: Sequence[str]) -> None:
  from vqjax import reconstruct
  from vqjax.api import codec

  parser = cli.parser(__doc__)
  parser.add_argument("--input", required=True, type=pathlib.Path, help="a file, or a folder")
  parser.add_argument("--output", required=True, type=pathlib.Path)
  parser.add_argument("--workdir", type=files.path)
  parser.add_argument("--only", metavar="NAME", help="of an archive's pictures")
  args = parser.parse_args(argv)
  inputs = reconstruct.inputs(args.input, (codec.SUFFIX,), "coded file")
  base = args.input if args.input.is_dir() else args.input.parent
  models: dict[Any, Any] = {}
  failed, count = [], 0
  for file in inputs:
    try:
      archive = _opened(file, args.workdir, models)
      signal = archive.tokenizer.info.signal
      for name, value in _pictures(archive, file.relative_to(base), args, signal.suffix):
        signal.save(name, value)
        count += 1
    except UserError as e:
      failed.append(e)
      print(f"left out: {e}", file=sys.stderr)
  if not count:
    raise failed[0]
  left_out = f", {len(failed)} file(s) left out" if failed else ""
  print(f"{count} {signal.noun}(s) in {args.output}{left_out}")


def _opened(file: pathlib.Path, workdir: Any, models: dict[Any, Any]) -> Any:
  """The archive in a file, opened with --workdir or with the run that wrote it here."""
  from vqjax import reconstruct
  from vqjax.api import _written

  data = file.read_bytes()
  place = workdir if workdir is not None else _written.remembered(data, str(file))
  if place not in models:
    models[place] = reconstruct.opened(place)
  return models[place].codec.open(data, str(file))


def _pictures(
  archive: Any, name: pathlib.Path, args: Any, suffix: str
) -> Iterator[tuple[pathlib.Path, Any]]:
  """(file, values) of each picture that is asked for."""
  if args.only is not None:
    if args.only not in archive.names:
      raise UserError(f"{archive.name}: has no picture named {args.only!r}; give one that it has.")
    yield (
      args.output / pathlib.Path(args.only).with_suffix(suffix),
      archive.read(archive.names.index(args.only)),
    )
    return
  if len(archive) == 1 and not archive.names:
    alone = args.output.suffix and not args.input.is_dir() and not args.output.is_dir()
    yield args.output if alone else args.output / name.with_suffix(suffix), archive.read(0)
    return
  from vqjax import reconstruct

  named = [pathlib.Path(n) for n in archive.names] or [
    pathlib.Path(f"{name.stem}-{i:05d}") for i in range(len(archive))
  ]
  folder = args.output / name.parent / name.stem if args.input.is_dir() else args.output
  for i, target in enumerate(reconstruct.names(named, lambda file: suffix)):
    yield folder / target, archive.read(i)


if __name__ == "__main__":
  cli.run(main)
