"""Convert published weights: python -m vqjax.convert --source=FORMAT --checkpoint=FILE
--workdir=OUT [--option NAME=VALUE …], and back: --target=FORMAT --workdir=RUN --checkpoint=FILE

Sizes are read from the tensors; what a file does not hold is given as options. OUT is a workdir
like any other. Nothing that a file contains is executed. PyTorch files need `pip install torch`.
"""

from __future__ import annotations

import argparse
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqjax import cli, importers
from vqjax.build import module, names
from vqjax.errors import UserError
from vqjax.importers import _torch_file


def main(argv: Sequence[str]) -> None:
  formats = {name: module("importers", name) for name in names("importers")}
  listing = "\n".join(_described(name, formats[name]) for name in formats)
  parser = cli.parser(f"{__doc__}\nformats of --source:\n\n{listing}")
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--source", choices=list(formats))
  what.add_argument("--target", choices=[n for n, f in formats.items() if hasattr(f, "write")])
  parser.add_argument("--checkpoint", action="append", type=cli.local, default=[], metavar="FILE")
  parser.add_argument("--workdir", type=cli.path)
  parser.add_argument("--output", type=cli.local, help="the file, of a source that makes one")
  parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
  args = parser.parse_args(argv)
  written = _export(args, formats) if args.target else _import(args, formats[args.source])
  print(f"written: {written}")


def _described(name: str, member: types.ModuleType) -> str:
  """What --help says of a format."""
  options = [
    f"{k} ({v.__name__}, required)" if isinstance(v, type) else f"{k}={v}"
    for k, v in member.OPTIONS.items()
  ]
  lines = [
    member.__doc__.splitlines()[0],
    f"from {member.WHERE}",
    f"--checkpoint: {member.FILES} time(s), to --{_result(member)}",
    f"--option: {', '.join(options) or 'none'}",
    *(["also as --target"] if hasattr(member, "write") else []),
    *(["a --checkpoint without suffix is a folder"] if hasattr(member, "write_folder") else []),
  ]
  return "\n".join([f"  {name}", *(f"      {line}" for line in lines)])


def _result(member: types.ModuleType) -> str:
  """The flag that says where a format's result goes."""
  return "output" if hasattr(member, "write_file") else "workdir"


def _import(args: argparse.Namespace, member: types.ModuleType) -> pathlib.Path:
  _check_files(args.source, args.checkpoint, member.FILES)
  result = _given(args, _result(member), "where the result goes")
  told = {}
  if hasattr(member, "described"):
    for file in args.checkpoint:
      told |= member.described(_torch_file.settings(file))
  options = importers.complete(told | _pairs(args.option), member.OPTIONS)
  load = lambda: [_torch_file.load(file) for file in args.checkpoint]
  # Before large files are read, and before the first of several runs.
  if hasattr(member, "write_file"):
    cli.output(result)
    member.write_file(load(), options, result)
    return result
  _check_free(result)
  for run in member.read(load(), options, result):
    write_run(run, result)
  return result


def _export(args: argparse.Namespace, formats: Mapping[str, types.ModuleType]) -> pathlib.Path:
  _check_files(args.target, args.checkpoint, 1)
  workdir, (file,) = _given(args, "workdir", "which run to take"), args.checkpoint
  if args.option:
    raise UserError(f"--option {args.option[0]}: belongs to --source; remove it.")
  import jax

  from vqjax import api

  run = api.open_run(workdir, whole=True)
  params, stats, _ = jax.device_get(run.weights)
  member = formats[args.target]
  if hasattr(member, "write_folder") and not file.suffix:
    member.write_folder(run.config.to_dict(), params, stats, file)
    return file
  state = member.write(run.config.to_dict(), params, stats)
  file.parent.mkdir(parents=True, exist_ok=True)
  _torch_file.save(file, {"state_dict": state})
  return file


def _check_files(name: str, files: Sequence[pathlib.Path], wanted: int) -> None:
  if len(files) != wanted:
    raise UserError(f"--checkpoint: {name} takes {wanted} file(s), not {len(files)}.")


def _given(args: argparse.Namespace, flag: str, meaning: str) -> pathlib.Path:
  if (value := getattr(args, flag)) is None:
    raise UserError(f"--{flag}: is not set; say {meaning}.")
  return value


def _pairs(words: Sequence[str]) -> dict[str, str]:
  for word in words:
    if "=" not in word:
      raise UserError(f"--option {word}: write NAME=VALUE.")
  return dict(word.split("=", 1) for word in words)


def _check_free(workdir: pathlib.Path) -> None:
  if (workdir / "checkpoints").exists():
    raise UserError(f"--workdir={workdir}: already holds a run; choose another folder.")


def write_run(run: importers.Imported, workdir: pathlib.Path) -> None:
  """Makes `workdir`, or the run's folder in it, a run at step 0 with these variables.

  What the import does not have (optimizer, LeCAM) starts afresh.

  Raises:
    UserError: the folder already holds a run.
  """
  import jax

  from vqjax import checkpoint, config as configuration, lineage, train

  workdir = workdir / run.folder
  _check_free(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  config = train.begun(configuration.complete(run.config), None, workdir)
  spec = {k: jax.ShapeDtypeStruct((1, *shape), dtype) for k, (shape, dtype) in run.spec.items()}
  configuration.save(config, workdir)
  configuration.save_spec(spec, workdir)
  made = train.Run(config, spec)
  tokenizers = made.task.frozen.identity(made.load_frozen())
  lineage.check_frozen(tokenizers, config, workdir, begin=True)
  lineage.leave_notes(tokenizers, config, workdir)
  params, stats = _placed(run.params, made.abstract.params), _placed(run.stats, made.abstract.stats)
  with checkpoint.Checkpoints(workdir) as checkpoints:
    checkpoints.save(
      0, made.init(jax.random.key(config.seed), params, stats), checkpoint.NoStream()
    )


def _placed(new: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays on the devices where the run has them."""
  import jax

  put = lambda x, s: jax.device_put(np.asarray(x, s.dtype), s.sharding)
  return {k: jax.tree.map(put, v, like[k]) for k, v in new.items()}


if __name__ == "__main__":
  cli.run(main)
