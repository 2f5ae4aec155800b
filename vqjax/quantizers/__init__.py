"""Quantizers: from continuous latents to codes and back. One file each, all with one contract.

A file defines `class Model(nn.Module)`; its dataclass fields are what a config may set. Then

    q(z, *, train, step=None) -> Quantized(z, ids, loss, metrics)
    q.embed(ids) -> z
    q.input_width, q.width, q.codebook_size, q.num_codebooks     ints that need no variables
    q.as_level                                                   what it is to `residual`

- The input is `[B, ..., input_width]`, with any number of grid axes between batch and width: one
  for sound, two for images, three for video. The quantized `z` has the same grid, `width` channels
  and the input's dtype. The two widths differ for `gaussian` (means and log-variances in) and for
  `gumbel` without its own projection (logits in). An autoencoder projects its features to
  `input_width` channels before the quantizer, and from `width` after it.
- `ids` is int32 `[B, ...]`, or `[B, ..., Q]` when `num_codebooks` Q is above 1. `identity` and
  `gaussian` have no codes: `codebook_size` and `num_codebooks` are 0, `ids` is None and `embed`
  raises `UserError`.
- `embed(ids)` gives what the decoder saw, in float32: `embed(q(z, train=False).ids)`, cast to the
  input's dtype, equals `q(z, train=False).z`. Where there is one codebook,
  `embed(arange(codebook_size))` is the codebook in effect, whatever params and statistics it is
  made of: this is what exporters read.
- `loss` is a float32 scalar, already weighted. `metrics` holds float32 scalars: `usage` in [0, 1]
  and `perplexity` in [1, K] of this (global) batch (the mean over codebooks; absent without codes),
  and every unweighted part of the loss under its name. Losses are means over all elements,
  entropies and KL means over positions, in nats.
- Search and statistics run in float32 whatever the compute dtype. Under `jit` with a sharded batch
  a plain sum is global, so no file here knows about devices.
- Variables that no gradient trains (EMA codebooks, usage, the offsets of `nn.book.Book`) live in
  the collection "stats", which the caller makes mutable when `train` is true. `module.init` leaves
  them at their start. Randomness comes from the rng stream "codes" (train only).
- A codebook that waits for data (`codebook_init` "kmeans" or "data") is placed within the first
  training call, which already uses it; the flag `initialised` in "stats" says that this has
  happened, and importers set it.
- A module that is called several times within a training step (levels of `residual` that share one
  codebook) searches one and the same codebook in all of them, and moves it once, by all of them.
- What a prior over floats learns is the input. Where it is another, `q.posterior(z, *, draw)` gives
  it, float32 `[B, ..., width]`: `gaussian` has the mean, or with `draw` a sample.
- `as_level` says how `residual` makes levels of this quantizer. "copy": its codes learn where to
  stand, so every level is a copy. "finer": its codes are fixed, so `q.bounded(z)` (float32) first
  brings latents to where the codes lie, and `q.at_level(i)` reads what the levels before i left of
  them and takes codes that are V^i times finer, for V values per channel. "mapped": a copy per
  level, of which each passes gradients on, because parameters behind its codes learn from the
  reconstruction alone. All have equal widths in and out. "none": it cannot be a level; its
  docstring says why.
- `step` is the training step, a traced int32 scalar, for schedules; None stands for the end of
  training.
- A field that does not fit raises `UserError`: wrong widths at the call, sizes, weights and rates
  outside their range when the module is made.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import struct

from vqjax.nn import codebook


@struct.dataclass
class Quantized:
  """What a quantizer returns: latents `[B, ..., width]`, ids, the weighted loss, and scalars to
  log.
  """

  z: jax.Array
  ids: Any
  loss: jax.Array
  metrics: dict[str, jax.Array]


def noisy(z: jax.Array, most: float, module: Any) -> jax.Array:
  """Latents [B, ...] with Gaussian noise whose deviation is uniform in 0 to `most` in each example;
  as they are where that is 0. Randomness is the module's rng stream "codes".
  """
  if not most:
    return z
  key_scale, key_noise = jax.random.split(module.make_rng("codes"))
  scale = most * jax.random.uniform(key_scale, (len(z),) + (1,) * (z.ndim - 1))
  return z + (scale * jax.random.normal(key_noise, z.shape)).astype(z.dtype)


def quantized(
  z: jax.Array,
  out_ND: jax.Array,
  ids_N: jax.Array,
  loss: jax.Array,
  metrics: dict[str, jax.Array],
  codebook_size: int,
) -> Quantized:
  """What a quantizer of one codebook returns for `z`: rows take its grid and dtype, and usage joins
  the metrics.
  """
  grid = z.shape[:-1]
  out = out_ND.reshape(*grid, out_ND.shape[-1]).astype(z.dtype)
  metrics = metrics | codebook.usage(ids_N, codebook_size)
  return Quantized(out, ids_N.reshape(grid), loss, metrics)
