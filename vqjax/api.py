"""A trained run as Python functions: load(workdir) is a Tokenizer, which encodes and decodes, or a
Prior, which samples, completes and tells how probable codes are.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import build, checkpoint, config as configuration, lineage, sharding, train
from vqjax.data import Dataset
from vqjax.errors import UserError, near_miss
from vqjax.sampler import Given, Sampler
from vqjax.tasks import Task, Weights
from vqjax.tasks._first_stage import identity, joined


class Loaded(NamedTuple):
  """A run and its newest weights, averaged ones where an average was kept, on the devices."""

  workdir: pathlib.Path
  config: Any
  run: train.Run
  weights: Weights

  def dataset(self) -> Dataset:
    """The data that the run was trained on."""
    return Dataset(self.config.data, self.config.ops)


def open_run(workdir: str | pathlib.Path) -> Loaded:
  """Reads the run in `workdir`. Raises UserError where there is none, or nothing of it was saved."""
  workdir = pathlib.Path(workdir)
  config = configuration.of_run(workdir)
  spec = configuration.read_spec(workdir)
  if spec is None:
    raise UserError(f"--workdir={workdir}: holds no batch.json; the run has not started yet.")
  config.mesh = _mesh(config.mesh)
  run = train.Run(config, spec)
  abstract = run.abstract
  wanted = {"params": abstract.params, "stats": abstract.stats}
  if abstract.ema is not None:  # instead of the model's own parameters
    others = {k: v for k, v in abstract.params.items() if k != "model"}
    wanted |= {"params": others, "ema": abstract.ema}
  parts = checkpoint.restore_params(workdir, {k: v for k, v in wanted.items() if v})
  params = parts.get("params", {}) | ({"model": parts["ema"]} if "ema" in parts else {})
  weights = Weights(params, parts.get("stats", abstract.stats), run.load_frozen())
  lineage.check_frozen(run.task.frozen.identity(weights.frozen), workdir)
  return Loaded(workdir, config, run, weights)


def load(workdir: str | pathlib.Path) -> Tokenizer | Prior:
  """Opens the run in `workdir`, trained or converted."""
  loaded = open_run(workdir)
  return {"autoencode": Tokenizer.of, "prior": Prior}[loaded.config.task](loaded)


def _mesh(mesh: Any) -> Any:
  """The run's mesh where these devices can make it, so that what was split over them is again; else
  all of them for data.
  """
  try:
    sharding.make_mesh(**mesh)
  except UserError:
    return {}
  return mesh


class Tokenizer:
  """A trained autoencoder: the signal to codes and back.

  Args:
    workdir, config: of its run.
    task, weights: of that run.
    mesh: the devices.

  Attributes:
    info: what it encodes and into what, see vqjax.tasks.Info.
  """

  def __init__(self, workdir: pathlib.Path, config: Any, task: Task, weights: Weights, mesh: Any):
    self.workdir, self.config, self.task, self.weights = workdir, config, task, weights
    self.info, self._mesh = task.info, mesh
    self._compiled: dict[str, Any] = {}

  @classmethod
  def of(cls, loaded: Loaded) -> Tokenizer:
    return cls(loaded.workdir, loaded.config, loaded.run.task, loaded.weights, loaded.run.mesh)

  @functools.cached_property
  def identity(self) -> str:
    """A hash of the model's weights and config: what cached codes are tied to."""
    return identity(self.config, self.weights._asdict())

  def encode(self, values: Any) -> Any:
    """Codes int32 `[B, *grid]` (`[B, *grid, Q]` for several codebooks, a tuple for hierarchies).

    Args:
      values: of the run's signal: images `[B, H, W, C]`, uint8 or float in [-1, 1]; label maps,
        integers `[B, H, W]`.

    Raises:
      UserError: another shape, type or range, or a size that the architecture cannot take.
    """
    self._check_codes()
    return self._predict("encode", **self._batch(values))["ids"]

  def decode(self, ids: Any) -> np.ndarray:
    """The signal of codes as `encode` returns them: images or label maps uint8."""
    values = self._predict("decode", ids=joined(self.checked(ids)))
    return self.info.signal.finished(values[self.info.signal.field])

  def reconstruct(self, values: Any) -> np.ndarray:
    """The signal after encoding and decoding; takes what `encode` takes, returns what `decode`
    returns.
    """
    out = self._predict("reconstruct", **self._batch(values))
    return self.info.signal.finished(out[self.info.signal.field])

  def checked(self, ids: Any, whole: bool = False) -> tuple[np.ndarray, ...]:
    """Codes as a tuple of levels; with `whole` on the very grids of training.

    Raises:
      UserError: what `encode` does not return.
    """
    self._check_codes()
    latents = self.info.levels
    levels = tuple(ids) if len(latents) > 1 and isinstance(ids, (tuple, list)) else (ids,)
    if len(levels) != len(latents):
      raise UserError(
        f"ids: one array; the tokenizer has {len(latents)} levels, give a tuple as encode returns "
        "it."
      )
    return tuple(_checked_level(np.asarray(i), codes, whole) for i, codes in zip(levels, latents))

  def _check_codes(self) -> None:
    if not self.info.levels:
      raise UserError(
        f"{self.workdir}: is an autoencoder without codes; use reconstruct, or a run whose quantizer "
        "has codes."
      )

  def _batch(self, values: Any) -> dict[str, Any]:
    signal = self.info.signal
    return {signal.field: signal.given(values, (1, *self.info.shape))}

  def _predict(self, name: str, **batch: Any) -> dict[str, Any]:
    """One of the task's predictions on a batch, compiled once per shape."""
    if name not in self._compiled:
      fn = lambda weights, batch: self.task.predict[name](weights, batch, jax.random.key(0))
      self._compiled[name] = jax.jit(fn, out_shardings=sharding.replicated(self._mesh))
    return self._compiled[name](self.weights, sharding.spread(batch, self._mesh))


def _checked_level(ids: np.ndarray, codes: Any, whole: bool) -> np.ndarray:
  grid = codes.grid
  if ids.dtype.kind not in "iu" or ids.ndim != 1 + len(grid) or not ids.size:
    raise UserError(
      f"ids: {ids.dtype} of shape {ids.shape}; give integers, as encode returns them: "
      f"[B, {', '.join(map(str, grid))}] for what the tokenizer was trained on."
    )
  if not 0 <= ids.min() <= ids.max() < codes.size:
    raise UserError(
      f"ids: {ids.min()} to {ids.max()} is not within 0 to {codes.size - 1}, the codes of the "
      "tokenizer."
    )
  if whole and ids.shape[1:] != grid:
    raise UserError(
      f"ids: of shape {ids.shape}; this prior is over grids of {' x '.join(map(str, grid))} codes."
    )
  return ids


class Prior:
  """A trained prior, with the tokenizer whose codes it models.

  `encode`, `decode` and `reconstruct` are the tokenizer's.

  Attributes:
    tokenizer: the Tokenizer.
    sampler: the vqjax.sampler.Sampler of the level that it models.
  """

  def __init__(self, loaded: Loaded):
    self.loaded, self.workdir, self.config = loaded, loaded.workdir, loaded.config
    self.weights = loaded.weights
    self.modules = loaded.run.task.info.modules
    stage = self.modules.tokenizer
    frozen = stage.weights(loaded.weights.frozen["tokenizer"])
    mesh = loaded.run.mesh
    self.tokenizer = Tokenizer(stage.workdir, stage.config, stage.task, frozen, mesh)
    self.info = self.tokenizer.info
    self.sampler = Sampler(self.modules, loaded.weights, mesh)
    self.encode, self.decode = self.tokenizer.encode, self.tokenizer.decode
    self.reconstruct = self.tokenizer.reconstruct

  def sample(
    self,
    num: int = 1,
    *,
    height: int | None = None,
    width: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    **given: Any,
  ) -> np.ndarray:
    """Draws `num` examples of the signal, as `decode` returns them.

    Args:
      num: how many.
      height, width: pixels beyond the training size, by a sliding window (autoregressive priors).
      seed: the same seed draws the same examples, the first ones of a larger `num` too.
      batch_size: how many are drawn at once; the examples do not depend on it but for rounding.
      **given: conditions by name (label=3, layout=map), one for all or one for each; those left out
        are drawn freely. And options, as the prior's scheme has them: guidance and
        guidance_schedule (constant, or growing from none: linear, cosine), temperature, top_k,
        top_p, steps, choice_temperature.

    Raises:
      UserError: a condition or option that the prior does not have, or a value out of range.
    """
    self._check_finest()
    if num < 1 or batch_size < 1:
      raise UserError(
        f"num: {num} in batches of {batch_size}; draw at least one, at least one at a time."
      )
    _check_seed(seed)
    conditions, options = self._split(given, num)
    whole = Given(num, conditions)
    parts = [(start, whole.rows(start, batch_size)) for start in range(0, num, batch_size)]
    if height is None and width is None:
      draw = lambda first, rows: joined(self._levels(self._chain, rows, seed, first, options))
    else:
      grid = self._grid(height, width)
      draw = lambda first, rows: self.sampler.draw_window(rows, seed, grid, first, **options)
    return np.concatenate([self.decode(draw(first, rows)) for first, rows in parts])

  def complete(
    self, values: Any, keep: float | None = None, mask: Any = None, *, seed: int = 0, **given: Any
  ) -> np.ndarray:
    """Examples like `values` whose first share `keep` of the codes stays (in raster order), the
    rest drawn.

    Args:
      values: as for `encode`, of the training size.
      keep: in [0, 1], 0.5 by default; of every level of a hierarchy.
      mask: [*size], nonzero where codes are drawn again, instead of `keep` (masked and diffusion
        priors).
      seed, **given: as for `sample`.
    """
    shape = tuple(np.shape(values)[1:])
    if len(shape) == len(self.info.shape) and shape != self.info.shape:
      found, wanted = (
        " x ".join(map(str, s[: self.info.signal.axes])) for s in (shape, self.info.shape)
      )
      raise UserError(
        f"{self.info.signal.field}: {found}, this prior completes {wanted}; resize them."
      )
    return self.complete_codes(self.encode(values), keep, mask, seed=seed, **given)

  def complete_codes(
    self, ids: Any, keep: float | None = None, mask: Any = None, *, seed: int = 0, **given: Any
  ) -> np.ndarray:
    """Like `complete`, of codes as `encode` returns them."""
    self._check_finest()
    _check_seed(seed)
    levels = self.tokenizer.checked(ids, whole=True)
    conditions, options = self._split(given, len(levels[0]))
    known = Given(len(levels[0]), conditions, levels, _share(keep, mask), mask)
    return self.decode(joined(self._levels(self._chain, known, seed, 0, options)))

  def frames(
    self,
    num: int = 1,
    *,
    ids: Any = None,
    keep: float | None = None,
    mask: Any = None,
    seed: int = 0,
    **given: Any,
  ) -> np.ndarray:
    """uint8 `[S, num, H, W, C]`: the examples as pictures after every step of sampling; grey where
    nothing is decided yet.

    With `ids`, codes of `num` examples as `encode` returns them, these are completed; `keep` and
    `mask` as for `complete`. Of a hierarchy the steps of the finest level are shown.
    """
    self._check_finest()
    _check_seed(seed)
    levels = () if ids is None else self.tokenizer.checked(ids, whole=True)
    if levels and len(levels[0]) != num:
      raise UserError(f"ids: of {len(levels[0])} example(s), but num={num}; give as many.")
    conditions, options = self._split(given, num)
    known = Given(num, conditions, levels, _share(keep, mask), mask)
    coarser = self._levels(self._chain[:-1], known, seed, 0, options)
    request = self.sampler.request(known, coarser)
    told = self._told(self.sampler, options)
    _, steps = self.sampler.draw(request, seed, trajectory=True, **told)
    return np.stack([self._frame(coarser, flat) for flat in steps])

  def _frame(self, coarser: tuple, flat_BL: jax.Array) -> np.ndarray:
    """Pictures of codes of which some are not decided yet."""
    latent = self.sampler.prior.latent
    pictures = self.info.signal.pictures(
      self.decode(joined((*coarser, latent.unflatten(jnp.minimum(flat_BL, latent.vocabulary - 1)))))
    )
    undecided = np.asarray(flat_BL >= latent.vocabulary)
    undecided = undecided.reshape(len(undecided), *latent.shape, -1).all(-1)
    for axis, side in enumerate(latent.shape, 1):
      undecided = undecided.repeat(pictures.shape[axis] // side, axis)
    return np.where(undecided[..., None], np.uint8(128), pictures)

  def log_prob(
    self, ids: Any, *, per_code: bool = False, draws: int = 16, **given: Any
  ) -> np.ndarray:
    """Log-probability of codes under the prior in nats, float32 `[B]`, or `[B, L]` with per_code.

    Exact for autoregressive priors; for masked and diffusion priors a lower bound, estimated by the
    mean of `draws` estimates. In a hierarchy it is that of this prior's level given the coarser
    ones.

    Args:
      ids: as `encode` returns them, all levels of a hierarchy.
      draws: how many; each costs a masked prior one pass, a diffusion as many as it has timesteps.
      **given: conditions, as for `sample`.
    """
    levels = self.tokenizer.checked(ids, whole=True)
    if not hasattr(self.modules.scheme, "bound"):
      raise UserError(f"{self.workdir}: the scheme {self.config.scheme.name!r} has no likelihood.")
    if draws < 1:
      raise UserError(f"draws: {draws} is too few; use at least 1.")
    conditions, options = self._split(given, len(levels[0]))
    if options:
      raise UserError(f"{next(iter(options))}: a likelihood depends on conditions alone.")
    known = Given(len(levels[0]), conditions, levels)
    nats = self.sampler.nats(self.sampler.request(known, levels[: self.modules.level]), draws)
    return -np.asarray(nats if per_code else nats.sum(-1))

  def held_out(self, num: int) -> tuple[Any, dict[str, np.ndarray]]:
    """(codes of `num` held-out examples of the prior's data; their values of its conditions)."""
    batch = self.loaded.dataset().sample(num)
    kept = {k: v for k, v in batch.items() if k == self.info.signal.field or k.startswith("ids")}
    levels = self.modules.tokenizer.levels_of(self.weights.frozen["tokenizer"], kept)
    conditions = {name: batch[name] for name in self.sampler.fields}
    return joined(tuple(map(np.asarray, levels))), conditions

  @functools.cached_property
  def _chain(self) -> tuple[Sampler, ...]:
    """The samplers of all levels down to this prior's, coarse first.

    Raises UserError where one is not named, or is of something else.
    """
    if not (level := self.modules.level):
      return (self.sampler,)
    option = f"{self.workdir}: config.condition.coarser.prior"
    if not (path := self.config.condition.coarser.prior):
      raise UserError(f"{option}: is not set; give the workdir of the prior of the coarser level.")
    coarse = load(path)
    if not isinstance(coarse, Prior) or coarse.modules.level != level - 1:
      raise UserError(f"{option}: {path} is no prior of level {level - 1}; give one.")
    if coarse.tokenizer.identity != self.tokenizer.identity:
      raise UserError(
        f"{option}: {path} models the codes of another tokenizer, {coarse.config.tokenizer}; give a "
        "prior of this one's."
      )
    return (*coarse._chain, self.sampler)

  def _levels(
    self, chain: tuple, given: Given, seed: int, first: int, options: dict[str, Any]
  ) -> tuple:
    """Codes of the levels of `chain`, each drawn given the coarser ones."""
    drawn = ()
    elsewhere = {name for sampler in self._chain for name in sampler.fields}
    for sampler in chain:
      request = sampler.request(given, drawn, ignore=elsewhere - sampler.fields.keys())
      drawn += (sampler.draw(request, seed, first, **self._told(sampler, options)),)
    return drawn

  def _told(self, sampler: Sampler, options: dict[str, Any]) -> dict[str, Any]:
    """The options that concern this level: its scheme's, and those that no level knows, for it to
    complain of.
    """
    known = {name for other in self._chain for name in other.options}
    return {k: v for k, v in options.items() if k in sampler.options or k not in known}

  def _split(
    self, given: Mapping[str, Any], num: int
  ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(conditions, options) of what a caller names; None leaves either out."""
    fields = {name: bound for s in self._chain for name, bound in s.fields.items()}
    options = {name for sampler in self._chain for name in sampler.options}
    named = {name: value for name, value in given.items() if value is not None}
    conditions = {}
    for name in named.keys() - options:
      if name in fields:
        conditions[name] = fields[name].lead.given(named[name], num)
      elif name in condition_fields():
        raise UserError(
          f"{name}: this prior was trained without one (config.condition.{name} is not set)."
        )
      else:
        raise UserError(
          f"{name}: this prior has no such condition or option."
          f"{near_miss(name, {*fields, *options})}"
        )
    return conditions, {k: v for k, v in named.items() if k in options}

  def _check_finest(self) -> None:
    level, total = self.modules.level, len(self.info.levels)
    if level < total - 1:
      raise UserError(
        f"{self.workdir}: models level {level} of {total}; sample from the prior of the finest "
        "level, which calls this one."
      )

  def _grid(self, height: int | None, width: int | None) -> tuple[int, int]:
    """Codes of a picture of this size. Raises UserError for a size that is none."""
    if self.info.signal.axes != 2:
      raise UserError(f"height, width: a {self.info.signal.field} has none; leave them out.")
    factors, trained = self.info.factors, self.info.size
    size = tuple(n if given is None else given for given, n in zip((height, width), trained))
    if any(n < 1 or n % f for n, f in zip(size, factors)):
      raise UserError(
        f"height, width: {size[0]} x {size[1]} is not a multiple of {factors[0]}, the tokenizer's "
        "factor."
      )
    return size[0] // factors[0], size[1] // factors[1]


@functools.cache
def condition_fields() -> dict[str, Any]:
  """{name by which callers give it: the class} of all conditions that can be given."""
  classes = [build.member("conditions", name) for name in build.names("conditions")]
  return {cls.field: cls for cls in classes if cls.given}


def _share(keep: float | None, mask: Any) -> float:
  if keep is not None and mask is not None:
    raise UserError("keep, mask: each says which codes stay; give one of them.")
  return 0.5 if keep is None else keep


def _check_seed(seed: int) -> None:
  if not 0 <= seed < 2**32:
    raise UserError(f"seed: {seed} is outside 0 to 2^32 - 1.")
