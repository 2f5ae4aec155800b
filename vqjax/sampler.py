"""Requests to a trained prior: draw, complete, inpaint, exceed the training size, likelihood."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, sharding
from vqjax.errors import UserError, near_miss
from vqjax.schemes import Draw, Guidance, _draw, _guidance
from vqjax.schemes._options import check_keep
from vqjax.tasks import Weights
from vqjax.tasks._prefix import string

# What a caller may say beside conditions and the scheme's own options, and of what type.
COMMON = _guidance.OPTIONS | _draw.OPTIONS


class Given(NamedTuple):
  """What is fixed before `num` examples are drawn.

  num: how many.
  conditions: {field: values [num, ...]} as callers give them; what is absent is left free.
  levels: codes of all levels of the examples that are completed; () to draw everything.
  keep: share of the codes of `levels` that stays, in raster order.
  mask: [*size], nonzero where codes are drawn again, instead of `keep`.
  """

  num: int
  conditions: Mapping[str, np.ndarray] = {}
  levels: tuple = ()
  keep: float = 0.5
  mask: Any = None

  def rows(self, start: int, count: int) -> Given:
    """Examples `start` to `start + count`; the last one again where there are fewer."""
    cut = lambda values: np.take(values, range(start, start + count), axis=0, mode="clip")
    conditions = {name: cut(values) for name, values in self.conditions.items()}
    return self._replace(num=count, conditions=conditions, levels=tuple(map(cut, self.levels)))


class Request(NamedTuple):
  """One batch for one prior: the prefix of its conditions, given codes and which of them are."""

  prefix_BP: jax.Array
  latent_BL: jax.Array
  known_BL: jax.Array


class Sampler:
  """Draws latents from one prior; compiled once per batch size and options, whatever the numbers of
  temperature, top-p and guidance.

  A batch that the devices divide evenly is split over them.

  Args:
    prior: a vqjax.tasks.prior.Prior.
    weights: of its run.
    mesh: the devices.

  Attributes:
    options: {name: type} of what `draw` takes beside a request and a seed.
    fields: {name: Bound} of the conditions that callers can give.
  """

  def __init__(self, prior: Any, weights: Weights, mesh: Any):
    self.prior, self.weights, self._mesh = prior, weights, mesh
    self.options = COMMON | dict(prior.scheme.options)
    self.fields = prior.prefix.fields
    self._compiled: dict[Any, Any] = {}

  def request(self, given: Given, coarser: tuple = (), ignore: Sequence[str] = ()) -> Request:
    """Checks and lays out what is given.

    Args:
      given: see `Given`.
      coarser: codes of the coarser levels of a hierarchy, each `[B, ...]`.
      ignore: conditions that another level of the hierarchy knows and this one need not.

    Raises:
      UserError: a condition that the prior was not trained with, out of range, or of another size.
    """
    latent, level = self.prior.latent, self.prior.level
    prefix = string(self.parts(given, coarser, ignore=ignore), given.num)
    blank = latent.blank(given.num)
    if not given.levels:
      return Request(prefix, blank, jnp.zeros(blank.shape[:2], bool))
    mask = given.mask
    kept = (
      self.keep_first(given.keep) if mask is None else self.keep_outside(checks.array("mask", mask))
    )
    codes = latent.flatten(jnp.asarray(given.levels[level]))
    return Request(prefix, codes, jnp.broadcast_to(jnp.asarray(kept), blank.shape[:2]))

  def parts(
    self,
    given: Given,
    coarser: tuple = (),
    scale: Sequence[float] = (1, 1, 1),
    ignore: Sequence[str] = (),
  ) -> list[jax.Array]:
    """The prefix in parts, see `tasks._prefix.Prefix.parts`. Raises as `request` does."""
    conditions = {k: v for k, v in given.conditions.items() if k not in ignore}
    self._check_given(conditions, bool(coarser))
    values: dict[str, Any] = {
      name: jnp.asarray(self.fields[name].lead.prepare(value, scale))
      for name, value in conditions.items()
    }
    if coarser:
      values["coarser"] = coarser
    return self.prior.prefix.parts(values, self.weights.frozen, given.num, scale)

  def free(self, num: int, coarser: tuple = ()) -> jax.Array:
    """The prefix int32 `[num, P]` of examples of which nothing is told but their coarser levels.

    Raises UserError where the prior was never trained so.
    """
    return string(self.parts(Given(num), coarser), num)

  def _check_given(self, conditions: Mapping[str, Any], coarser: bool) -> None:
    """Raises UserError for a condition that the prior does not know, and for holes where it has
    never seen one.
    """
    for name in conditions:
      if name not in self.fields:
        raise UserError(
          f"{name}: this prior was trained without one (config.condition.{name} is not set)."
        )
    missing = [name for name in self.fields if name not in conditions]
    if missing and self.prior.prefix.drop == 0:
      raise UserError(
        f"{missing[0]}: is not given, and this prior never drew without one "
        "(config.condition.drop=0); give one."
      )
    if missing and (coarser or len(missing) < len(self.fields)):
      raise UserError(
        f"{missing[0]}: is not given; this prior was trained with all of its conditions or none of "
        "them, give each."
      )

  def _guidance(self, options: dict[str, Any], prefix: jax.Array) -> Guidance:
    """Takes its options from among the others. Raises UserError where nothing can be guided."""
    guidance = Guidance.taken(options)
    if guidance.none:
      return guidance
    # Without a condition both halves would be the unconditional network: twice the work, no gain.
    if self.prior.prefix.drop == 0:
      raise UserError(
        f"guidance: {guidance.scale} needs a prior that was also trained without its conditions; "
        "here config.condition.drop=0."
      )
    if not prefix.size or bool((prefix < 0).all()):
      raise UserError(
        f"guidance: {guidance.scale} strengthens a condition, and none is given; leave it out or "
        f"give one of {', '.join(self.fields) or 'those that this prior lacks'}."
      )
    return guidance

  def keep_first(self, keep: float) -> np.ndarray:
    """bool `[L]`: the first share `keep` of the codes in raster order.

    Raises UserError outside [0, 1].
    """
    check_keep(keep)
    latent = self.prior.latent
    positions = math.prod(latent.shape)
    each = latent.length // positions  # codes at one position
    return np.arange(latent.length) < round(keep * positions) * each

  def keep_outside(self, mask: np.ndarray) -> np.ndarray:
    """bool `[L]`: codes whose cell holds nothing of `mask` [*size] (nonzero: draw again).

    Raises:
      UserError: a mask of another size than the examples, or a scheme that cannot look ahead.
    """
    if self.prior.scheme.causal:
      raise UserError(
        "mask: an autoregressive prior cannot see codes after the hole; use keep, or a masked or "
        "diffusion prior."
      )
    latent, size = self.prior.latent, self.prior.tokenizer.info.size
    if mask.shape != size:
      found, wanted = (" x ".join(map(str, shape)) for shape in (mask.shape, size))
      raise UserError(f"mask: is {found}, the examples are {wanted}; resize it.")
    if not np.isfinite(mask).all() or not mask.any():
      raise UserError("mask: is black everywhere, or no number; what is white is drawn anew.")
    spans = self.prior.tokenizer.info.spans(latent.shape)
    cells = [n for side, (span, _) in zip(latent.shape, spans) for n in (side, span)]
    whole = np.pad(mask != 0, [(lacks, 0) for _, lacks in spans])
    redrawn = whole.reshape(cells).any(tuple(range(1, len(cells), 2)))
    return np.repeat(~redrawn.reshape(-1), latent.length // redrawn.size)

  def draw(
    self, request: Request, seed: int, first: int = 0, trajectory: bool = False, **options: Any
  ) -> Any:
    """Latents `[B, ...grid]`, or (latents, flat ones `[S, B, L]` after every step) with trajectory.

    Row i draws with the key of sample `first + i` of `seed` at this prior's level, whatever the
    batch.

    Raises:
      UserError: an option that the scheme lacks or that is out of range.
    """
    scheme = self.prior.scheme
    check_options(options, self.options, _name_of(scheme))
    options = dict(options)
    guidance = self._guidance(options, request.prefix_BP)
    draw = Draw.taken(options)
    if hasattr(scheme, "plan"):
      options |= scheme.plan(np.asarray(request.known_BL))
    fn = self._jit(
      ("draw", trajectory, *sorted(options.items())),
      lambda: functools.partial(self.prior.draw, trajectory=trajectory, **options),
    )
    keys = self._keys(seed, first, len(request.prefix_BP))
    placed = sharding.spread((keys, *request), self._mesh)
    out = fn(self.weights.params, *placed, guidance, draw)
    flat, steps = out if trajectory else (out, None)
    drawn = self.prior.latent.unflatten(flat)
    return (drawn, steps) if trajectory else drawn

  def draw_window(
    self, given: Given, seed: int, grid: tuple[int, int], first: int = 0, **options: Any
  ) -> jax.Array:
    """Codes `[num, *grid]` of a grid larger than the training one, by a sliding window (arXiv
    2012.09841, section 3.2). Spatial conditions cover the whole; the window sees what lies in it.

    Args:
      given: conditions alone.
      seed, first, **options: as for `draw`, but for a schedule of guidance.
      grid: height and width in codes.

    Raises:
      UserError: a prior whose scheme, codes or condition have no sliding window, a smaller grid, or
        an unknown option.
    """
    prior = self.prior
    shape = prior.latent.shape
    if (
      not hasattr(prior.scheme, "window")
      or prior.latent.grid != shape
      or prior.level
      or len(shape) != 2
    ):
      raise UserError(
        "height, width: only an autoregressive prior over one codebook, without levels, slides "
        "over more."
      )
    scale = tuple(n / side for n, side in zip(grid, shape))
    parts = self.parts(given, scale=scale)
    spatial = [part.spatial for b in prior.prefix.bound for part in b.lead.parts]
    if any(p.shape[1] % grid[0] or p.shape[2] % grid[1] for p, s in zip(parts, spatial) if s):
      raise UserError(
        f"height, width: the layout's grid is no multiple of the codes' {shape[0]} x {shape[1]}, "
        "so no window fits both."
      )
    check_options(options, ("guidance", *_draw.OPTIONS), "sliding window")
    options = dict(options)
    guidance = self._guidance(options, string(parts, given.num))
    draw = Draw(**options)

    def run(
      params: Any, keys_B: jax.Array, parts: Any, guidance: Guidance, draw: Draw
    ) -> jax.Array:
      def full(ids_BL: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        crop = lambda part, over: _crop(part, grid, (top, left), shape) if over else part
        prefix = string(list(map(crop, parts, spatial)), len(ids_BL))
        return prior.network(params, prefix, guidance).full(ids_BL, None)

      empty = jnp.zeros((len(keys_B), *grid), jnp.int32)
      none = empty.astype(bool)
      return prior.scheme.window(keys_B, full, empty, none, draw)

    fn = self._jit(("window", grid), lambda: run)
    keys = self._keys(seed, first, given.num)
    return fn(
      self.weights.params, *sharding.spread((keys, list(parts)), self._mesh), guidance, draw
    )

  def nats(self, request: Request, draws: int) -> jax.Array:
    """-log p of every code `[B, L]` given the request's condition: exact, or the mean of `draws`
    estimates of a bound.

    The noise of a bound is the same for every example, whatever stands beside it.
    """
    causal = self.prior.scheme.causal

    def bound(params: Any, request: Request) -> jax.Array:
      network = self.prior.network(params, request.prefix_BP)
      # One fixed key: two examples, or two completions, are compared under the same noise.
      return self.prior.scheme.bound(jax.random.key(0), network, request.latent_BL)

    def one(params: Any, row: Request) -> jax.Array:
      return bound(params, jax.tree.map(lambda x: jnp.repeat(x[None], draws, 0), row)).mean(0)

    # Rows one at a time: masked's counts are spread over a batch, which would tie a row to others.
    each = lambda params, request: jax.lax.map(lambda row: one(params, row), request)
    fn = self._jit(("nats", draws), lambda: bound if causal else each)
    return fn(self.weights.params, sharding.spread(request, self._mesh) if causal else request)

  def _keys(self, seed: int, first: int, num: int) -> jax.Array:
    """One key per sample; another at every level, or the levels of a hierarchy would draw with the
    same noise.
    """
    key = jax.random.fold_in(jax.random.key(seed), self.prior.level)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(num))

  def _jit(self, name: Any, make: Any) -> Any:
    if name not in self._compiled:
      self._compiled[name] = sharding.program(make(), self._mesh)
    return self._compiled[name]


def check_options(options: Mapping[str, Any], known: Sequence[str], kind: str) -> None:
  """Raises UserError for an option that is not among the known ones of a scheme of this kind."""
  for name in options:
    if name not in known:
      raise UserError(f"{name}: the scheme {kind} has no such option.{near_miss(name, known)}")


def _name_of(scheme: Any) -> str:
  return type(scheme).__module__.rpartition(".")[2]


def _crop(
  part: jax.Array,
  grid: tuple[int, int],
  corner: tuple[jax.Array, jax.Array],
  window: tuple[int, int],
) -> jax.Array:
  """What of a grid `[B, H, W, ...]` over the whole lies in a window, given in codes."""
  for axis, (whole, start, size) in enumerate(zip(grid, corner, window), 1):
    factor = part.shape[axis] // whole
    part = jax.lax.dynamic_slice_in_dim(part, start * factor, size * factor, axis)
  return part
