"""Checkpoints: every Orbax call of the project.

A step holds the state, the data position and a fingerprint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import os
import pathlib
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from vqjax import digests, files
from vqjax.errors import UserError, reason
from vqjax.tensors import is_float

log = logging.getLogger("vqjax")

# A reader that meets only steps that a training run removes meanwhile gives up after this.
_READ_SECONDS = 120.0


@functools.cache
def _mute_remnants() -> None:
  """Python tells of what an error leaves behind, at any later time: coroutines of Orbax that nobody
  awaits, futures of TensorStore whose loop is gone.
  """
  before = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    code = getattr(unraisable.object, "cr_code", None)
    orbax = code is not None and "/orbax/" in code.co_filename
    if not orbax and str(unraisable.exc_value) != "Event loop is closed":
      before(unraisable)

  sys.unraisablehook = hook
  warnings.filterwarnings("ignore", "coroutine '.*CheckpointHandler", RuntimeWarning)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Orbax logs the errors of its threads, hundreds of lines each, though it raises them in ours."""
  _mute_remnants()
  logger, drop = logging.getLogger("absl"), lambda record: "/orbax/" not in record.pathname
  logger.addFilter(drop)
  try:
    yield
  finally:
    logger.removeFilter(drop)


class StreamHandler(ocp.CheckpointHandler):
  """Saves a data stream beside the state: each process writes the files of its own position.

  Streams know local folders only: a bucket's files go through one.
  """

  def save(self, directory: epath.Path, args: StreamSave) -> None:
    if not files.is_remote(directory):
      args.stream.save(pathlib.Path(directory))
      return
    with tempfile.TemporaryDirectory() as local:
      args.stream.save(pathlib.Path(local))
      files.copy_files(pathlib.Path(local), directory)

  def restore(self, directory: epath.Path, args: StreamRestore) -> None:
    if not files.is_remote(directory):
      args.stream.restore(pathlib.Path(directory))
      return
    with tempfile.TemporaryDirectory() as local:
      files.copy_files(directory, pathlib.Path(local))
      args.stream.restore(pathlib.Path(local))


@ocp.args.register_with_handler(StreamHandler, for_save=True)
@dataclasses.dataclass
class StreamSave(ocp.args.CheckpointArgs):
  stream: Any


@ocp.args.register_with_handler(StreamHandler, for_restore=True)
@dataclasses.dataclass
class StreamRestore(ocp.args.CheckpointArgs):
  stream: Any


class NoStream:
  """Stands for the data position of a checkpoint that no training made."""

  def save(self, directory: files.Path) -> None:
    del directory


def _check_contents(tree: Any, saved: Any) -> None:
  """Raises ValueError where a leaf of `tree` is not what was saved; `saved` is the item "check", as
  JSON gives it back.
  """
  found, saved = digests.by_path(tree), saved["fingerprint"]
  if isinstance(saved, list):  # written without paths: tells of whole states only
    same = len(saved) != len(found) or saved == list(found.values())
  else:
    same = found == {path: saved.get(path) for path in found}
  if not same:
    raise ValueError("its contents do not match the fingerprint that was saved with them")


def _check_shapes(saved: Any, abstract: Any, where: str, whole: bool) -> None:
  """Raises UserError naming the first leaf in which a checkpoint differs from `abstract`; `whole`:
  it holds no other leaves either.
  """
  describe = lambda leaf: (
    "nothing" if leaf is None else f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]"
  )
  there, wanted = (
    {k: describe(v) for k, v in digests.leaves(tree).items()} for tree in (saved, abstract)
  )
  for path in wanted | there if whole else wanted:
    old, new = there.get(path, describe(None)), wanted.get(path, describe(None))
    if old != new:
      raise UserError(
        f"{where}: holds {old} as {path}, the config makes it {new}; give it the values that "
        "this was trained with."
      )


def _check_metadata(manager: ocp.CheckpointManager, step: int, abstract: Any, whole: bool) -> None:
  """As `_check_shapes`, of a saved step. Raises ValueError where its metadata are gone."""
  if (metadata := manager.item_metadata(step)["state"]) is None:
    raise ValueError("its metadata are missing")
  _check_shapes(metadata.tree, abstract, f"{manager.directory / str(step)}", whole)


def _damage(error: Exception) -> str:
  """What an error on reading says about the files: each library raises its own kinds.

  Raises it where it speaks of something else.
  """
  innocent = (UserError, MemoryError, jax.errors.JaxRuntimeError)
  if (
    isinstance(error, innocent)
    or isinstance(error.__cause__, innocent)
    or "RESOURCE_EXHAUSTED" in str(error)
  ):
    raise error
  return reason(error)


class Checkpoints:
  """The checkpoints of one workdir: the newest `keep` and the best by a held-out metric; saving is
  asynchronous.

  Whatever the system has against writing them is a UserError with the last good step, which stays:
  of `save` for the step before, of `wait`, or of the end of the `with` block.
  """

  def __init__(self, workdir: str | os.PathLike[str], keep: int = 1, best: str = ""):
    self._workdir = _absolute(workdir)
    self.directory = self._workdir / "checkpoints"
    self._keep, self._best = keep, best
    self._writes, self._bytes = self.directory, 0  # what is being saved, for the error
    self._stack = contextlib.ExitStack()
    self._stack.enter_context(_quiet())
    with self._saving():
      self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    if jax.process_count() == 1:
      # Orbax lets replicas share the writing, each array cut by a program of its own. Devices of
      # one process write to one disk, and compiling those programs takes longer than saving.
      whole = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
      ocp.type_handlers.register_type_handler(jax.Array, whole, override=True)
    preserved, metric = [policies.LatestN(self._keep)], None
    if self._best:
      name, smaller = self._best.removeprefix("-"), self._best.startswith("-")
      # Steps that were measured by other figures are no better than any.
      metric = lambda m: m.get(name, math.inf if smaller else -math.inf)
      best = policies.BestN(
        get_metric_fn=metric, reverse=smaller, n=1, keep_checkpoints_without_metrics=False
      )
      preserved.append(best)
    return ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(preserved),
        best_fn=metric,  # or Orbax writes no figures, and forgets them with the process
        cleanup_tmp_directories=True,
      ),
      item_handlers={
        "state": ocp.StandardCheckpointHandler(),
        "data": StreamHandler(),
        "check": ocp.JsonCheckpointHandler(),
      },
    )

  def steps(self) -> list[int]:
    return sorted(self._manager.all_steps())

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    with self._stack:
      try:
        with self._saving():
          self._manager.close()
      except UserError:
        if kind is None:  # else the block's own error tells more
          raise

  @contextlib.contextmanager
  def _saving(self) -> Iterator[None]:
    """Makes one UserError of an error in any of Orbax's threads, after they have ended."""
    with files.saving(self._writes, self._workdir, self._bytes):
      try:
        yield
      except UserError:
        raise
      except Exception:
        if hasattr(self, "_manager"):
          self._abandon()
        raise

  def _abandon(self) -> None:
    """Ends the threads of a failed save and removes what it wrote, which takes room."""
    for _ in range(2):  # the first call may raise what another thread met
      with contextlib.suppress(Exception):
        self._manager.close()
    if jax.process_index() == 0 and not files.is_remote(self.directory):
      for step in self.directory.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(step, ignore_errors=True)

  def save(
    self,
    step: int,
    state: Any,
    stream: Any,
    metrics: dict[str, float] | None = None,
    window: Any = None,
  ) -> None:
    """Writes step `step` in the background; returns once the state has left the device.

    Args:
      step: steps already saved are left as they are.
      state: the training state.
      stream: the data stream, at the position that the next step continues from.
      metrics: held-out figures by which the best checkpoint is kept; None where none were measured.
      window: JSON; training metrics not yet logged, so that a continued run logs what an
        uninterrupted one would.
    """
    if step in self._manager.all_steps():
      return
    check = {"fingerprint": digests.by_path(state), "window": window or {}}
    items = dict(
      state=ocp.args.StandardSave(state), data=StreamSave(stream), check=ocp.args.JsonSave(check)
    )
    with self._saving():
      self.wait()
      self._writes = self.directory / str(step)
      self._bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
      self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics or None)

  def restore(
    self, abstract: Any, open_stream: Callable[[int], Any]
  ) -> tuple[Any, Any, Any] | None:
    """(state, data stream at its position, window) of the newest step that reads back whole; None
    where no training was saved.

    A step that is cut short or whose fingerprint does not match is reported, moved aside, and the
    one before is tried. Step 0, a conversion's, holds weights and no training: see
    `restore_params`.

    Args:
      abstract: ShapeDtypeStructs with shardings, as the state shall be laid out.
      open_stream: from a step to a stream; called for the step that is restored.

    Raises:
      UserError: nothing can be read, or a state of another shape, which stays where it is.
    """
    trained = [step for step in self.steps() if step]
    for step in reversed(trained):
      stream = open_stream(step)
      try:
        state, check = self._read(step, abstract)
        self._manager.restore(step, args=ocp.args.Composite(data=StreamRestore(stream)))
        return state, stream, check["window"]
      except Exception as e:
        stream.close()
        log.warning(
          "checkpoint %d in %s cannot be read (%s); using the one before",
          step,
          self.directory,
          _damage(e),
        )
        self._set_aside(step)
    if trained and not self.steps():
      raise UserError(
        f"--workdir: none of the checkpoints in {self.directory} can be read; they are kept in "
        "damaged_checkpoints."
      )
    return None

  def _read(self, step: int, abstract: Any) -> tuple[Any, Any]:
    _check_metadata(self._manager, step, abstract, whole=True)
    items = dict(state=ocp.args.StandardRestore(abstract), check=ocp.args.JsonRestore())
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    _check_contents(restored.state, restored.check)
    return restored.state, restored.check

  def _set_aside(self, step: int) -> None:
    self._manager.close()
    damaged = self.directory.parent / "damaged_checkpoints"
    if jax.process_index() == 0:
      damaged.mkdir(exist_ok=True)
      number = len(list(damaged.iterdir())) if damaged.exists() else 0
      files.move(self.directory / str(step), damaged / f"{step}-{number}")
    if jax.process_count() > 1:  # or another process still finds the step where it was
      from jax.experimental import multihost_utils

      multihost_utils.sync_global_devices(f"checkpoint {step} set aside")
    self._manager = self._open()

  def wait(self) -> None:
    """Returns when the last step is saved."""
    with self._saving():
      self._manager.wait_until_finished()


def restore_params(
  workdir: str | os.PathLike[str], abstract: Mapping[str, Any], step: int | None = None
) -> dict[str, Any]:
  """The part of a run's newest readable state, or of that of `step`, which `abstract` names, e.g.
  {"params": …, "stats": …}; nothing else is read. An exported run has one state, in which averages
  stand for parameters.

  A step that is cut short, or whose fingerprint does not match, is reported and passed over; it
  stays where it is. The run may be training: where a step is removed while it is read, a newer one
  is there.

  Raises:
    UserError: no checkpoint, none that can be read, or one that lacks a part or has it in another
      shape.
  """
  if files.is_packed(packed := files.path(workdir)):
    if step is not None:
      raise UserError(f"--step={step}: an exported run has one state; leave it out.")
    return _unpacked(packed, dict(abstract))
  directory = _absolute(workdir) / "checkpoints"
  if not directory.is_dir():
    raise UserError(f"--workdir={workdir}: holds no checkpoint.")
  find = lambda: [s for s in files.saved_steps(directory.parent) if step in (None, s)]
  damaged: set[int] = set()
  end = time.monotonic() + _READ_SECONDS
  if not (saved := find()) and step is not None:
    there = ", ".join(map(str, files.saved_steps(directory.parent))) or "none"
    raise UserError(f"--step={step}: {workdir} has no such checkpoint; it has {there}.")
  while left := [s for s in saved if s not in damaged]:
    newest = left[-1]
    try:
      with _quiet():
        return _read_part(directory, newest, dict(abstract))
    except Exception as e:
      before, saved = saved, find()
      # Opening a step looks at its neighbours too: one of them may be what vanished.
      if saved != before and time.monotonic() < end:
        continue
      log.warning(
        "checkpoint %d in %s cannot be read (%s); looking for one before",
        newest,
        directory,
        _damage(e),
      )
      damaged.add(newest)
  if not damaged:
    raise UserError(f"--workdir={workdir}: holds no finished checkpoint.")
  if step is not None:
    raise UserError(f"--step={step}: this checkpoint of {workdir} cannot be read.")
  raise UserError(f"--workdir={workdir}: none of its checkpoints can be read.")


def _read_part(directory: files.Path, step: int, target: dict[str, Any]) -> dict[str, Any]:
  part = ocp.args.PyTreeRestore(
    item=target,
    restore_args=ocp.checkpoint_utils.construct_restore_args(target),
    partial_restore=True,
  )
  handlers = {"state": ocp.PyTreeCheckpointHandler(), "check": ocp.JsonCheckpointHandler()}
  options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
  with ocp.CheckpointManager(directory, item_handlers=handlers, options=options) as manager:
    _check_metadata(manager, step, target, whole=False)
    items = ocp.args.Composite(state=part, check=ocp.args.JsonRestore())
    restored = manager.restore(step, args=items)
  _check_contents(restored["state"], restored["check"])
  return restored["state"]


def _unpacked(workdir: files.Path, abstract: Any) -> dict[str, Any]:
  """`restore_params` of an exported run; narrower floats become those that are asked for."""
  told = lambda path: path.replace("ema/", "params/model/", 1) if path.startswith("ema/") else path
  wanted = digests.leaves(abstract)
  found = workdir.weights(map(told, wanted))
  as_wanted = lambda x, leaf: x.astype(leaf.dtype) if is_float(x.dtype) else x
  found = {p: as_wanted(found[told(p)], leaf) for p, leaf in wanted.items() if told(p) in found}
  _check_shapes(found, wanted, f"{workdir}", whole=False)
  put = lambda x, leaf: x if leaf.sharding is None else jax.device_put(x, leaf.sharding)
  leaves = [put(found[path], leaf) for path, leaf in wanted.items()]
  return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def _absolute(workdir: str | os.PathLike[str]) -> files.Path:
  workdir = files.path(workdir)
  return workdir if files.is_remote(workdir) else workdir.absolute()


def with_sharding(abstract: Any, shardings: Any) -> Any:
  """ShapeDtypeStructs that carry their shardings."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
  )
