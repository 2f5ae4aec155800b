"""Train: python -m vqjax.main --config=configs/vqvae_shapes.py --workdir=runs/vqvae_shapes

Running the same command again continues the run; then --config may be left out, the workdir holds
it. `--config=FILE:debug` shrinks any config to seconds on a CPU. `--data=PATH` points it at local
files: a folder of images, sounds or films, an .npz or .npy, a directory of IDX files, or codes.
`--config.FIELD=VALUE` overrides any field.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

# Nothing here imports jax: a signal is answered from the first moment on.
from vqjax import cli, files, preemption


def main(argv: Sequence[str]) -> None:
  from vqjax import config as configuration

  argv, overrides = configuration.split_arguments(argv)
  parser = cli.parser(__doc__)
  parser.add_argument("--config", metavar="FILE[:debug]")
  parser.add_argument("--workdir", required=True, type=cli.path, help="where the run lives")
  parser.add_argument("--data", metavar="PATH", help="local data instead of the config's")
  parser.add_argument("--profile", action="store_true", help="trace five steps into the workdir")
  args = parser.parse_args(argv)
  if start_up := preemption.start_up():
    start_up.begins(args.workdir)
  fit(args.config, args.workdir, overrides, args.data, args.profile)


def fit(
  config: str | os.PathLike[str] | Mapping[str, Any] | None,
  workdir: str | os.PathLike[str],
  overrides: Sequence[str] = (),
  data_path: str | None = None,
  profile: bool = False,
) -> dict[str, float]:
  """See `vqjax.fit`; without a config that of the run in `workdir` continues."""
  from vqjax import config as configuration, data, train

  path = files.path(workdir)
  if config is None:
    config = configuration.of_run(path)
  elif isinstance(config, str | os.PathLike):
    config = configuration.load(os.fspath(config))
  else:
    config = configuration.editable(config)
  if data_path is not None:
    config.data = data.resolve(data_path)
  configuration.override(config, overrides)
  return train.train(config, path, profile)


if __name__ == "__main__":
  with preemption.StartUp():
    cli.run(main)
