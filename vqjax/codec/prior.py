"""Every code by what an autoregressive prior says of it, in floats: read only where it was written.

Floats differ in their last bits between instruction sets, devices, versions and shapes, and one bit
decodes to other codes. So the decoder's own compiled step, at its own shape, serves the encoder,
what was encoded is decoded before it is given away, and the file names the environment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import platform
import re
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jaxlib

from vqjax import sharding
from vqjax.codec import Source, _windows

_ONE = 2**24


@dataclasses.dataclass(frozen=True, eq=False)
class Mode:
  """Any autoregressive prior of every level, of one codebook or several. Not portable."""

  levels: tuple[Any, ...]
  networks: list[_windows.Network]
  stored: bytes
  environment: str

  number: ClassVar[int] = 4
  preference: ClassVar[int] = 2
  networked: ClassVar[bool] = True

  @classmethod
  def open(cls, source: Source) -> Mode:
    _windows.check(source, "prior")
    networks = [_network(sampler) for sampler in source.priors]
    return cls(source.levels, networks, source.identity, environment())

  encode = _windows.encode
  decode = _windows.decode


def environment() -> str:
  """What floats depend on beside the program: versions, device, instruction set, flags, shapes."""
  device = jax.devices()[0]
  flags = " ".join(sorted(os.environ.get("XLA_FLAGS", "").split()))
  return ", ".join(
    (
      f"jaxlib {jaxlib.__version__}",
      f"{jax.device_count()} {device.platform} {device.device_kind}",
      f"instruction set {_short(_instructions())}",
      f"threads {sharding.threads()}",
      f"XLA_FLAGS {_short(flags)}",
      f"batches of {_windows.ROWS}",
    )
  )


def _instructions() -> str:
  """What the processor says that it can do: XLA compiles for that."""
  told = pathlib.Path("/proc/cpuinfo")
  text = told.read_text(errors="replace") if told.exists() else ""
  found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
  return f"{platform.machine()} {found[1] if found else platform.processor()}"


def _short(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def _network(sampler: Any) -> _windows.Network:
  """The prior of one level, on one device: its network's cached steps."""

  def weights(logits_BK: jax.Array) -> jax.Array:
    return (jax.nn.softmax(logits_BK.astype(jnp.float32)) * _ONE).astype(jnp.int32)

  params = jax.device_put(sampler.weights.params, jax.devices()[0])
  return _windows.stepped(sampler, params, weights)
