"""Every quantizer in the same autoencoder: python -m vqjax.bench --suite=quantizers
--workdir=runs/quantizers [--data=PATH] [--steps=N] [--bits 10 12 14] [--only vq fsq …]

Same data (32-pixel colour images), same network, same steps and as many bits per position wherever
there are codes. Prints a table of held-out PSNR and SSIM, of usage and perplexity of the codebook
over the training images (held-out ones may be too few to use it all), bits per image and training
steps per second. Finished rows are read from the workdir, so a stopped comparison goes on where it
was.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from vqjax import cli, config as configuration

DIM = 32
# Levels of about 2^bits codes (arXiv 2309.15505, table 1).
LEVELS = {8: (8, 6, 5), 10: (8, 5, 5, 5), 12: (7, 5, 5, 5, 5), 14: (8, 8, 8, 6, 5)}


def quantizers(bits: int) -> dict[str, dict[str, Any]]:
  """All of them, with 2^bits codes per position or as many in parts."""
  table, half = dict(codebook_size=2**bits, dim=DIM), dict(codebook_size=2 ** (bits // 2))
  return {
    "identity": dict(dim=DIM),
    "gaussian": dict(dim=DIM, kl_weight=1e-4),
    **dict.fromkeys(("vq", "ema", "simvq", "ibq", "gumbel"), table),
    "fsq": dict(levels=LEVELS[bits]),
    "lfq": dict(dim=bits),
    "bsq": dict(dim=bits),
    "residual": dict(depth=2, quantizer=dict(name="ema", dim=DIM, **half)),
    "projected": dict(
      outer=DIM, quantizer=dict(name="vq", codebook_size=2**bits, dim=8, normalize="search")
    ),
    "grouped": dict(groups=2, quantizer=dict(name="ema", dim=DIM // 2, **half)),
  }


def config_of(name: str, bits: int, steps: int, data: dict[str, Any] | None) -> Any:
  """The run that stands for one quantizer."""
  return configuration.complete(
    dict(
      model=dict(
        name="vqvae",
        hidden=32,
        residual_hidden=32,
        quantizer=dict(name=name, **quantizers(bits)[name]),
      ),
      data=data or dict(name="shapes", size=32),
      ops=dict(size=32, channels=3),
      batch_size=32,
      total_steps=steps,
      log_every=50,
      save_every=steps,
      keep=1,
      optim=dict(lr=1e-3, warmup=50, clip=1.0),
    )
  )


def measure(
  name: str, bits: int, steps: int, data: dict[str, Any] | None, workdir: pathlib.Path
) -> dict[str, float]:
  """Trains one run and measures it on the whole held-out split; the compilation is not in its steps
  per second.
  """
  from vqjax import api, measure, train

  workdir = workdir / f"{name}_{bits}"
  file = workdir / "comparison.json"
  config = configuration.located(config_of(name, bits, steps, data), workdir)
  if file.exists() and configuration.of_run(workdir) == config:
    figures = json.loads(file.read_text())
    # A run that went on may have been stopped before it was measured again.
    if figures.get("steps") == steps:
      return figures
  train.train(config, workdir)  # goes on where it was, or says what differs
  loaded = api.open_run(workdir)
  figures, learned = (
    measure.evaluate_split(loaded.run, loaded.dataset(), loaded.weights, split=split)
    for split in ("eval", "train")
  )
  figures |= {key: learned[key] for key in ("usage", "perplexity") if key in learned}
  figures |= {"steps": steps, "steps_per_second": _speed(loaded)}
  file.write_text(json.dumps(figures, indent=2))
  return figures


def _speed(loaded: Any, steps: int = 20) -> float:
  from vqjax import bench

  batch = loaded.dataset().sample(loaded.config.batch_size, "train")
  step = bench.stepper(loaded.config, batch)
  return 1 / bench.time_calls({"step": step}, 1, steps)["step"][0]


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", type=cli.local, default=pathlib.Path("runs/quantizers"))
  parser.add_argument("--data", metavar="PATH")
  parser.add_argument("--steps", type=cli.count, default=1000)
  parser.add_argument("--bits", type=int, nargs="*", choices=LEVELS, default=[10])
  parser.add_argument("--only", nargs="*", choices=quantizers(10), help="a few of them")
  args = parser.parse_args(argv)
  from vqjax import data, writers

  source = data.resolve(args.data) if args.data is not None else None
  columns = {
    "psnr": ".2f",
    "ssim": ".3f",
    "usage": ".1%",
    "perplexity": ".0f",
    "bits_per_image": ".0f",
    "steps_per_second": ".1f",
  }
  rows = []
  for bits in args.bits:
    for name in args.only or quantizers(bits):
      figures = measure(name, bits, args.steps, source, args.workdir)
      cells = (format(figures[c], f) if c in figures else "" for c, f in columns.items())
      rows.append([name, str(bits), *cells])
  titles = [
    "quantizer",
    "bits",
    "PSNR (dB)",
    "SSIM",
    "usage",
    "perplexity",
    "bits/image",
    "steps/s",
  ]
  print(writers.table(titles, rows))
