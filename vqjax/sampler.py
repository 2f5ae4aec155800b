"""Drawing from a trained prior: conditions, completion, inpainting, hierarchies, grids beyond the
training size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import sharding
from vqjax.errors import UserError, near_miss
from vqjax.schemes import Draw, Guidance, autoregressive
from vqjax.tasks import _conditions as conditions

GUIDANCE = ("guidance", "guidance_schedule")  # options of every scheme
DRAW = ("temperature", "top_k", "top_p")


class Request(NamedTuple):
  """One batch to draw: codes that are given (`known_BL`), and the prefix of conditions."""

  prefix_BP: jax.Array
  ids_BL: jax.Array
  known_BL: jax.Array


class Sampler:
  """Draws codes from the prior of one loaded run; compiled once per batch size and options.

  A batch that the devices divide evenly is split over them.

  Args:
    model: a vqjax.api.Model of task "prior".

  Attributes:
    options: names of what `draw` takes beside a request and a seed.
    conditions: names of what the prior can be told: of "label" and "layout".
  """

  def __init__(self, model: Any):
    self.prior, self.state, self._mesh = model.run.task.extra, model.state, model.run.mesh
    self.condition = self.prior.prefix.condition
    self.options = (*GUIDANCE, *DRAW, *self.prior.scheme.options)
    self.conditions = tuple(
      dict.fromkeys(name for name in self.prior.prefix.names if name != "coarser")
    )
    self._compiled: dict[Any, Any] = {}

  def request(
    self,
    num: int,
    labels: Any = None,
    layouts: Any = None,
    coarser: tuple = (),
    levels: tuple = (),
    known: Any = None,
  ) -> Request:
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
    prefix = conditions.string(self.parts(num, labels, layouts, coarser), num)
    ids = (
      codes.flatten(jnp.asarray(levels[level]))
      if levels
      else jnp.zeros((num, codes.length), jnp.int32)
    )
    known = (
      jnp.zeros((num, codes.length), bool)
      if known is None
      else jnp.broadcast_to(jnp.asarray(known), (num, codes.length))
    )
    return Request(prefix, jnp.broadcast_to(ids, (num, codes.length)), known)

  def parts(
    self,
    num: int,
    labels: Any = None,
    layouts: Any = None,
    coarser: tuple = (),
    scale: tuple[float, float] = (1, 1),
  ) -> list[jax.Array]:
    """The prefix in parts, see `tasks.conditions.Prefix.parts`; -1 where a condition is left out.

    Raises like `request`.
    """
    condition, prefix, batch = self.condition, self.prior.prefix, {"rows": np.zeros((num, 1))}
    self._check_given({"label": labels, "layout": layouts}, bool(coarser))
    if condition.labels:
      given = np.broadcast_to(0 if labels is None else np.asarray(labels), (num,))
      batch["label"] = conditions.check_range(given, condition.labels, "label")
    if prefix.layout_classes:
      size = [round(n * s) for n, s in zip(prefix.layout_size, scale)]
      maps = np.zeros(size, np.int32) if layouts is None else np.asarray(layouts)
      batch["layout"] = prefix.prepare_layout(np.broadcast_to(maps, (num, *maps.shape[-2:])), scale)
    parts = prefix.parts({k: jnp.asarray(v) for k, v in batch.items()}, coarser, self.state[2])
    absent = [name for name, value in (("label", labels), ("layout", layouts)) if value is None]
    return [
      jnp.full_like(part, -1) if name in absent else part for name, part in zip(prefix.names, parts)
    ]

  def _check_given(self, given: dict[str, Any], coarser: bool) -> None:
    """Raises UserError for a condition that the prior does not know, and for holes where it has
    never seen one.
    """
    for name, value in given.items():
      if value is not None and name not in self.conditions:
        raise UserError(
          f"{name}: this prior was trained without one (config.condition.{name}s is 0)."
        )
    missing = [name for name in self.conditions if given[name] is None]
    if missing and self.condition.drop == 0:
      raise UserError(
        f"{missing[0]}: is not given, and this prior never drew without one (config.condition.drop=0); give one."
      )
    if missing and (coarser or len(missing) < len(self.conditions)):
      raise UserError(
        f"{missing[0]}: is not given; this prior was trained with all of its conditions or none of them, give each."
      )

  def _check_guidance(self, guidance: float, prefix: jax.Array) -> None:
    if not math.isfinite(guidance):
      raise UserError(f"guidance: {guidance} is no finite number; 1 is none, 2 to 4 are usual.")
    if guidance == 1:
      return
    if self.condition.drop == 0:
      raise UserError(
        f"guidance: {guidance} needs a prior that was also trained without its conditions; here config.condition.drop=0."
      )
    if not prefix.size or bool((prefix < 0).all()):
      raise UserError(
        f"guidance: {guidance} strengthens a condition, and none is given; leave it out or give one of "
        f"{', '.join(self.conditions) or 'those that this prior lacks'}."
      )

  def keep_first(self, keep: float) -> np.ndarray:
    """bool `[L]`: the first share `keep` of the codes in raster order.

    Raises UserError outside [0, 1].
    """
    if not 0 <= keep <= 1:
      raise UserError(
        f"keep: {keep} is outside 0 to 1, the share of the codes that stay; a longer prompt has no place in the grid."
      )
    codes = self.prior.codes
    positions = codes.length // codes.books
    return np.arange(codes.length) < round(keep * positions) * codes.books

  def keep_outside(self, mask_HW: np.ndarray) -> np.ndarray:
    """bool `[L]`: codes whose cell holds no pixel of `mask_HW` (nonzero: draw again).

    Raises:
      UserError: a mask of another size than the images, or a scheme that cannot look ahead.
    """
    if self.prior.scheme.causal:
      raise UserError(
        "mask: an autoregressive prior cannot see codes after the hole; use keep, or a masked or diffusion prior."
      )
    size = self.prior.tokenizer.spec["image"].shape[1:3]
    if mask_HW.shape != size:
      raise UserError(
        f"mask: {' x '.join(map(str, mask_HW.shape))} pixels, the images have {size[0]} x {size[1]}; resize it."
      )
    h, w = self.prior.codes.shape
    if not mask_HW.any():
      raise UserError("mask: is black everywhere; what is white is drawn anew.")
    redrawn = (mask_HW != 0).reshape(h, size[0] // h, w, size[1] // w).any((1, 3))
    return np.repeat(~redrawn.reshape(-1), self.prior.codes.books)

  def draw(
    self,
    request: Request,
    seed: int,
    first: int = 0,
    guidance: float = 1.0,
    guidance_schedule: str = "constant",
    trajectory: bool = False,
    **options: Any,
  ) -> Any:
    """Codes `[B, ...grid]`, or (codes, ids `[S, B, L]` after every step) with trajectory.

    Row i draws with the key of sample `first + i` of `seed` at this prior's level, whatever the
    batch.

    Raises:
      UserError: an option that the scheme lacks or that is out of range.
    """
    check_options(options, self.options, type(self.prior.scheme).__module__.rpartition(".")[2])
    Guidance(guidance, guidance_schedule)
    self._check_guidance(guidance, request.prefix_BP)
    options |= self.prior.scheme.plan(np.asarray(request.known_BL))
    fn = self._jit(
      ("draw", guidance, guidance_schedule, trajectory, *sorted(options.items())),
      lambda: self.prior.sampler(guidance, guidance_schedule, trajectory=trajectory, **options),
    )
    out = fn(
      self.state[0],
      *sharding.spread((self._keys(seed, first, len(request.prefix_BP)), *request), self._mesh),
    )
    ids, steps = out if trajectory else (out, None)
    grid = self.prior.codes.unflatten(ids)
    return (grid, steps) if trajectory else grid

  def draw_window(
    self,
    parts: Sequence[jax.Array],
    num: int,
    seed: int,
    grid: tuple[int, int],
    first: int = 0,
    guidance: float = 1.0,
    **options: Any,
  ) -> jax.Array:
    """Codes `[num, *grid]` of a grid larger than the training one, by a sliding window (arXiv
    2012.09841, section 3.2).

    Args:
      parts: of the prefix, see `parts`; the grids among them cover the whole picture, and the
        window sees what lies in it.
      num, seed, first, guidance, **options: as for `draw`, but for a schedule.

    Raises:
      UserError: a prior whose scheme, codes or condition have no sliding window, a smaller grid, or
        an unknown option.
    """
    prior = self.prior
    h, w = prior.codes.shape
    if not prior.scheme.causal or prior.codes.books > 1 or self.condition.level:
      raise UserError(
        "height, width: only an autoregressive prior over one codebook, without levels, slides over more."
      )
    if any(part.shape[1] % grid[0] or part.shape[2] % grid[1] for part in parts if part.ndim > 2):
      raise UserError(
        f"height, width: the layout's grid is no multiple of the codes' {h} x {w}, so no window fits both."
      )
    check_options(options, ("guidance", *DRAW), "sliding window")
    self._check_guidance(guidance, conditions.string(parts, num))

    def run(params: Any, keys_B: jax.Array, parts: Any) -> jax.Array:
      def full(ids_BL: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        seen = [_crop(part, grid, (top, left), (h, w)) for part in parts]
        return prior.network(params, conditions.string(seen, len(ids_BL)), guidance).full(
          ids_BL, None
        )

      empty = jnp.zeros((len(keys_B), *grid), jnp.int32)
      return autoregressive.sample_window(
        keys_B, full, empty, empty.astype(bool), Draw(**options), latent=prior.codes
      )

    fn = self._jit(("window", grid, guidance, *sorted(options.items())), lambda: run)
    return fn(
      self.state[0], *sharding.spread((self._keys(seed, first, num), list(parts)), self._mesh)
    )

  def nats(self, request: Request, draws: int) -> jax.Array:
    """-log p of every code `[B, L]` given the request's condition: exact, or the mean of `draws`
    estimates of a bound.

    The noise of a bound is the same for every example, whatever stands beside it.
    """

    def bound(params: Any, request: Request) -> jax.Array:
      return self.prior.scheme.bound(
        jax.random.key(0), self.prior.network(params, request.prefix_BP), request.ids_BL
      )

    def one(params: Any, row: Request) -> jax.Array:
      return bound(params, jax.tree.map(lambda x: jnp.repeat(x[None], draws, 0), row)).mean(0)

    each = lambda params, request: jax.lax.map(lambda row: one(params, row), request)
    fn = self._jit(("nats", draws), lambda: bound if self.prior.scheme.causal else each)
    return fn(
      self.state[0], sharding.spread(request, self._mesh) if self.prior.scheme.causal else request
    )

  def _keys(self, seed: int, first: int, num: int) -> jax.Array:
    """One key per sample; another at every level, or the levels of a hierarchy would draw with the
    same noise.
    """
    key = jax.random.fold_in(jax.random.key(seed), self.condition.level)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(num))

  def _jit(self, name: Any, make: Any) -> Any:
    if name not in self._compiled:
      self._compiled[name] = jax.jit(make(), out_shardings=sharding.replicated(self._mesh))
    return self._compiled[name]


class Given(NamedTuple):
  """What is fixed before `num` images are drawn: conditions, and the codes of which the first share
  or all outside a mask stays.
  """

  num: int
  label: Any = None  # [num]
  layout: Any = None  # [num, H, W]
  levels: tuple = ()
  keep: float = 0.5
  mask: Any = None

  @classmethod
  def of(
    cls, num: int, label: Any, layout: Any, levels: tuple = (), keep: float = 0.5, mask: Any = None
  ) -> Given:
    """With one condition for all repeated.

    Raises UserError for another number of them, or for what are no integers.
    """
    return cls(
      num,
      _per_image("label", label, num, 0),
      _per_image("layout", layout, num, 2),
      levels,
      keep,
      mask,
    )

  def rows(self, start: int, count: int) -> Given:
    """Images `start` to `start + count`, or to the last."""
    cut = lambda x: None if x is None else x[start : start + count]
    return self._replace(
      num=min(count, self.num - start), label=cut(self.label), layout=cut(self.layout)
    )

  def request(self, sampler: Sampler, coarser: tuple, chain: Sequence[Sampler] = ()) -> Request:
    """The request to one level.

    A condition that another level of the chain knows need not be known here.
    """
    known = {name for other in chain for name in other.conditions} - set(sampler.conditions)
    label, layout = (
      None if name in known else value
      for name, value in (("label", self.label), ("layout", self.layout))
    )
    kept = None
    if self.levels:
      kept = (
        sampler.keep_first(self.keep)
        if self.mask is None
        else sampler.keep_outside(np.asarray(self.mask))
      )
    return sampler.request(self.num, label, layout, coarser, self.levels, kept)


def _per_image(name: str, value: Any, num: int, rank: int) -> np.ndarray | None:
  if value is None:
    return None
  value = np.asarray(value)
  if value.dtype.kind not in "iu" or value.ndim not in (rank, rank + 1):
    one = "one" if rank == 0 else "one map [H, W]"
    raise UserError(
      f"{name}: {value.dtype} of shape {value.shape}; give integers, {one} for all or for each."
    )
  if value.ndim > rank and len(value) not in (1, num):
    raise UserError(f"{name}: {len(value)} given for {num} image(s); give one, or one for each.")
  return np.broadcast_to(value, (num, *value.shape[value.ndim - rank :]))


def check_seed(seed: int) -> None:
  if not 0 <= seed < 2**32:
    raise UserError(f"seed: {seed} is outside 0 to 2^32 - 1.")


def given_options(options: dict[str, Any]) -> dict[str, Any]:
  """The options that are given: None leaves one out."""
  return {k: v for k, v in options.items() if v is not None}


def check_options(options: dict[str, Any], known: Sequence[str], kind: str) -> None:
  """Raises UserError for an option that is not among the known ones of a scheme of this kind."""
  for name in options:
    if name not in known:
      raise UserError(f"{name}: the scheme {kind} has no such option.{near_miss(name, known)}")


def _crop(
  part: jax.Array,
  grid: tuple[int, int],
  corner: tuple[jax.Array, jax.Array],
  window: tuple[int, int],
) -> jax.Array:
  """What of a grid `[B, H, W, ...]` over the whole picture lies in a window, given in codes; other
  parts as they are.
  """
  if part.ndim == 2:
    return part
  for axis, (whole, start, size) in enumerate(zip(grid, corner, window), 1):
    factor = part.shape[axis] // whole
    part = jax.lax.dynamic_slice_in_dim(part, start * factor, size * factor, axis)
  return part
