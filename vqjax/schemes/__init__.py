"""Generative schemes: how codes are corrupted for training and drawn for sampling. They know no
network.

A file defines a frozen dataclass `Scheme`, whose fields a config may set (the program sets
`num_codes: int` and, where it is a field, `books: int`: that many codebooks of equal size, one
after the other in a code's number and in turn along a sequence), with

    scheme.extra_ids: int                     ids beyond the codes (1 where there is a mask id, else 0)
    scheme.causal: bool                       which kind of network it needs
    scheme.timed: bool                        whether the network is told the time
    scheme.corrupt(key, ids_BL) -> Corrupted  what the network is shown and asked in training
    scheme.loss(logits_BLV, corrupted) -> (per-position nats [B, L], weights [B, L])
    scheme.sample(key, network, ids_BL, known_BL, **options) -> ids_BL scheme.bound(key, network,
    ids_BL) -> per-position nats [B, L], whose mean over keys is at least -log p in total;
                                              absent where no bound is known

- `network` is a record of functions (see `Network`), closed over parameters and condition; guidance
  is applied by whoever builds the record (see `_guidance.guided`), so no scheme knows of it.
- `known_BL` is true where `ids_BL` is given: those codes are returned unchanged, whatever the
  scheme. None known is plain sampling, all but a region is inpainting, the first half is
  completion.
- `sample` is one compiled loop: call it under `jit`; its options are static. All schemes have
  temperature, top_k, top_p and trajectory; all but `autoregressive` have steps. With
  trajectory=True they return (ids_BL, ids_SBL), the ids after every step, with `num_codes` for what
  is not decided yet.
- `key` of `sample` may be an array of B keys: permuting keys, ids, known and condition permutes the
  samples. Example b of one key is the same in any batch size.
- Logits beyond the first `num_codes` are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import struct

MEMBER = "Scheme"

# The logit of a code that cannot stand at a position, far below any other and yet finite.
IMPOSSIBLE = -1e9


@struct.dataclass
class Corrupted:
  """A training example: `inputs_BL` go into the network, `targets_BL` are asked, `weights_BL` say
  where it counts.
  """

  inputs_BL: jax.Array
  targets_BL: jax.Array
  weights_BL: jax.Array
  time_B: jax.Array | None = None
  extra: Any = None


class Network(NamedTuple):
  """A prior with its parameters and condition bound.

  full(ids_BL, time_B) -> logits_BLV: every position at once. `time_B` runs from 1 (nothing decided)
  to 0; it is there
    for schemes that are `timed`, and for guidance that changes on the way. None where there is no
    order of time.
  start() -> (logits_BV, cache): the distribution of code 0. None for networks that are not causal.
  step(ids_B, index, cache) -> (logits_BV, cache): takes code `index`, gives the distribution of
  code `index + 1`.
  """

  full: Callable[..., jax.Array]
  start: Callable[[], tuple[jax.Array, Any]] | None = None
  step: Callable[..., tuple[jax.Array, Any]] | None = None
