"""Placement: a mesh from the config, path rules to shardings for any tree, host batches to global
arrays.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vqjax.errors import UserError

log = logging.getLogger("vqjax")

AXES = ("replica", "data", "fsdp", "tensor")
# The batch is split over all three: fsdp is data parallelism with the state split as well, replicas
# are data parallelism between slices.
SHARED = ("replica", "data", "fsdp")
BATCH = PartitionSpec(SHARED)
_LARGE = 2**20  # elements of an array that should not stay whole where arrays are split


@dataclasses.dataclass(frozen=True)
class Axes:
  """config.mesh: how many devices each axis takes; a single -1 takes what the others leave.

  `replica` counts slices of accelerators that a data-centre network joins: gradients alone cross
  it.
  """

  replica: int = 1
  data: int = -1
  fsdp: int = 1
  tensor: int = 1


def make_mesh(
  replica: int = 1,
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh with axes (replica, data, fsdp, tensor) over all devices; a single -1 takes what the
  others leave. Of several slices each is a replica.

  Raises:
    UserError: the sizes do not multiply to the number of devices, or are not those of its slices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [replica, data, fsdp, tensor]
  given = math.prod(n for n in sizes if n != -1)
  if sizes.count(-1) == 1 and given > 0:
    sizes[sizes.index(-1)] = len(devices) // given
  if math.prod(sizes) != len(devices) or min(sizes) < 1:
    asked = ", ".join(f"{axis}={n}" for axis, n in zip(AXES, (replica, data, fsdp, tensor)))
    raise UserError(
      f"config.mesh: {asked} does not make {len(devices)} devices; use -1 for one of them."
    )
  # Auto axes: under the default (explicit) ones linen's initialisers and the codebook gather do not
  # trace.
  types = (AxisType.Auto,) * len(AXES)
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if slices == 1:
    return jax.make_mesh(tuple(sizes), AXES, axis_types=types, devices=devices)
  if sizes[0] != slices:
    raise UserError(
      f"config.mesh.replica: {sizes[0]}, but the devices stand in {slices} slices; give {slices}."
    )
  within, between = (1, *sizes[1:]), (slices, 1, 1, 1)
  grid = mesh_utils.create_hybrid_device_mesh(within, between, devices)
  return Mesh(grid, AXES, axis_types=types)


def ways(mesh: Mesh) -> int:
  """Into how many parts a mesh splits a batch."""
  return math.prod(mesh.shape[axis] for axis in SHARED)


def shardings(rules: Sequence[tuple[str, Any]], mesh: Mesh, tree: Any) -> Any:
  """NamedSharding for every leaf of an abstract tree, by the first rule whose regex is found in the
  leaf's path.

  A rule's second part is a mesh axis (the leaf's largest dimension that divides evenly is split
  over it, if any), or a tuple of mesh axes or None for the leaf's last dimensions, e.g.
  ("codebook", ("tensor", None)). Applied to a whole training state, so that moments and averages
  follow their parameters.

  Raises:
    UserError: what is no rule, a path that no rule matches, an unknown axis.
  """
  for rule in rules:
    _check_rule(rule)
  whole: dict[str, list[Any]] = {}

  def place(path: Any, leaf: Any) -> NamedSharding:
    name = path_name(path)
    for pattern, axes in rules:
      if re.search(pattern, name):
        spec = _spec(axes, leaf.shape, mesh, name)
        if isinstance(axes, str) and not spec and mesh.shape[axes] > 1 and leaf.size >= _LARGE:
          whole.setdefault(axes, []).append(leaf)
        return NamedSharding(mesh, spec)
    raise UserError(
      f"config.sharding: no rule matches {name}; end the rules with ('.*', 'fsdp') or ('.*', ())."
    )

  placed = jax.tree_util.tree_map_with_path(place, tree)
  for axis, leaves in whole.items():
    _warn_of_whole(axis, mesh.shape[axis], leaves)
  return placed


def _warn_of_whole(axis: str, size: int, leaves: Sequence[Any]) -> None:
  """Says what is kept whole on every device because nothing of it divides, and what would."""
  fits = lambda n: all(any(length % n == 0 for length in leaf.shape) for leaf in leaves)
  able = max(n for n in range(1, size + 1) if size % n == 0 and fits(n))
  remedy = f"; config.mesh.{axis}={able} splits them all" if able > 1 else ""
  held = sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in leaves) / 2**30
  log.warning(
    "config.mesh.%s: %d arrays of %.1f GiB have no side that %d devices divide, and stay whole on "
    "each%s",
    *(axis, len(leaves), held, size, remedy),
  )


def _check_rule(rule: Any) -> None:
  try:
    pattern, axes = rule if isinstance(rule, (tuple, list)) else (None, None)
    re.compile(pattern)
    if isinstance(axes, (str, tuple, list)):
      return
  except (TypeError, ValueError, re.error):
    pass
  raise UserError(
    f"config.sharding: {rule!r} is no rule (regex, axes); for example (('.*', 'fsdp'),)."
  )


def path_name(path: Any) -> str:
  """'params/model/encoder/conv_in/kernel' for a key path."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec(axes: Any, shape: tuple[int, ...], mesh: Mesh, name: str) -> PartitionSpec:
  if unknown := set(a for a in ([axes] if isinstance(axes, str) else axes) if a is not None) - set(
    AXES
  ):
    raise UserError(
      f"config.sharding: {unknown.pop()!r} (for {name}) is not a mesh axis. Known: "
      f"{', '.join(AXES)}."
    )
  if isinstance(axes, str):
    size = mesh.shape[axes]
    fitting = [d for d, n in enumerate(shape) if n % size == 0 and n >= size]
    if (
      size == 1 or not fitting or np.prod(shape) < 1024
    ):  # a few bytes are cheaper everywhere than gathered
      return PartitionSpec()
    largest = max(fitting, key=lambda d: shape[d])
    return PartitionSpec(*(axes if d == largest else None for d in range(len(shape))))
  if len(named := [a for a in axes if a]) > len(set(named)):
    raise UserError(
      f"config.sharding: {tuple(axes)} (for {name}) names an axis twice; give None to one of them."
    )
  axes = tuple(axes)[-len(shape) :] if shape else ()
  fits = (
    a if a is None or n % mesh.shape[a] == 0 else None
    for a, n in zip(axes, shape[len(shape) - len(axes) :])
  )
  return PartitionSpec(*([None] * (len(shape) - len(axes))), *fits)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, BATCH)


def local_batch_size(batch_size: int, mesh: Mesh) -> int:
  """The part of a batch that this process loads.

  Raises UserError where devices or processes do not divide it.
  """
  parts = ways(mesh)
  if parts % jax.process_count():
    raise UserError(
      f"config.mesh: {'*'.join(SHARED)}={parts} does not split over {jax.process_count()} "
      "processes; lower tensor."
    )
  if batch_size % parts or batch_size % jax.process_count():
    down = batch_size // parts * parts
    choices = f"{down} or {down + parts}" if down else f"{parts}"
    raise UserError(
      f"config.batch_size: {batch_size} is not divisible by the {parts} devices that share it; "
      f"take {choices}."
    )
  return batch_size // jax.process_count()


def to_global(batch: Any, mesh: Mesh) -> Any:
  """This process's part of a host batch to global arrays, split over the batch axis."""
  sharding = batch_sharding(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
  )


def spread(tree: Any, mesh: Mesh) -> Any:
  """Arrays that every process holds whole to global ones: their rows split over the devices where
  they divide evenly.
  """
  place = lambda x: (
    batch_sharding(mesh) if np.ndim(x) and x.shape[0] % ways(mesh) == 0 else replicated(mesh)
  )
  return jax.tree.map(lambda x: jax.device_put(x, place(x)), tree)


def program(fn: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
  """`fn` jitted for a mesh; what it returns is whole on every device."""
  options = threaded(mesh.devices.flat)
  return jax.jit(fn, out_shardings=replicated(mesh), compiler_options=options)


def threads() -> int:
  """How many cores this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threaded(devices: Iterable[jax.Device]) -> dict[str, str | bool] | None:
  """XLA's options for a program of these devices where they are one CPU of several threads.

  YNNPACK, its library for products and convolutions, hardly uses more than one, and operations that
  do not need each other wait for each other unless asked: on two threads VQGAN's step takes 1.8
  times PyTorch's time with it, and 1.4 with its own products, side by side.
  """
  options = {
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_enable_concurrency_optimized_scheduler": True,
  }
  alone = [device.platform for device in devices] == ["cpu"] and threads() > 1
  return options if alone and _known(*options.items()) else None


@functools.cache
def _known(*options: tuple[str, str | bool]) -> bool:
  """Whether this jaxlib has them: they come and go."""
  try:
    jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True
