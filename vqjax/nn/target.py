"""The devices that traced code is for: the default backend's, or others while a program is compiled
for them elsewhere.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import jax

_devices: contextvars.ContextVar[Sequence[jax.Device] | None] = contextvars.ContextVar(
  "devices", default=None
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
