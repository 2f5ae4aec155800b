"""The devices that traced code is for: the default backend's, or others while a program is compiled
for them elsewhere; and how a training step splits its batch over them.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

_devices: contextvars.ContextVar[Sequence[jax.Device] | None] = contextvars.ContextVar(
  "devices", default=None
)


_batch: contextvars.ContextVar[NamedSharding | None] = contextvars.ContextVar("batch", default=None)


@contextlib.contextmanager
def splitting(batch: NamedSharding | None) -> Iterator[None]:
  """What is traced in this context computes on batches of this sharding, see `by_example`."""
  token = _batch.set(batch)
  try:
    yield
  finally:
    _batch.reset(token)


def by_example(x: jax.Array) -> jax.Array:
  """x [B, ...], which stays split by example where a training step splits its parameters too.

  XLA else follows the split of the parameters, and gathers the activations of the whole batch.
  """
  batch = _batch.get()
  if batch is None or x.shape[0] % batch.mesh.size:
    return x
  free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
  return jax.lax.with_sharding_constraint(
    x, NamedSharding(batch.mesh, PartitionSpec(*batch.spec, *free))
  )


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


def device_count() -> int:
  devices = _devices.get()
  return jax.device_count() if devices is None else len(devices)
