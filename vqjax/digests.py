"""Digests of weights: whether what is read is what was written, and which model codes belong to."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import sharding

_CHUNK = 2**20  # values digested at once, so that copies stay small


def of(tree: Any) -> list[int]:
  """For each leaf a position-weighted sum of its bits modulo 2^32: the same however the leaf is
  sharded.
  """
  # Leaf by leaf: the leaves of a state share few shapes, and one program over all of them takes
  # long to compile.
  digests = [_host_digest(x) if _on_host(x) else _on_device(x) for x in jax.tree.leaves(tree)]
  return [int(x) for x in jax.device_get(digests)]


@jax.jit
def _on_device(x: jax.Array) -> jax.Array:
  x = x.astype(jnp.uint8) if x.dtype == bool else x
  bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32).ravel()
  return jnp.sum(bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)


def _on_host(x: Any) -> bool:
  if not isinstance(x, jax.Array):
    return True
  return x.is_fully_addressable and all(d.platform == "cpu" for d in x.devices())


def _host_digest(x: Any) -> int:
  """`_on_device` without a program for every shape, which a command would compile as it starts."""
  x = np.asarray(x)
  bits, total = x.reshape(-1).view(f"uint{8 * x.dtype.itemsize}"), 0
  weights = 2 * np.arange(min(bits.size, _CHUNK), dtype=np.uint32) + 1
  for start in range(0, bits.size, _CHUNK):
    part = bits[start : start + _CHUNK].astype(np.uint32)
    weighted = np.sum(part * weights[: part.size], dtype=np.uint32)
    total += int(weighted) + 2 * start * int(np.sum(part, dtype=np.uint32))
  return total % 2**32


def by_path(tree: Any) -> dict[str, int]:
  """{path of a leaf: its digest}."""
  return dict(zip(leaves(tree), of(tree), strict=True))


def leaves(tree: Any) -> dict[str, Any]:
  """{path of a leaf: the leaf}, as rules of sharding name it."""
  return {
    sharding.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def identity(config: Any, weights: Any) -> str:
  """A short hash of a model's config and of every bit of its weights."""
  content = json.dumps([config, of(weights)], sort_keys=True, default=list)
  return hashlib.sha256(content.encode()).hexdigest()[:16]
