"""A table of trained runs, each exported: python -m vqjax.bench --suite=zoo RUN [RUN …]
--output=FOLDER [--dtype=bfloat16]

Writes every run as FOLDER/<run>.safetensors (see vqjax.export; one that is there stays) and prints
what docs/zoo.md lists of it: parameters, steps, minutes of training (waiting for input, saving and
compiling included), its last held-out figures, size of the file and the start of its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from vqjax import cli, export, files
from vqjax.errors import UserError

# Those that tell most, in this order, and how they are written.
FIGURES = {
  "psnr": "{:.2f} dB",
  "ssim": "SSIM {:.3f}",
  "usage": "{:.1%} of the codes",
  "nats_per_code": "{:.3f} nats a code",
  "nats_per_vector": "{:.3f} nats a vector",
  "nats_per_text_token": "{:.3f} nats a text token",
}


def figures(log: str) -> str:
  """The last held-out figures of a metrics.jsonl, as text."""
  found: dict[str, float] = {}
  for line in log.splitlines():
    found |= {k[5:]: v for k, v in json.loads(line).items() if k.startswith("eval/")}
  return ", ".join(text.format(found[k]) for k, text in FIGURES.items() if k in found)


def row(workdir: files.Path, output: files.Path, dtype: str) -> list[str]:
  """One run's cells."""
  import jax

  from vqjax import api

  if not output.exists():
    export.export(workdir, output, dtype)
  loaded, content = api.open_run(workdir), output.read_bytes()
  parameters = sum(x.size for x in jax.tree.leaves(loaded.weights.params["model"]))
  seconds = json.loads((workdir / "goodput.json").read_text())["seconds"]
  return [
    workdir.name,
    f"{parameters / 1e6:.2f}",
    f"{loaded.config.total_steps:,}",
    f"{sum(seconds.values()) / 60:.0f}",
    figures((workdir / "metrics.jsonl").read_text()),
    f"{len(content) / 1e6:.2f}",
    hashlib.sha256(content).hexdigest()[:16],
  ]


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("runs", nargs="+", type=cli.path, metavar="RUN")
  parser.add_argument("--output", required=True, type=cli.path, metavar="FOLDER")
  parser.add_argument("--dtype", choices=export.DTYPES, default="bfloat16")
  args = parser.parse_args(argv)
  from vqjax import writers

  for run in args.runs:
    if not (run / "goodput.json").exists():
      raise UserError(f"{run}: no run was trained there; give workdirs of vqjax.main.")
  args.output.mkdir(parents=True, exist_ok=True)
  rows = [row(run, args.output / f"{run.name}.safetensors", args.dtype) for run in args.runs]
  heads = ["run", "parameters, millions", "steps", "minutes", "held out", "MB", "SHA-256"]
  print(writers.table(heads, rows))
