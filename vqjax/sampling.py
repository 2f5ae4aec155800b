"""Drawing from a trained prior: conditions, completion, inpainting, hierarchies, grids beyond the training size."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vqjax.errors import UserError, near_miss
from vqjax.generation import autoregressive
from vqjax.tasks import conditions


class Request(NamedTuple):
  """One batch to draw: codes that are given (`known_BL`), and the prefix of conditions."""

  prefix_BP: jax.Array
  ids_BL: jax.Array
  known_BL: jax.Array


class Sampler:
  """Draws codes from the prior of one loaded run; compiled once per batch size and options.

  Args:
    model: a vqjax.api.Model of task "prior".
  """

  def __init__(self, model: Any):
    self.prior, self.state = model.run.task.extra, model.state
    self.condition = self.prior.prefix.condition
    self._compiled: dict[Any, Any] = {}

  def request(self, num: int, labels: Any = None, layouts: Any = None, coarser: tuple = (), levels: tuple = (),
              known: Any = None) -> Request:
    """Checks and lays out what is given.

    Args:
      num: B.
      labels: one class, or one per sample; None drops the label where the prior has one.
      layouts: `[H, W]` or `[B, H, W]` class maps; None drops them.
      coarser: codes of the coarser levels of a hierarchy, each `[B, ...]`.
      levels: codes of all levels of the images that are completed, or () to draw everything.
      known: bool `[L]` or `[B, L]`, which codes of `levels` are kept.

    Raises:
      UserError: a condition that the prior was not trained with, out of range, or of another size.
    """
    codes, level = self.prior.codes, self.condition.level
    prefix = self._prefix(num, labels, layouts, coarser)
    ids = codes.flatten(jnp.asarray(levels[level])) if levels else jnp.zeros((num, codes.length), jnp.int32)
    known = jnp.zeros((num, codes.length), bool) if known is None else jnp.broadcast_to(jnp.asarray(known), (num, codes.length))
    return Request(prefix, jnp.broadcast_to(ids, (num, codes.length)), known)

  def _prefix(self, num: int, labels: Any, layouts: Any, coarser: tuple) -> jax.Array:
    condition, prefix, batch = self.condition, self.prior.prefix, {"rows": np.zeros((num, 1))}
    for name, value, classes in (("label", labels, condition.labels), ("layout", layouts, prefix.layout_classes)):
      if value is not None and not classes:
        raise UserError(f"{name}: this prior was trained without one (config.condition.{name}s is 0).")
    if condition.labels:
      given = np.zeros(num, np.int32) if labels is None else np.broadcast_to(np.asarray(labels, np.int32), (num,))
      batch["label"] = conditions.check_range(given, condition.labels, "label")
    if prefix.layout_classes:
      maps = np.zeros(prefix.layout_size, np.int32) if layouts is None else np.asarray(layouts)
      batch["layout"] = prefix.prepare_layout(np.broadcast_to(maps, (num, *maps.shape[-2:])))
    tokens = np.array(prefix.tokens({k: jnp.asarray(v) for k, v in batch.items()}, coarser, self.state[2]))
    # What is not given is a hole, as in training where conditions were dropped.
    start = 0
    for classes, value, length in ((condition.labels, labels, 1), (prefix.layout_classes, layouts, prefix.layout_length)):
      if classes:
        if value is None:
          tokens[:, start:start + length] = -1
        start += length
    return jnp.asarray(tokens)

  def keep_first(self, keep: float) -> np.ndarray:
    """bool `[L]`: the first share `keep` of the codes in raster order. Raises UserError outside [0, 1]."""
    if not 0 <= keep <= 1:
      raise UserError(f"keep: {keep} is outside 0 to 1, the share of the codes that stay; a longer prompt has no place in the grid.")
    codes = self.prior.codes
    positions = codes.length // codes.books
    return np.arange(codes.length) < round(keep * positions) * codes.books

  def keep_outside(self, mask_HW: np.ndarray) -> np.ndarray:
    """bool `[L]`: codes whose cell holds no pixel of `mask_HW` (nonzero: draw again).

    Raises:
      UserError: a mask of another size than the images, or a scheme that cannot look ahead.
    """
    if self.prior.scheme.causal:
      raise UserError("mask: an autoregressive prior cannot see codes after the hole; use keep, or a masked or diffusion prior.")
    size = self.prior.tokenizer.spec["image"].shape[1:3]
    if mask_HW.shape != size:
      raise UserError(f"mask: {mask_HW.shape[0]} x {mask_HW.shape[1]} pixels, the images have {size[0]} x {size[1]}; resize it.")
    h, w = self.prior.codes.shape
    redrawn = (mask_HW != 0).reshape(h, size[0] // h, w, size[1] // w).any((1, 3))
    return np.repeat(~redrawn.reshape(-1), self.prior.codes.books)

  def draw(self, request: Request, seed: int, first: int = 0, guidance: float = 1.0, trajectory: bool = False, **options: Any) -> Any:
    """Codes `[B, ...grid]`, or (codes, ids `[S, B, L]` after every step) with trajectory.

    Row i draws with the key of sample `first + i` of `seed`, whatever the batch.

    Raises:
      UserError: an option that the scheme lacks or that is out of range.
    """
    options = _known(options, type(self.prior.scheme).sample, type(self.prior.scheme).__module__.rpartition(".")[2])
    if self.prior.scheme.causal:
      # Codes known from the start in every example are read in one go, without drawing.
      lead = np.asarray(request.known_BL).all(0)
      options["prefix"] = int(lead.size if lead.all() else lead.argmin())
    fn = self._jit(("draw", guidance, trajectory, *sorted(options.items())),
                   lambda: self.prior.sampler(guidance, trajectory=trajectory, **options))
    out = fn(self.state[0], _keys(seed, first, len(request.prefix_BP)), *request)
    ids, steps = out if trajectory else (out, None)
    grid = self.prior.codes.unflatten(ids)
    return (grid, steps) if trajectory else grid

  def draw_window(self, request: Request, seed: int, grid: tuple[int, int], first: int = 0, guidance: float = 1.0, **options: Any
                  ) -> jax.Array:
    """Codes `[B, *grid]` of a grid larger than the training one, by a sliding window (arXiv 2012.09841, section 3.2).

    Raises:
      UserError: a prior whose scheme, codes or condition have no sliding window, a smaller grid, or an unknown option.
    """
    prior = self.prior
    if not prior.scheme.causal or prior.codes.books > 1 or prior.prefix.layout_classes or self.condition.level:
      raise UserError("height, width: only an autoregressive prior over one codebook, without layouts or levels, slides over more.")
    options = _known(options, autoregressive.sample_window, "sliding window")

    def run(params: Any, keys_B: jax.Array, prefix: jax.Array) -> jax.Array:
      network = prior.network(params, prefix, guidance)
      empty = jnp.zeros((prefix.shape[0], *grid), jnp.int32)
      return autoregressive.sample_window(
          keys_B, lambda ids, top, left: network.full(ids, None), empty, empty.astype(bool),
          num_codes=prior.codes.vocabulary, window=prior.codes.shape, **options)

    fn = self._jit(("window", grid, guidance, *sorted(options.items())), lambda: run)
    return fn(self.state[0], _keys(seed, first, len(request.prefix_BP)), request.prefix_BP)

  def nats(self, request: Request) -> jax.Array:
    """-log p of every code `[B, L]` given the request's condition, exact or a bound as the scheme has it."""
    def run(params: Any, request: Request) -> jax.Array:
      network = self.prior.network(params, request.prefix_BP)
      return self.prior.scheme.bound(jax.random.key(0), network, request.ids_BL)
    return self._jit("nats", lambda: run)(self.state[0], request)

  def _jit(self, name: Any, make: Any) -> Any:
    if name not in self._compiled:
      self._compiled[name] = jax.jit(make())
    return self._compiled[name]


def _keys(seed: int, first: int, num: int) -> jax.Array:
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), first + jnp.arange(num))


def _known(options: dict[str, Any], function: Any, kind: str) -> dict[str, Any]:
  """The options that are given; raises UserError for one that `function` does not take."""
  options = {k: v for k, v in options.items() if v is not None}
  known = [k for k, p in inspect.signature(function).parameters.items() if p.kind == p.KEYWORD_ONLY]
  for name in options:
    if name not in known:
      raise UserError(f"{name}: the scheme {kind} has no such option.{near_miss(name, known)}")
  return options
