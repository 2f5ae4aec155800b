"""The devices that traced code is for: the default backend's, or others while a program is compiled
for them elsewhere; and how a training step splits its batch over them.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

_devices: contextvars.ContextVar[Sequence[jax.Device] | None] = contextvars.ContextVar(
  "devices", default=None
)


class Split(NamedTuple):
  """How a training step splits its arrays: `batch` by example, over the mesh axes that it names,
  and `params`, whether parameters too.
  """

  batch: NamedSharding
  params: bool


_split: contextvars.ContextVar[Split | None] = contextvars.ContextVar("split", default=None)


@contextlib.contextmanager
def splitting(split: Split) -> Iterator[None]:
  """What is traced in this context is a training step that splits its arrays like this."""
  token = _split.set(split)
  try:
    yield
  finally:
    _split.reset(token)


def by_example(x: jax.Array) -> jax.Array:
  """x [B, ...], which stays split by example where a training step splits its parameters too.

  XLA else follows the split of the parameters, and gathers the activations of the whole batch.
  """
  split = _split.get()
  if split is None or not split.params or x.shape[0] % split.batch.mesh.size:
    return x
  free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
  batch = split.batch
  return jax.lax.with_sharding_constraint(
    x, NamedSharding(batch.mesh, PartitionSpec(*batch.spec, *free))
  )


def on_each_device(
  heads: int, batch: int
) -> Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]] | None:
  """What makes fn(alike, *arrays [B, L, N, H]) run on each device's examples and heads, and all of
  `alike`, for programs that XLA cannot split; None outside of a training step, and where devices do
  not divide a batch.
  """
  split = _split.get()
  if split is None:
    return None
  mesh, names = split.batch.mesh, split.batch.spec[0]
  ways = lambda axes: math.prod(mesh.shape[axis] for axis in axes)
  rest = tuple(axis for axis in mesh.axis_names if axis not in names)
  if batch % ways(names):
    return None
  place = PartitionSpec(names, None, rest if heads % ways(rest) == 0 else None)

  def spread(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    # All places are stated: nothing is left to check, and a kernel could not say.
    return jax.shard_map(
      fn, mesh=mesh, in_specs=(PartitionSpec(), place, place, place), out_specs=place,
      check_vma=False,
    )  # fmt: skip

  return spread


@contextlib.contextmanager
def tracing_for(devices: Sequence[jax.Device]) -> Iterator[None]:
  """What is traced in this context is for these devices, which need not be attached.

  What was traced before stays as it is.
  """
  token = _devices.set(devices)
  try:
    yield
  finally:
    _devices.reset(token)


def platform() -> str:
  """ "cpu", "gpu" or "tpu"."""
  devices = _devices.get()
  return jax.default_backend() if devices is None else devices[0].platform


def kind() -> str:
  """The devices' model, e.g. "TPU v5 lite"."""
  return (_devices.get() or jax.devices())[0].device_kind


def device_count() -> int:
  devices = _devices.get()
  return jax.device_count() if devices is None else len(devices)
