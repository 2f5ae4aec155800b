"""Whether coded files are the same wherever they are written: python -m vqjax.bench
--suite=portable --workdir=RUN [--data=PATH] [--examples=10000] [--alone=256]

Cuts crops of all sizes out of held-out pictures' codes and has processes of their own write and
read them: on one device, on four, and without the instructions that came after SSE4.2, in archives
whose networks see 64 crops at once and in a file each, of which they see one. Prints per mode what
each process found: the same bytes and the same codes, or in which line it refuses.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from vqjax import cli
from vqjax.codec import Example
from vqjax.errors import UserError

PLACES = {
  "one device": "",
  "one device, again": "",
  "four devices": "--xla_force_host_platform_device_count=4",
  "SSE4.2": "--xla_cpu_max_isa=SSE4_2",
}


def crops(
  info: Any, pictures: Sequence[Example], number: int, seed: int = 0
) -> tuple[list[Example], list[tuple[int, ...]]]:
  """(codes, sizes) of crops of 1 cell to the whole, a quarter of them whole.

  Args:
    info: a tokenizer's.
    pictures: codes of whole pictures, by level.
    number: of crops; pictures are taken in turns.
  """
  from vqjax.api._archive import grids_of

  rng = np.random.default_rng(seed)
  cells = info.levels[0].shape
  examples, sizes = [], []
  for i in range(number):
    whole = [(0, n) for n in cells]
    cut = [sorted(rng.choice(n + 1, 2, replace=False)) for n in cells] if i % 4 else whole
    size = tuple(int(b - a) * side // n for (a, b), side, n in zip(cut, info.size, cells))
    example = []
    for ids, codes, grid in zip(pictures[i % len(pictures)], info.levels, grids_of(info, size)):
      starts = [a * n // m for (a, _), n, m in zip(cut, codes.shape, cells)]
      example.append(ids[tuple(slice(s, s + n) for s, n in zip(starts, grid))])
    examples.append(tuple(example))
    sizes.append(size)
  return examples, sizes


def keep(file: pathlib.Path, examples: list[Example], sizes: list[tuple[int, ...]]) -> None:
  levels = {
    f"level{i}": np.concatenate([x.reshape(-1) for x in level])
    for i, level in enumerate(zip(*examples))
  }
  np.savez(file, sizes=np.array(sizes), **levels)


def kept(file: pathlib.Path, info: Any) -> tuple[list[Example], list[tuple[int, ...]]]:
  """What `keep` kept."""
  from vqjax.api._archive import grids_of

  with np.load(file) as found:
    sizes = [tuple(map(int, size)) for size in found["sizes"]]
    grids = [grids_of(info, size) for size in sizes]
    levels = []
    for i in range(len(info.levels)):
      ends = np.cumsum([np.prod(g[i]) for g in grids])[:-1]
      parts = np.split(found[f"level{i}"], ends)
      levels.append([part.reshape(g[i]) for part, g in zip(parts, grids)])
  return list(zip(*levels)), sizes


def report(model: Any, folder: pathlib.Path, alone: int) -> dict[str, dict[str, str]]:
  """What this process makes of the crops in `folder`, by mode: digests of the files that it writes,
  and whether it reads those of the process before.
  """
  codec, found = model.codec, {}
  examples, sizes = kept(folder / "codes.npz", codec.tokenizer.info)
  for mode in filter(codec.serves, codec.modes):
    own = codec.pack_codes(examples, sizes, mode)
    own += codec.pack_codes(examples[:alone], sizes[:alone], mode, alone=True)
    digests = [hashlib.sha256(data).hexdigest() for data in own]
    found[mode] = {"archive": digests[0], "alone": "".join(digests[1:])}
    before = folder / mode
    if not before.exists():
      before.mkdir()
      for i, data in enumerate(own):
        (before / f"{i}.vqjc").write_bytes(data)
    try:
      written = [(before / f"{i}.vqjc").read_bytes() for i in range(1 + min(alone, len(examples)))]
      archive = codec.open(written[0], "archive")
      wrong = sum(
        not all(map(np.array_equal, archive.codes(i), example))
        for i, example in enumerate(examples)
      ) + sum(
        not all(map(np.array_equal, codec.open(data, "file").codes(0), example))
        for data, example in zip(written[1:], examples)
      )
      found[mode]["read"] = f"{wrong} wrong" if wrong else "all codes"
    except UserError as e:
      found[mode]["read"] = f"refuses: {e}"
  return found


def main(argv: Sequence[str]) -> None:
  from vqjax import reconstruct, writers
  from vqjax.api import rates

  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=cli.path)
  parser.add_argument("--data", metavar="PATH", help="instead of what the run learned from")
  parser.add_argument("--examples", type=cli.count, default=10_000, help="crops")
  parser.add_argument("--alone", type=cli.at_least(0), default=256, help="of them in a file each")
  parser.add_argument("--folder", type=cli.local, help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  model = reconstruct.opened(args.workdir)
  if args.folder is not None:  # one of the processes that are compared
    print(json.dumps(report(model, args.folder, args.alone)))
    return
  dataset = model.loaded.dataset(args.data)
  if model.codec.source.tables is None:
    rates.count(model.codec.tokenizer, dataset)
  pictures = rates.examples(model, dataset, args.examples)
  with tempfile.TemporaryDirectory() as folder:
    cut = crops(model.codec.tokenizer.info, pictures, args.examples)
    keep(pathlib.Path(folder) / "codes.npz", *cut)
    print(f"{args.examples} crops of {len(pictures)} held-out pictures, {args.alone} also alone:")
    rows, refused = _rows(args, folder)
  print(writers.table(["process", "mode", "bytes written", "reads"], rows))
  print(*refused[:1], sep="\n")


def _rows(args: Any, folder: str) -> tuple[list[list[str]], list[str]]:
  """(rows of the table, the lines of refusals)."""
  rows, refused, first = [], [], {}
  command = [sys.executable, "-m", "vqjax.bench", "--suite=portable", f"--workdir={args.workdir}"]
  command += [f"--folder={folder}", f"--alone={args.alone}"]
  for place, flags in PLACES.items():
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
      raise UserError(f"{place}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    for mode, found in json.loads(done.stdout.splitlines()[-1]).items():
      before = first.setdefault(mode, found)
      same = [found[k] == before[k] for k in ("archive", "alone")]
      told = "the same" if all(same) else "other ones"
      read, _, line = found["read"].partition(": ")
      refused += [line] if line else []
      rows.append([place, mode, "first" if before is found else told, read])
  return rows, refused
