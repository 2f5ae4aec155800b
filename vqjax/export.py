"""Export: python -m vqjax.export --workdir=RUN --output=FILE.safetensors [--dtype=bfloat16]

Writes a trained tokenizer, prior or contrastive run as one file to share: its config, its weights
(averaged ones where an average is kept; no optimizer, no adversary), and all that predictions ask
for beside them: a prior's tokenizers, the prior of the coarser level, a vocabulary, how often codes
occur. It holds tensors and texts alone, in the format safetensors, and nothing that runs; neither
data nor the names of this machine's folders. It stands wherever --workdir is read, as
--config.tokenizer or --config.init_from, and in vqjax.load("FILE.safetensors").

With --dtype=float32 it gives the very results of the run. bfloat16 and float16 halve what networks
take, and make a slightly different model: cached codes and coded files of the run are not its own.
Codebooks and their statistics stay float32 in any case: rounded, some codes would never be met.

--step=N takes another checkpoint than the newest, such as the one that config.best has kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqjax import cli, files
from vqjax.errors import UserError

DTYPES = ("float32", "bfloat16", "float16")


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=cli.path)
  parser.add_argument("--output", required=True, type=cli.path, metavar="FILE.safetensors")
  parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of networks' weights")
  parser.add_argument("--step", type=int, metavar="N", help="of the checkpoint")
  args = parser.parse_args(argv)
  size, (kind, *others) = export(args.workdir, args.output, args.dtype, args.step)
  beside = f" with {', '.join(others)}" if others else ""
  print(f"{args.output}: {kind}{beside}, {size / 1e6:.2f} MB")


def export(
  workdir: str | os.PathLike[str],
  output: str | os.PathLike[str],
  dtype: str = "float32",
  step: int | None = None,
) -> tuple[int, list[str]]:
  """Writes the run in `workdir`, as it was at `step`, as the file `output`, see the command.

  Returns (how many bytes it has, [the run's task, the folders within of those it depends on]).

  Raises UserError where there is no such run, the file exists or cannot be written, or a weight is
  beyond `dtype`.
  """
  file = files.path(output)
  if not str(file).endswith(files.EXPORTED):
    raise UserError(f"--output={output}: end the name in {files.EXPORTED}, by which it is known.")
  if (there := file.container if files.is_packed(file) else file).exists():
    raise UserError(f"--output={output}: {there} exists; choose another name, or remove it.")
  from vqjax import packed

  made = _Packing(dtype)
  made.add(files.path(workdir), "", step)
  content = packed.content(made.texts, made.tensors)
  files.write_bytes(file, content)
  return len(content), made.names


class _Packing:
  """What goes into the file, collected run by run.

  Attributes:
    texts, tensors: see vqjax.packed.
    names: of the runs: the task of the first one, the folders within of the others.
  """

  def __init__(self, dtype: str):
    self._dtype = np.dtype(dtype)
    self.texts: dict[str, str] = {}
    self.tensors: dict[str, np.ndarray] = {}
    self.names: list[str] = []
    self._folders: dict[str, str] = {}

  def add(self, workdir: files.Path, folder: str, step: int | None = None) -> None:
    """The run in `workdir`, into this folder, with those that it depends on."""
    import jax

    from vqjax import api, sharding
    from vqjax.tasks import _latents

    loaded = api.open_run(workdir, step=step)
    self._folders[_key(workdir)] = folder
    self.names.append(folder or loaded.config.task)
    self._file(folder, "config.json", _json(self._config(loaded, folder)))
    for name in ("batch.json", _latents.FILE):
      if (file := loaded.workdir / name).exists():
        self._file(folder, name, file.read_bytes())
    weights = jax.device_get(loaded.weights)
    frozen = self._narrowed(weights.frozen, rounded=True)
    if hashes := loaded.run.task.frozen.identity(frozen):
      self._file(folder, "frozen.json", _json(hashes))
    own = {"params": weights.params, "stats": weights.stats}
    self._counts(loaded, own, folder)
    for path, x in jax.tree_util.tree_leaves_with_path(self._narrowed(own)):
      self.tensors[_within(folder, sharding.path_name(path))] = np.asarray(x)

  def _config(self, loaded: Any, folder: str) -> dict[str, Any]:
    """The config with its places as they are found from the file; adds what lies at these."""
    from vqjax import config as configuration, places

    def move(place: places.Place) -> str:
      if not place.part:
        return os.path.basename(place.value.rstrip("/"))
      configuration.check_there(loaded.config, loaded.workdir, place.field)
      found, (*parents, leaf) = files.path(place.value), place.field.split(".")
      if not places.exists(place.value, run=True):
        self._file(folder, found.name, found.read_bytes())
        return f"./{found.name}"
      if _key(found) not in self._folders:
        self.add(found, _within(folder, parents[-1] if parents else leaf))
      there = os.path.relpath(self._folders[_key(found)] or ".", folder or ".")
      return there if there.startswith(".") else f"./{there}"

    config = configuration.relocated(loaded.config, move)
    return {"workdir": places.EXPORT} | config.to_dict()

  def _counts(self, loaded: Any, own: Mapping[str, Any], folder: str) -> None:
    """How often codes occur, where it was counted, as of the weights that the file has."""
    from vqjax.codec import _tables
    from vqjax.tasks._first_stage import identity

    if loaded.config.task != "autoencode" or not (levels := loaded.run.task.info.levels):
      return
    tables = None
    if levels[0].kind == "codes":
      tables = _tables.load(loaded.workdir, levels, identity(loaded.config, own))
    if tables is not None:
      now = identity(loaded.config, self._narrowed(own, rounded=True))
      self._file(folder, _tables.FILE, _tables.content(tables, now))

  def _narrowed(self, tree: Any, rounded: bool = False) -> Any:
    """The tree in the type of the file; `rounded`: in its own, with the values of that one."""
    import jax

    from vqjax import sharding

    def narrow(path: Any, x: Any) -> np.ndarray:
      x, name = np.asarray(x), sharding.path_name(path)
      if x.dtype != np.float32 or x.ndim < 2 or _kept(name):
        return x
      with np.errstate(over="ignore"):
        made = x.astype(self._dtype)
      if not np.isfinite(made.astype(np.float32)).all() and np.isfinite(x).all():
        raise UserError(
          f"--dtype={self._dtype}: {name} has a value of {np.abs(x).max():.3g}, which is beyond "
          "it; take bfloat16."
        )
      return made.astype(x.dtype) if rounded else made

    return jax.tree_util.tree_map_with_path(narrow, tree)

  def _file(self, folder: str, name: str, content: bytes) -> None:
    name = _within(folder, name)
    try:
      self.texts[name] = content.decode()
    except UnicodeDecodeError:
      self.tensors[name] = np.frombuffer(content, np.uint8)


def _kept(name: str) -> bool:
  """Whether a weight is a quantizer's, or a statistic."""
  return any(part.startswith(("quantizer", "stats")) for part in name.split("/"))


def _within(folder: str, name: str) -> str:
  return f"{folder}/{name}" if folder else name


def _key(workdir: files.Path) -> str:
  from vqjax import places

  return places.absolute(str(workdir))


def _json(content: Any) -> bytes:
  return json.dumps(content).encode()


if __name__ == "__main__":
  cli.run(main)
