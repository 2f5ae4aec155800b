"""What passes between schemes, networks and tasks: an example, its loss, a bound network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import struct


@struct.dataclass
class Corrupted:
  """A training example.

  Attributes:
    inputs: what the network is shown, a sequence as the latent's `flatten` makes it.
    targets: what it is asked, likewise.
    weights: float32 [B, L], how much each position counts.
    time_B: float32, what timed networks are told; None where the scheme is not `timed`.
    extra: what the scheme's own loss needs beside these.
  """

  inputs: jax.Array
  targets: jax.Array
  weights: jax.Array
  time_B: jax.Array | None = None
  extra: Any = None


class Loss(NamedTuple):
  """A loss per position, float32 [B, L], and how much each position counts, float32 [B, L].

  `metrics` are further figures [B, L] by name, to be averaged with the same weights.
  """

  values_BL: jax.Array
  weights_BL: jax.Array
  metrics: dict[str, jax.Array]


class Network(NamedTuple):
  """A prior with its parameters and condition bound.

  full(inputs, time_B=None, done=None) -> prediction: every position at once. `time_B` runs from 1
    (nothing decided) to 0 and is None for schemes that are not `timed`. `done` is for guidance that
    changes on the way, and no network looks at it: 0 at the first draw and 1 at the last (a single
    one included), a number or [B]; None outside of sampling.
  start() -> (prediction_BJK, cache): of step 0, see `places` in vqjax/latents.py. None for networks
    that are not causal.
  step(input_BJ, index, cache) -> (prediction_BJK, cache): takes the latents of step `index`,
    predicts those of step `index + 1`.
  """

  full: Callable[..., jax.Array]
  start: Callable[[], tuple[jax.Array, Any]] | None = None
  step: Callable[..., tuple[jax.Array, Any]] | None = None
