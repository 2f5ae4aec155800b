"""Tensors of a published file, read without executing anything that the file holds.

PyTorch is needed only here.
"""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from vqjax import files, tensors
from vqjax.errors import UserError, reason


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Reads {name: array} from a .safetensors or .npz file, or from any file of `torch.save`; of a
  folder, from the one such file in it, .safetensors before others.

  A torch file may hold a state dict, a training checkpoint with one under "state_dict", or a whole
  module. It is unpickled weights-only: tensors are made, every other class in the file becomes an
  empty stand-in.

  Raises:
    UserError: no such file, a format that is not understood, no tensors, or a package that is
      missing.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = _within(path)
  if not path.is_file():
    raise UserError(f"checkpoint: no file {str(path)!r}.")
  if path.suffix == tensors.SUFFIX:
    return _safetensors(path)
  if path.suffix == ".npz":
    try:
      with np.load(path, allow_pickle=False) as file:
        return dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as e:
      raise UserError(f"checkpoint: {str(path)!r} is no .npz, or damaged ({e}).") from None
  content = _unpickle(path)
  if isinstance(content, _Inert):
    return _arrays(_module_state(content), path)
  for name in ("state_dict", "ema"):  # of a training checkpoint
    if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
      content = content[name]
  return _arrays(content if isinstance(content, Mapping) else {}, path)


def _within(folder: pathlib.Path) -> pathlib.Path:
  """The file of tensors in a folder. Raises UserError where there is none, or several."""
  for suffixes in ((tensors.SUFFIX,), (".bin", ".pt", ".pth", ".ckpt")):
    found = sorted(file for file in folder.iterdir() if file.suffix in suffixes)
    if len(found) == 1:
      return found[0]
    if found:
      names = ", ".join(file.name for file in found)
      raise UserError(f"checkpoint: {str(folder)!r} holds {names}; name the one to read.")
  raise UserError(f"checkpoint: {str(folder)!r} holds no file of tensors.")


def settings(path: str | os.PathLike[str]) -> dict[str, Any]:
  """What is said of a checkpoint beside its tensors: the `config.json` (or `<name>_config.json`) in
  its folder, else the keyword arguments that a torch file holds under "metadata"; {} for none.

  Raises UserError for a file that is no JSON object.
  """
  path = pathlib.Path(path)
  folder, names = path.parent, (f"{path.stem}_config.json", "config.json")
  for file in [path / "config.json"] if path.is_dir() else [folder / name for name in names]:
    if file.is_file():
      try:
        found = json.loads(file.read_text(encoding="utf-8"))
      except ValueError as e:
        raise UserError(f"{file}: is no JSON ({e}); mend or remove it.") from None
      if not isinstance(found, dict):
        raise UserError(f"{file}: holds no JSON object; mend or remove it.")
      return found
  if path.suffix in (tensors.SUFFIX, ".npz") or not path.is_file():
    return {}
  content = _unpickle(path)
  said = content.get("metadata") if isinstance(content, Mapping) else None
  said = said.get("kwargs") if isinstance(said, Mapping) else None
  return dict(said) if isinstance(said, Mapping) else {}


class _Inert:
  """Stands for a class of the file that is no tensor; takes any arguments and state, and does
  nothing.
  """

  def __init__(self, *args: Any, **kwargs: Any):
    pass

  def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
    return super().__new__(cls)

  def __setstate__(self, state: Any) -> None:
    self.state = state


def _unpickle(path: pathlib.Path) -> Any:
  try:
    import torch
  except ImportError:
    raise UserError(
      "checkpoint: reading it needs PyTorch: pip install torch, or give a .safetensors file."
    ) from None
  try:
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
  except (ValueError, RuntimeError, pickle.UnpicklingError):
    unknown = []  # not a zip file, but PyTorch's format before 1.6
  try:
    with torch.serialization.safe_globals([(_Inert, name) for name in unknown]):
      return torch.load(path, map_location="cpu", weights_only=True)
  except Exception as e:  # whatever a damaged file makes torch raise
    raise UserError(
      f"checkpoint: cannot read {str(path)!r} weights-only ({reason(e)}); "
      "save its state_dict() and give that."
    ) from None


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    found = tensors.Tensors(path)
    return {
      k: x.astype(np.float32) if tensors.is_float(x.dtype) else x for k, x in found.read(found)
    }
  except UserError as e:
    raise UserError(f"checkpoint: cannot read {e}") from None


def _module_state(module: _Inert, prefix: str = "") -> dict[str, Any]:
  """The state dict of a pickled `torch.nn.Module` whose classes are stand-ins."""
  members = getattr(module, "state", None)
  if not isinstance(members, Mapping):
    return {}
  own = {**members.get("_parameters", {}), **members.get("_buffers", {})}
  state = {prefix + name: tensor for name, tensor in own.items() if tensor is not None}
  for name, child in members.get("_modules", {}).items():
    state |= _module_state(child, f"{prefix}{name}.")
  return state


def _arrays(state: Mapping[str, Any], path: pathlib.Path) -> dict[str, np.ndarray]:
  found = {name: x.detach() for name, x in state.items() if hasattr(x, "detach")}
  if not found:
    raise UserError(f"checkpoint: {str(path)!r} holds no tensors by name; give a state dict.")
  return {name: (x.float() if x.is_floating_point() else x).numpy() for name, x in found.items()}


def save(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
  """Writes nested dicts of arrays as a file of `torch.save`; flat ones also as .safetensors.

  Raises UserError where it cannot be written, or where PyTorch is missing.
  """
  if (file := pathlib.Path(path)).suffix == tensors.SUFFIX:
    return files.write_bytes(file, tensors.content(content.get("state_dict", content)))
  try:
    import torch
  except ImportError:
    raise UserError("checkpoint: writing it needs PyTorch: pip install torch.") from None
  in_torch = lambda x: (
    {k: in_torch(v) for k, v in x.items()}
    if isinstance(x, Mapping)
    else torch.from_numpy(np.array(x))
  )
  torch.save(in_torch(content), path)
