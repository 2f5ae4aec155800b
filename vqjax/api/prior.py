"""A trained prior as Python functions: sample, complete, log_prob, frames."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checks, config as configuration, digests, lineage
from vqjax.api._loaded import Loaded, Opened, open_run
from vqjax.api.codec import Codec
from vqjax.api.levels import Levels
from vqjax.api.tokenizer import Tokenizer
from vqjax.codec import digest
from vqjax.errors import UserError
from vqjax.sampler import Given, Sampler
from vqjax.tasks import need
from vqjax.tasks._first_stage import cached, joined


class Prior:
  """A trained prior, with the tokenizer whose codes it models.

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
    opened = Opened(stage.config, stage.task, mesh)
    self.tokenizer = Tokenizer(Loaded(stage.workdir, stage.config, opened, frozen), stage.latents)
    self.info = self.tokenizer.info
    self.sampler = Sampler(self.modules, loaded.weights, mesh)

  @functools.cached_property
  def levels(self) -> Levels:
    """Its level and those above it. Raises UserError where the prior of one of them is missing."""
    above = self._coarser.levels.samplers if self.modules.level else ()
    return Levels((*above, self.sampler))

  def encode(self, values: Any) -> Any:
    """As Tokenizer.encode."""
    return self.tokenizer.encode(values)

  def decode(self, ids: Any) -> np.ndarray:
    """As Tokenizer.decode."""
    return self.tokenizer.decode(ids)

  def reconstruct(self, values: Any) -> np.ndarray:
    """As Tokenizer.reconstruct."""
    return self.tokenizer.reconstruct(values)

  def compress(self, values: Any, mode: str | None = None) -> list[bytes]:
    """As Tokenizer.compress; `mode` may also be "integer" or "prior", and is the one of these that
    the network serves by default. Conditions are not given: the prior must know to do without.
    """
    return self.codec.pack(values, mode, alone=True)

  def decompress(self, files: Sequence[bytes]) -> list[np.ndarray]:
    """As Tokenizer.decompress."""
    return self.codec.unpack(files)

  @functools.cached_property
  def codec(self) -> Codec:
    """As Tokenizer.codec, with what the prior says of codes.

    Raises UserError where the prior of another level of a hierarchy is missing.
    """
    self._check_finest()
    known = dict(priors=self.levels.samplers, identity=digest(*self._identities))
    return Codec(self.tokenizer, self.tokenizer.codec.source._replace(**known))

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
      **given: conditions by name (label=3, layout=map, text="a red circle"), one for all or one for
        each; those left out are drawn freely. And options, as the prior's scheme has them:
        guidance, guidance_schedule (constant, or growing from none: linear, cosine), guidance_first
        and guidance_last, temperature, top_k, top_p, steps, choice_temperature; of priors over
        floats steps, solver, eta, resample.

    Raises:
      UserError: a condition or option that the prior does not have, or a value out of range.
    """
    self._check_finest()
    checks.whole("num", num, 1)
    checks.whole("batch_size", batch_size, 1)
    _check_seed(seed)
    conditions, options = self.levels.split(given, num)
    whole = Given(num, conditions)
    each = min(batch_size, num)  # of the last batch too, which would be compiled anew
    parts = [(start, whole.rows(start, each)) for start in range(0, num, each)]
    if height is None and width is None:
      draw = lambda first, rows: self._stage.merge(self.levels.draw(rows, seed, first, options))
    else:
      grid = self._grid(height, width)
      draw = lambda first, rows: self.sampler.draw_window(rows, seed, grid, first, **options)
    return np.concatenate([self.decode(draw(first, rows)) for first, rows in parts])[:num]

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
    values = checks.array(self.info.signal.field, values)
    shape, axes = values.shape[1:], self.info.signal.axes
    if len(shape) == len(self.info.shape) and shape[:axes] != self.info.size:
      found, wanted = (" x ".join(map(str, s)) for s in (shape[:axes], self.info.size))
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
    levels = self._checked(ids)
    conditions, options = self.levels.split(given, len(levels[0]))
    known = Given(len(levels[0]), conditions, levels, _share(keep, mask), mask)
    return self.decode(self._stage.merge(self.levels.draw(known, seed, 0, options)))

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
    checks.whole("num", num, 1)
    _check_seed(seed)
    levels = () if ids is None else self._checked(ids)
    if levels and len(levels[0]) != num:
      raise UserError(f"ids: of {len(levels[0])} example(s), but num={num}; give as many.")
    conditions, options = self.levels.split(given, num)
    known = Given(num, conditions, levels, _share(keep, mask), mask)
    coarser = self.levels.draw(known, seed, 0, options, stop=-1)
    request = self.sampler.request(known, coarser)
    told = self.levels.told(self.sampler, options)
    _, steps = self.sampler.draw(request, seed, trajectory=True, **told)
    return np.stack([self._frame(coarser, flat) for flat in steps])

  def _frame(self, coarser: tuple, flat_BL: jax.Array) -> np.ndarray:
    """Pictures of codes of which some are not decided yet."""
    latent = self.sampler.prior.latent
    flat_BL, decided_BL = latent.decided(flat_BL)
    values = self.decode(self._stage.merge((*coarser, latent.unflatten(flat_BL))))
    return self.info.signal.pictures(values, _hidden(~np.asarray(decided_BL), latent, self.info))

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
    levels = self._checked(ids)
    if not hasattr(self.modules.scheme, "bound"):
      raise UserError(f"{self.workdir}: the scheme {self.config.scheme.name!r} has no likelihood.")
    checks.whole("draws", draws, 1)
    conditions, options = self.levels.split(given, len(levels[0]))
    if options:
      raise UserError(f"{next(iter(options))}: a likelihood depends on conditions alone.")
    known = Given(len(levels[0]), conditions, levels)
    nats = self.sampler.nats(self.sampler.request(known, levels[: self.modules.level]), draws)
    return -np.asarray(nats if per_code else nats.sum(-1))

  def held_out(self, num: int, source: str | None = None) -> tuple[Any, dict[str, np.ndarray]]:
    """(codes of `num` held-out examples of the prior's data, or of what `source` names, as --data;
    what they hold of its conditions).
    """
    checks.whole("num", num, 1)
    dataset = self.loaded.dataset(source)
    lineage.check_codes({"tokenizer": self.tokenizer.identity}, dataset, self.config)
    batch, field = dataset.sample(num), self.info.signal.field
    self._stage.check_cached(batch)
    if not any(map(cached, batch)):
      need(batch, field)
    kept = {k: v for k, v in batch.items() if k == field or cached(k)}
    levels = self.modules.tokenizer.levels_of(self.weights.frozen["tokenizer"], kept)
    conditions = {name: batch[name] for name in self.levels.fields if name in batch}
    return self._stage.merge(tuple(map(np.asarray, levels))), conditions

  def condition(self, name: str) -> Any:
    """The condition that callers give by this name. Raises UserError where there is none."""
    return self.levels.condition(name).condition

  def captions(self, num: int, given: Mapping[str, Any]) -> list[str]:
    """What of the conditions of `num` examples can be read, to stand below them; [] if nothing."""
    conditions, _ = self.levels.split(given, num)
    leads = ((self.levels.fields[name].lead, value) for name, value in conditions.items())
    several = [lead.captions(value) for lead, value in leads if lead.captions]
    return [", ".join(texts) for texts in zip(*several)]

  def shown(self, ids: Any, keep: float) -> tuple[np.ndarray, np.ndarray]:
    """(codes as the tokenizer shows them; bool [B, *size]: where the prior sees nothing)."""
    levels, latent = self._checked(ids), self.modules.latent
    values = self.decode(self._stage.merge(levels))
    hidden = jnp.broadcast_to(~self.sampler.keep_first(keep), (len(values), latent.length))
    return values, _hidden(np.asarray(hidden), latent, self.info)

  @property
  def _stage(self) -> Any:
    """The tokenizer as the prior's task sees it, with the levels that priors learn."""
    return self.modules.tokenizer

  def _checked(self, ids: Any) -> tuple[Any, ...]:
    """Codes on the grids of training, as levels. Raises UserError for what is no such code."""
    return self._stage.split(joined(self.tokenizer.checked(ids, whole=True)))

  @functools.cached_property
  def _identities(self) -> tuple[bytes, ...]:
    """Hashes of their weights and networks."""
    own = digests.identity(self.config.model.to_dict(), self.weights.params["model"])
    return (*(self._coarser._identities if self.modules.level else ()), bytes.fromhex(own))

  @functools.cached_property
  def _coarser(self) -> Prior:
    """The prior of the level above. Raises UserError where none is named, or something else."""
    level = self.modules.level
    option = f"{self.workdir}: config.condition.coarser.prior"
    if not (path := self.config.condition.coarser.prior):
      raise UserError(f"{option}: is not set; give the workdir of the prior of the coarser level.")
    configuration.check_there(self.config, self.workdir, "condition.coarser")
    coarser = open_run(path)
    coarse = Prior(coarser) if coarser.config.task == "prior" else None
    if coarse is None or coarse.modules.level != level - 1:
      raise UserError(f"{option}: {path} is no prior of level {level - 1}; give one.")
    if coarse.tokenizer.identity != self.tokenizer.identity:
      raise UserError(
        f"{option}: {path} models the codes of another tokenizer, {coarse.config.tokenizer}; "
        "give a prior of this one's."
      )
    own, other = ([c.books for c in prior._stage.levels] for prior in (self, coarse))
    if own != other:
      raise UserError(
        f"{option}: {path} has groups of {other} books, this prior of {own}; give one with "
        "the same config.order."
      )
    return coarse

  def _check_finest(self) -> None:
    level, total = self.modules.level, len(self._stage.levels)
    if level < total - 1:
      raise UserError(
        f"{self.workdir}: models level {level} of {total}; sample from the prior of the finest "
        "level, which calls this one."
      )

  def _grid(self, height: int | None, width: int | None) -> tuple[int, int]:
    """Codes of a picture of this size. Raises UserError for a size that is none."""
    if self.info.signal.axes != 2:
      raise UserError(f"height, width: a {self.info.signal.field} has none; leave them out.")
    for name, value in (("height", height), ("width", width)):
      if value is not None and not checks.is_whole(value):
        raise UserError(f"{name}: {value!r} is no whole number of pixels.")
    factors, trained = self.info.factors, self.info.size
    size = tuple(n if given is None else given for given, n in zip((height, width), trained))
    if any(n < 1 or n % f for n, f in zip(size, factors)):
      raise UserError(
        f"height, width: {size[0]} x {size[1]} is not a multiple of {factors[0]}, the tokenizer's "
        "factor."
      )
    grid = (size[0] // factors[0], size[1] // factors[1])
    if any(n < m for n, m in zip(size, trained)):
      raise UserError(
        f"height, width: {size[0]} x {size[1]} is less than the training size of {trained[0]} x "
        f"{trained[1]}; only more can be asked for."
      )
    if math.prod(grid) >= 2**31:
      raise UserError(
        f"height, width: {size[0]} x {size[1]} is too large; a grid has fewer than 2^31 codes."
      )
    return grid


def _hidden(hidden_BL: np.ndarray, latent: Any, info: Any) -> np.ndarray:
  """Bool [B, *size]: the positions in cells of which all codes are hidden."""
  hidden = hidden_BL.reshape(len(hidden_BL), *latent.shape, -1).all(-1)
  for axis, (span, lacks) in enumerate(info.spans(latent.shape), 1):
    hidden = np.delete(hidden.repeat(span, axis), slice(lacks), axis)
  return hidden


def _share(keep: float | None, mask: Any) -> float:
  if keep is not None and mask is not None:
    raise UserError("keep, mask: each says which codes stay; give one of them.")
  return 0.5 if keep is None else keep


def _check_seed(seed: int) -> None:
  checks.whole("seed", seed, 0, 2**32 - 1, "the largest of 32 bits")
