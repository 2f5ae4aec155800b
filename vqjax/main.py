"""Train: python -m vqjax.main --config=configs/vqvae_shapes.py --workdir=runs/vqvae_shapes

Running the same command again continues the run; then --config may be left out, the workdir holds
it. `--config=FILE:debug` shrinks any config to seconds on a CPU. `--data=PATH` points it at local
files: a folder of images, an .npz, or a directory of IDX files. `--config.FIELD=VALUE` overrides any
field.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vqjax import cli, config as configuration


def main(argv: Sequence[str]) -> None:
  argv, overrides = configuration.split_arguments(argv)
  parser = cli.parser(__doc__)
  parser.add_argument("--config", metavar="FILE[:debug]")
  parser.add_argument("--workdir", required=True, help="where the run lives")
  parser.add_argument("--data", metavar="PATH", help="local data instead of the config's")
  args = parser.parse_args(argv)
  fit(args.config, args.workdir, overrides, args.data)


def fit(
  config: str | Mapping[str, Any] | None,
  workdir: str,
  overrides: Sequence[str] = (),
  data_path: str | None = None,
) -> dict[str, float]:
  """See `vqjax.fit`; without a config that of the run in `workdir` continues."""
  from vqjax import data, train

  path = pathlib.Path(workdir)
  if config is None:
    config = configuration.of_run(path)
  elif isinstance(config, str):
    config = configuration.load(config)
  else:
    config = configuration.editable(config)
  if data_path is not None:
    config.data = data.resolve(data_path)
  configuration.override(config, overrides)
  return train.train(config, path)


if __name__ == "__main__":
  cli.run(main)
