"""Train: python -m vqjax.main --config=configs/vqvae_shapes.py --workdir=runs/shapes [--data=PATH]
[--config.FIELD=VALUE …]

Running the same command again continues the run; then --config may be left out, the workdir holds
it. `--config=FILE:debug` shrinks any config to seconds on a CPU. `--data` points it at local files:
a folder of images, an .npz, or a directory of IDX files. `--config.FIELD=VALUE` overrides any
field.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from vqjax import cli, config as configuration


def main(argv: Sequence[str]) -> None:
  argv, overrides = configuration.split_arguments(argv)
  parser = cli.parser(__doc__)
  parser.add_argument("--config", metavar="FILE[:debug]")
  parser.add_argument(
    "--workdir",
    required=True,
    type=pathlib.Path,
    help="where the run lives: config, checkpoints, metrics, previews",
  )
  parser.add_argument("--data", metavar="PATH", help="local data instead of the config's")
  args = parser.parse_args(argv)
  from vqjax import data, train

  config = configuration.load(args.config) if args.config else configuration.of_run(args.workdir)
  if args.data is not None:
    config.data = data.resolve(args.data)
  configuration.override(config, overrides)
  train.train(config, args.workdir)


if __name__ == "__main__":
  cli.run(main)
