"""Compress: python -m vqjax.compress --workdir=RUN --input=FILE_OR_FOLDER --output=OUT [--mode=…]

Writes what the tokenizer makes of pictures of any size as coded files, see python -m
vqjax.decompress. OUT ending in .vqjc is one file, of a folder an archive whose pictures share a
header and keep their names; any other OUT is a folder with a file for each picture. RUN is a prior,
or a tokenizer alone.

Modes: `static` (counts of the training split), `context` (counts that coding learns), `integer` (a
network in integers) are read on every machine; `prior` (an autoregressive prior in floats) only
where it was written. By default the last of these that RUN serves, `prior` after the others.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from vqjax import cli, files
from vqjax.errors import UserError


def main(argv: Sequence[str]) -> None:
  from vqjax import places, reconstruct
  from vqjax.api import _written, codec

  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=cli.path)
  parser.add_argument("--input", required=True, type=cli.local, help="a file, or a folder")
  parser.add_argument("--output", required=True, type=cli.local)
  parser.add_argument("--mode", choices=sorted(codec.modes()))
  more = "pictures of an archive that share a stream: more take fewer bytes, and are read together"
  parser.add_argument("--group", type=cli.count, default=codec.GROUP, help=more)
  args = parser.parse_args(argv)
  reconstruct.check_input(args.input)
  one = args.output.suffix.lower() == codec.SUFFIX
  cli.output(args.output, folder=not one)
  model = reconstruct.opened(args.workdir)
  signal = model.info.signal
  inputs = reconstruct.inputs(args.input, signal.suffixes, signal.noun)
  base = args.input if args.input.is_dir() else args.input.parent
  names, failed = [], []
  examples, sizes = model.codec.encode(_read(inputs, base, model.info, names, failed))
  if not names:
    raise failed[0]
  if one:
    named = [name.as_posix() for name in names] if args.input.is_dir() else ()
    data = model.codec.pack_codes(examples, sizes, args.mode, named, args.group)
    written = {args.output: data[0]}
  else:
    targets = reconstruct.names(names, lambda file: codec.SUFFIX)
    data = model.codec.pack_codes(examples, sizes, args.mode, alone=True)
    written = {args.output / target: one for target, one in zip(targets, data)}
  for file, data in written.items():
    files.write_bytes(file, data)
  _written.remember(next(iter(written.values())), places.absolute(str(args.workdir)))
  _report(model, written, len(names), len(failed))


def _read(
  inputs: Sequence[pathlib.Path],
  base: pathlib.Path,
  info: Any,
  names: list[pathlib.Path],
  failed: list[UserError],
) -> Iterator[Any]:
  """Values of the files; adds to `names` what they are called below `base`, and to `failed` what is
  wrong with those that are left out.
  """
  from vqjax.codec import _container

  for file in inputs:
    name = file.relative_to(base)
    try:
      if not _container.may_name(name.as_posix()):
        raise UserError(f"{file}: its name cannot be kept on every machine; rename it.")
      value = info.signal.open(file, info.shape)
    except UserError as e:
      failed.append(e)
      print(f"left out: {e}", file=sys.stderr)
      continue
    names.append(name)
    yield value


def _report(model: Any, written: dict[pathlib.Path, bytes], count: int, failed: int) -> None:
  opened = [model.codec.open(data, str(file)) for file, data in written.items()]
  header, payload = (sum(getattr(a, name) for a in opened) for name in ("header", "payload"))
  left_out = f", {failed} left out" if failed else ""
  print(
    f"{count} {model.info.signal.noun}(s) in {len(written)} file(s): {header + payload} bytes, "
    f"{header} of headers, {payload} of codes{left_out}"
  )


if __name__ == "__main__":
  cli.run(main)
