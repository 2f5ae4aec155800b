"""Checkpoints: every Orbax call of the project. A step holds the state, the data position and a fingerprint."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from vqjax.errors import UserError

log = logging.getLogger("vqjax")


class StreamHandler(ocp.CheckpointHandler):
  """Saves a data stream beside the state: each process writes the files of its own position."""

  def save(self, directory: epath.Path, args: StreamSave) -> None:
    args.stream.save(pathlib.Path(directory))

  def restore(self, directory: epath.Path, args: StreamRestore) -> None:
    args.stream.restore(pathlib.Path(directory))


@ocp.args.register_with_handler(StreamHandler, for_save=True)
@dataclasses.dataclass
class StreamSave(ocp.args.CheckpointArgs):
  stream: Any


@ocp.args.register_with_handler(StreamHandler, for_restore=True)
@dataclasses.dataclass
class StreamRestore(ocp.args.CheckpointArgs):
  stream: Any


@functools.partial(jax.jit)
def fingerprint(tree: Any) -> jax.Array:
  """uint32 `[leaves]`: a position-weighted sum of each leaf's bits, wrapping, so the same however the leaf is sharded."""

  def digest(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32).ravel()
    return jnp.sum(bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)

  return jnp.stack([digest(x) for x in jax.tree.leaves(tree)])


def identity(config: Any, weights: Any) -> str:
  """A short hash of a model's config and of every bit of its weights."""
  content = json.dumps([config, jax.device_get(fingerprint(weights)).tolist()], sort_keys=True, default=list)
  return hashlib.sha256(content.encode()).hexdigest()[:16]


class Checkpoints:
  """The checkpoints of one workdir: the newest `keep` and the best by a held-out metric; saving is asynchronous."""

  def __init__(self, workdir: pathlib.Path, keep: int = 1, best: str = ""):
    self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
    self._keep, self._best = keep, best
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    preserved = [policies.LatestN(self._keep)]
    if self._best:
      name, smaller = self._best.removeprefix("-"), self._best.startswith("-")
      preserved.append(policies.BestN(
          get_metric_fn=lambda m: m[name], reverse=smaller, n=1, keep_checkpoints_without_metrics=False))
    return ocp.CheckpointManager(
        self.directory,
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(preserved), cleanup_tmp_directories=True),
        item_handlers={"state": ocp.StandardCheckpointHandler(), "data": StreamHandler(), "check": ocp.JsonCheckpointHandler()})

  def steps(self) -> list[int]:
    return sorted(self._manager.all_steps())

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *_: Any) -> None:
    self.wait()
    self._manager.close()

  def save(self, step: int, state: Any, stream: Any, metrics: dict[str, float] | None = None, window: Any = None) -> None:
    """Writes step `step` in the background; returns once the state has left the device.

    Args:
      step: steps already saved are left as they are.
      state: the training state.
      stream: the data stream, at the position that the next step continues from.
      metrics: held-out figures by which the best checkpoint is kept; None where none were measured.
      window: JSON; training metrics not yet logged, so that a continued run logs what an uninterrupted one would.
    """
    if step in self._manager.all_steps():
      return
    check = {"fingerprint": [int(v) for v in jax.device_get(fingerprint(state))], "window": window or {}}
    items = dict(state=ocp.args.StandardSave(state), data=StreamSave(stream), check=ocp.args.JsonSave(check))
    self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics or None)

  def restore(self, abstract: Any, open_stream: Callable[[int], Any]) -> tuple[Any, Any, Any] | None:
    """(state, data stream at its position, window) of the newest step that reads back whole; None where nothing was saved.

    A step that is cut short or whose fingerprint does not match is reported, moved aside, and the one before is tried.

    Args:
      abstract: ShapeDtypeStructs with shardings, as the state shall be laid out.
      open_stream: from a step to a stream; called for the step that is restored.
    """
    for step in reversed(found := self.steps()):
      try:
        state, check = self._read(step, abstract)
        stream = open_stream(step)
        if step:  # a conversion's step 0 has no data position
          self._manager.restore(step, args=ocp.args.Composite(data=StreamRestore(stream)))
        return state, stream, check["window"]
      except UserError:
        raise
      except Exception as e:  # Orbax, TensorStore and the file system each raise their own kinds.
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
        log.warning("checkpoint %d in %s cannot be read (%s); using the one before", step, self.directory, reason)
        self._set_aside(step)
    if found:
      raise UserError(f"--workdir: none of the checkpoints in {self.directory} can be read; they are kept in damaged_checkpoints.")
    return None

  def _read(self, step: int, abstract: Any) -> tuple[Any, Any]:
    items = dict(state=ocp.args.StandardRestore(abstract), check=ocp.args.JsonRestore())
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    if [int(v) for v in jax.device_get(fingerprint(restored.state))] != restored.check["fingerprint"]:
      raise ValueError("its contents do not match the fingerprint that was saved with them")
    return restored.state, restored.check

  def _set_aside(self, step: int) -> None:
    self._manager.close()
    damaged = self.directory.parent / "damaged_checkpoints"
    if jax.process_index() == 0:
      damaged.mkdir(exist_ok=True)
      (self.directory / str(step)).rename(damaged / f"{step}-{len(list(damaged.iterdir()))}")
    self._manager = self._open()

  def wait(self) -> None:
    self._manager.wait_until_finished()


def restore_params(workdir: pathlib.Path, abstract: Any) -> Any:
  """The part of a run's newest state that `abstract` names, e.g. {"params": …, "stats": …}; nothing else is read.

  Raises:
    UserError: no checkpoint, or one that lacks a part or has it in another shape.
  """
  directory = pathlib.Path(workdir).absolute() / "checkpoints"
  if not directory.is_dir():
    raise UserError(f"--workdir={workdir}: holds no checkpoint.")
  options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
  with ocp.CheckpointManager(directory, item_names=("state",), options=options) as manager:
    if (step := manager.latest_step()) is None:
      raise UserError(f"--workdir={workdir}: holds no finished checkpoint.")
    target = {k: v for k, v in abstract.items()}
    args = ocp.args.PyTreeRestore(
        item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True)
    return manager.restore(step, args=ocp.args.Composite(state=args))["state"]


def with_sharding(abstract: Any, shardings: Any) -> Any:
  """ShapeDtypeStructs that carry their shardings."""
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)

