"""Sampling with and without a cache: python -m vqjax.bench --suite=decoding [--layers=6 --width=256
--grid=16 --batch=1,4,8,64]

Draws grids of codes from an untrained transformer (speed does not depend on the weights), with the
key-value cache in each layout and without a cache. Beside every figure stands the memory-bandwidth
limit where the device's bandwidth is known: per step all weights and the filled half of the cache,
on average, are read once.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vqjax import chips, cli, sharding


def sampler(layout: str, layers: int, width: int, grid: int, dtype: str) -> tuple[Any, Any]:
  """(fn(params, key, ids) -> ids, params) for one cache layout, or for none."""
  from vqjax.latents import Codes
  from vqjax.priors import transformer

  latent = Codes((grid, grid), 1024)
  model = transformer.Model(
    latent,
    latent.vocabulary,
    layers=layers,
    width=width,
    heads=width // 64 or 1,
    cache_layout="auto" if layout == "none" else layout,
    dtype=dtype,
  )
  params = model.init(jax.random.key(0), latent.blank(1), train=False)
  return drawing(model, cached=layout != "none"), params


def drawing(model: Any, cached: bool = True) -> Any:
  """fn(params, key, ids [B, L]) -> ids: whole grids drawn from a causal transformer."""
  from vqjax.schemes import Network, _sampling, autoregressive

  scheme = autoregressive.Scheme(model.latent)

  def sample(params: Any, key: jax.Array, ids: jax.Array) -> jax.Array:
    batch = ids.shape[0]
    full = lambda ids, time=None, done=None: model.apply(params, ids, train=False)
    if not cached:
      network = Network(full, *_sampling.uncached(full, batch, model.latent))
    else:
      start = lambda: model.apply(params, None, model.init_cache(batch, 0), method="prefill")
      step = lambda ids, index, cache: model.apply(params, ids, index, cache, method="decode")
      network = Network(full, start, step)
    return scheme.sample(key, network, ids, jnp.zeros(ids.shape, bool))

  return jax.jit(sample, compiler_options=sharding.threaded(jax.devices()))  # as vqjax.sampler


def limit(
  params: Any, batch: int, layers: int, width: int, length: int, dtype: str
) -> float | None:
  """Codes per second at which reading weights and cache once per step fills the memory bus; None
  where it is not known.
  """
  if (chip := chips.of(jax.devices()[0])) is None:
    return None
  weights = 4 * sum(x.size for x in jax.tree.leaves(params))
  cache = 2 * layers * batch * (length / 2) * width * jnp.dtype(dtype).itemsize
  return batch * chip.bandwidth / (weights + cache)


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  for name, value in (("layers", 6), ("width", 256), ("grid", 16), ("repeats", 3)):
    parser.add_argument(f"--{name}", type=cli.count, default=value)
  parser.add_argument("--batch", default="4", help="batch sizes, separated by commas")
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
  parser.add_argument("--caches", default="none,fused,heads,keys_last")
  args = parser.parse_args(argv)
  from vqjax import bench, writers

  length, rows = args.grid**2, []
  for batch in map(int, args.batch.split(",")):
    calls, params = {}, None
    for layout in args.caches.split(","):
      fn, params = sampler(layout, args.layers, args.width, args.grid, args.dtype)
      calls[layout] = lambda fn=fn, params=params: fn(
        params, jax.random.key(1), jnp.zeros((batch, length), jnp.int32)
      )
    seconds = {k: statistics.median(v) for k, v in bench.time_calls(calls, args.repeats).items()}
    most = limit(params, batch, args.layers, args.width, length, args.dtype)
    for layout, value in seconds.items():
      speedup = f"{seconds['none'] / value:.1f}" if "none" in seconds else ""
      rows.append(
        [
          f"{batch}",
          layout,
          f"{value:.2f}",
          f"{batch * length / value:.0f}",
          speedup,
          "" if most is None else f"{most:.0f}",
        ]
      )
  print(
    f"{length} codes, {args.layers} layers, width {args.width}, {args.dtype}, "
    f"{jax.devices()[0].device_kind}"
  )
  print(writers.table(["batch", "cache", "s", "codes/s", "times uncached", "limit, codes/s"], rows))
