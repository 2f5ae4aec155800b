"""Tokenize: python -m vqjax.tokenize --workdir=TOKENIZER --output=DIR [--data=PATH] [--shard=8192]
[--latents=continuous]

Writes the codes of both splits of the tokenizer's data (or of --data), with labels, layouts and
captions, as .npy shards (captions as .json) and a manifest that names the tokenizer's weights. A
prior reads them with --config.data.name=codes --config.data.path=DIR, and refuses another's.
--latents=continuous writes the floats before the quantizer as float16, of a posterior the means;
they are also what is written where the tokenizer has no codes. Leaves in the workdir how often each
code occurs in the training split, for python -m vqjax.compress.
"""

from __future__ import annotations

import io
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vqjax import cli, files
from vqjax.errors import UserError

# What the folder of a cache holds.
_OWN = re.compile(r"manifest\.json|(train|eval)-\d+-\w+\.(npy|json)|\..*")


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument(
    "--workdir", required=True, type=cli.path, help="a trained or converted tokenizer"
  )
  parser.add_argument("--output", required=True, type=cli.local)
  parser.add_argument("--data", metavar="PATH")
  parser.add_argument("--batch_size", type=cli.count, default=64)
  parser.add_argument("--shard", type=cli.count, default=8192, help="examples per file")
  choices = ("auto", "continuous")
  parser.add_argument("--latents", choices=choices, default="auto", help="auto: codes, if any")
  args = parser.parse_args(argv)
  from vqjax import api
  from vqjax.codec import _tables
  from vqjax.data.sources import codes

  loaded = api.open_run(args.workdir)
  if loaded.config.task != "autoencode":
    raise UserError(
      f"--workdir={args.workdir}: is no tokenizer; give that of the run whose codes are wanted."
    )
  floats = loaded.run.task.info.floats
  if args.latents == "continuous" and not floats:
    raise UserError(
      f"--latents={args.latents}: {args.workdir} gives no single latent before its codes; "
      "leave it out."
    )
  model = api.Tokenizer(loaded, floats if args.latents == "continuous" else ())
  dataset = loaded.dataset(args.data)
  cli.output(args.output, folder=True)
  if others := [f.name for f in args.output.iterdir() if not _OWN.fullmatch(f.name)]:
    raise UserError(
      f"--output={args.output}: holds other files ({min(others)}); give a folder for the latents "
      "alone."
    )
  # Away first and written last, so that a folder with a manifest is whole.
  (args.output / codes.MANIFEST).unlink(missing_ok=True)
  splits = {}
  for split in ("train", "eval"):
    splits[split] = list(_write(model, dataset, split, args))
    print(
      f"{split}: {sum(s['examples'] for s in splits[split])} examples in {len(splits[split])} "
      "shard(s)"
    )
  manifest = {
    "tokenizer": model.identity,
    "workdir": str(args.workdir.absolute()),
    "data": dataset.config,
    "class_names": list(dataset.class_names),
    "splits": splits,
  }
  files.write_json(args.output / codes.MANIFEST, manifest)
  if (levels := model.levels)[0].kind == "codes":
    written = (
      tuple(np.load(args.output / shard["files"][f"ids{i or ''}"]) for i in range(len(levels)))
      for shard in splits["train"]
    )
    _tables.keep(model.workdir, levels, model.identity, written)


def _write(model: Any, dataset: Any, split: str, args: Any) -> Iterator[dict[str, Any]]:
  """Writes the shards of a split; yields what the manifest says of each."""
  rows: dict[str, list[Any]] = {}
  number = 0
  for fields in _codes(model, dataset, split, args.batch_size):
    for name, value in fields.items():
      rows.setdefault(name, []).extend(value)
    while len(next(iter(rows.values()))) >= args.shard:
      yield _save({k: v[: args.shard] for k, v in rows.items()}, args.output, split, number)
      rows, number = {k: v[args.shard :] for k, v in rows.items()}, number + 1
  if rows and next(iter(rows.values())):
    yield _save(rows, args.output, split, number)


def _codes(model: Any, dataset: Any, split: str, batch_size: int) -> Iterator[dict[str, list[Any]]]:
  """Fields of the unpadded rows of each batch: ids (ids1, ids2 … for finer levels) or latents, and
  what a prior may be conditioned on, where the data has it.
  """
  from vqjax.api.levels import condition_fields
  from vqjax.tasks import need

  for batch, mask in dataset.batches(batch_size, split=split, texts="all"):
    levels = model.checked(model.encode(need(batch, model.info.signal.field)))
    name = "ids" if model.levels[0].kind == "codes" else "latents"
    fields = {f"{name}{i or ''}": values for i, values in enumerate(levels)}
    fields |= {k: batch[k] for k in condition_fields() if k in batch}
    yield {k: [row for row, real in zip(v, mask) if real] for k, v in fields.items()}


def _save(
  rows: dict[str, list[Any]], output: pathlib.Path, split: str, number: int
) -> dict[str, Any]:
  written = {}
  for name, values in rows.items():
    if name == "text":
      written[name] = f"{split}-{number:05d}-{name}.json"
      files.write_bytes(output / written[name], json.dumps(values).encode())
      continue
    array = np.stack(values)
    if name.startswith("ids") and array.max(initial=0) < 2**16:
      array = array.astype(np.uint16)
    if name == "latents":
      array = _halved(array)
    written[name] = f"{split}-{number:05d}-{name}.npy"
    np.save(content := io.BytesIO(), array)
    files.write_bytes(output / written[name], content.getbuffer())
  return {"examples": len(next(iter(rows.values()))), "files": written}


def _halved(array: np.ndarray) -> np.ndarray:
  """float16. Raises UserError for values that it cannot hold."""
  if (largest := np.abs(array).max(initial=0)) > np.finfo(np.float16).max:
    raise UserError(
      f"--latents: a value of {largest:.3g} is beyond float16; train the tokenizer with a KL or a "
      "norm that bounds its latents, or let the prior read the images."
    )
  return array.astype(np.float16)


if __name__ == "__main__":
  cli.run(main)
