"""A trained run as Python functions: load(workdir) gives encode, decode, reconstruct, sample,
complete and log_prob.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import (
  checkpoint,
  config as configuration,
  data,
  lineage,
  sampler as sampling,
  sharding,
  train,
)
from vqjax.errors import UserError
from vqjax.tasks._conditions import check_range


class Model:
  """A run's newest parameters (averaged ones where an average was kept), on the devices.

  Attributes:
    config: the run's config.
    run: its task, mesh and shapes, see vqjax.train.Run.
    state: (params, stats, frozen), what the task's predictions take.
  """

  def __init__(self, workdir: str | pathlib.Path):
    self.workdir = pathlib.Path(workdir)
    self.config = configuration.of_run(self.workdir)
    spec = configuration.read_spec(self.workdir)
    if spec is None:
      raise UserError(f"{workdir}: holds no batch.json; the run has not started yet.")
    self.config.mesh = _mesh(self.config.mesh)
    self.run = train.Run(self.config, spec)
    abstract = self.run.abstract
    wanted = {"params": abstract.params, "stats": abstract.stats}
    if abstract.ema is not None:  # instead of the model's own parameters
      wanted |= {
        "params": {k: v for k, v in abstract.params.items() if k != "model"},
        "ema": abstract.ema,
      }
    parts = checkpoint.restore_params(self.workdir, {k: v for k, v in wanted.items() if v})
    params = parts.get("params", {}) | ({"model": parts["ema"]} if "ema" in parts else {})
    self.state = (params, parts.get("stats", abstract.stats), self.run.load_frozen())
    lineage.check_frozen(self.run, self.state[2], self.workdir)
    self._jitted: dict[str, Any] = {}

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3) of the images that the run, or its tokenizer, was trained
    on.
    """
    spec = self.run.spec if "image" in self.run.spec else self.sampler.prior.tokenizer.spec
    return tuple(spec["image"].shape[1:])

  @property
  def channels(self) -> int:
    """Of the images: 1 or 3."""
    return self.image_shape[-1]

  @functools.cached_property
  def identity(self) -> str:
    """A hash of the model's weights and config: what cached codes are tied to."""
    return checkpoint.identity(
      self.config.model.to_dict(),
      {"params": self.state[0]["model"], "stats": self.state[1]["model"]},
    )

  def predict(self, name: str, **batch: Any) -> dict[str, Any]:
    """One of the task's predictions on a batch, compiled once per shape.

    Raises UserError where the task lacks it.
    """
    if name not in self.run.task.predict:
      raise UserError(
        f"{self.workdir}: a run of task {self.config.task!r} does not {name}; it can {', '.join(self.run.task.predict)}."
      )
    if name not in self._jitted:
      self._jitted[name] = jax.jit(
        self.run.task.predict[name], out_shardings=sharding.replicated(self.run.mesh)
      )
    return self._jitted[name](*self.state, sharding.spread(batch, self.run.mesh))

  def encode(self, images: Any) -> Any:
    """Codes int32 `[B, h, w]` (`[B, h, w, Q]` for several codebooks, a tuple for hierarchies) of
    images.

    Args:
      images: `[B, H, W, C]`, uint8, or float in [-1, 1]; for a tokenizer of label maps the maps,
        integers `[B, H, W]`.

    Raises:
      UserError: another layout, type or range, or a size that the architecture cannot take.
    """
    return self.predict("encode", **self._batch(images))["ids"]

  def decode(self, ids: Any) -> np.ndarray:
    """Images uint8 `[B, H, W, C]` of codes as `encode` returns them; label maps uint8 `[B, H, W]`
    by their tokenizer.
    """
    levels = self._checked(ids)
    return _shown(self.predict("decode", ids=levels if len(levels) > 1 else levels[0]))

  def reconstruct(self, images: Any) -> np.ndarray:
    """Images uint8 `[B, H, W, C]`, or label maps, after encoding and decoding; a prior's by its
    tokenizer.
    """
    if "reconstruct" not in self.run.task.predict:
      return self.decode(self.predict("encode", image=self._images(images))["ids"])
    return _shown(self.predict("reconstruct", **self._batch(images)))

  def sample(
    self,
    num: int = 1,
    *,
    label: Any = None,
    layout: Any = None,
    height: int | None = None,
    width: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    **options: Any,
  ) -> np.ndarray:
    """Images uint8 `[num, H, W, C]` drawn from a prior.

    Args:
      num: how many.
      label, layout: the conditions the prior was trained with: one for all, or one per image; left
        out, it draws freely.
      height, width: pixels beyond the training size, by a sliding window (autoregressive priors).
      seed: the same seed draws the same images, the first ones of a larger `num` too.
      batch_size: how many are drawn at once; the images do not depend on it but for rounding.
      **options: as the prior's scheme has them: guidance and guidance_schedule (constant, or
        growing from none: linear, cosine), temperature, top_k, top_p, steps, choice_temperature.

    Raises:
      UserError: no prior, a condition or option it does not have, or a value out of range.
    """
    self._check_finest()
    if num < 1 or batch_size < 1:
      raise UserError(
        f"num: {num} in batches of {batch_size}; draw at least one, at least one at a time."
      )
    sampling.check_seed(seed)
    given, options = sampling.Given.of(num, label, layout), sampling.given_options(options)
    parts = [(start, given.rows(start, batch_size)) for start in range(0, num, batch_size)]
    if height is None and width is None:
      return np.concatenate(
        [
          self._decoded(self._levels(self._chain, rows, seed, first, options))
          for first, rows in parts
        ]
      )
    grid = self._grid(height, width)
    return np.concatenate(
      [self.decode(self._window(rows, seed, first, grid, options)) for first, rows in parts]
    )

  def complete(
    self,
    images: Any,
    keep: float = 0.5,
    mask: Any = None,
    *,
    label: Any = None,
    layout: Any = None,
    seed: int = 0,
    **options: Any,
  ) -> np.ndarray:
    """Images uint8 like `images` whose first share `keep` of the codes stays (in raster order), the
    rest drawn.

    Args:
      images: as for `encode`.
      keep: in [0, 1]; of every level of a hierarchy.
      mask: `[H, W]`, nonzero where codes are drawn again, instead of `keep` (masked and diffusion
        priors).
      label, layout, seed, **options: as for `sample`.
    """
    images = self._images(images)
    if images.shape[1:] != self.image_shape:
      (height, width), (h, w, _) = images.shape[1:3], self.image_shape
      raise UserError(
        f"images: {height} x {width} pixels, this prior completes {h} x {w}; resize them."
      )
    return self.complete_codes(
      self.encode(images), keep, mask, label=label, layout=layout, seed=seed, **options
    )

  def complete_codes(
    self,
    ids: Any,
    keep: float = 0.5,
    mask: Any = None,
    *,
    label: Any = None,
    layout: Any = None,
    seed: int = 0,
    **options: Any,
  ) -> np.ndarray:
    """Like `complete`, of codes as `encode` returns them."""
    self._check_finest()
    sampling.check_seed(seed)
    levels = self._checked(ids, whole=True)
    given = sampling.Given.of(len(levels[0]), label, layout, levels, keep, mask)
    return self._decoded(self._levels(self._chain, given, seed, 0, sampling.given_options(options)))

  def frames(
    self,
    num: int = 1,
    *,
    ids: Any = None,
    keep: float = 0.5,
    mask: Any = None,
    label: Any = None,
    layout: Any = None,
    seed: int = 0,
    **options: Any,
  ) -> np.ndarray:
    """uint8 `[S, num, H, W, C]`: the images after every step of sampling; grey where nothing is
    decided yet.

    With `ids`, codes of `num` images as `encode` returns them, these are completed; `keep` and
    `mask` as for `complete`. Of a hierarchy the steps of the finest level are shown.
    """
    self._check_finest()
    sampling.check_seed(seed)
    levels = () if ids is None else self._checked(ids, whole=True)
    if levels and len(levels[0]) != num:
      raise UserError(f"ids: of {len(levels[0])} image(s), but num={num}; give as many.")
    given, options, sampler = (
      sampling.Given.of(num, label, layout, levels, keep, mask),
      sampling.given_options(options),
      self.sampler,
    )
    coarser = self._levels(self._chain[:-1], given, seed, 0, options)
    _, steps = sampler.draw(
      given.request(sampler, coarser), seed, trajectory=True, **self._told(sampler, options)
    )
    codes, (height, width, _) = sampler.prior.codes, self.image_shape
    pictures = []
    for drawn in steps:
      undecided = np.asarray(drawn >= codes.vocabulary).reshape(num, *codes.shape, -1).all(-1)
      image = self._decoded((*coarser, codes.unflatten(jnp.minimum(drawn, codes.vocabulary - 1))))
      cells = undecided.repeat(height // codes.shape[0], 1).repeat(width // codes.shape[1], 2)
      pictures.append(np.where(cells[..., None], np.uint8(128), image))
    return np.stack(pictures)

  def log_prob(
    self,
    ids: Any,
    *,
    label: Any = None,
    layout: Any = None,
    per_code: bool = False,
    draws: int = 16,
  ) -> np.ndarray:
    """Log-probability of codes under the prior in nats, float32 `[B]`, or `[B, L]` with per_code.

    Exact for autoregressive priors; for masked and diffusion priors a lower bound, estimated by the
    mean of `draws` estimates. In a hierarchy it is that of this prior's level given the coarser
    ones.

    Args:
      ids: as `encode` returns them, all levels of a hierarchy.
      label, layout: as for `sample`.
      draws: how many; each costs a masked prior one pass, a diffusion as many as it has timesteps.
    """
    levels, sampler = self._checked(ids, whole=True), self.sampler
    if not hasattr(sampler.prior.scheme, "bound"):
      raise UserError(f"{self.workdir}: the scheme {self.config.scheme.name!r} has no likelihood.")
    if draws < 1:
      raise UserError(f"draws: {draws} is too few; use at least 1.")
    nats = sampler.nats(
      sampling.Given.of(len(levels[0]), label, layout, levels).request(
        sampler, levels[: sampler.condition.level]
      ),
      draws,
    )
    return -np.asarray(nats if per_code else nats.sum(-1))

  def held_out(self, num: int) -> tuple[Any, dict[str, np.ndarray]]:
    """(codes of `num` held-out examples of a prior's data; their `label` and `layout`, where it is
    conditioned on them).
    """
    batch = data.Dataset(self.config.data, self.config.ops).sample(num)
    ids = self.predict(
      "encode", **{k: v for k, v in batch.items() if k == "image" or k.startswith("ids")}
    )["ids"]
    has = {
      "label": self.sampler.condition.labels,
      "layout": self.sampler.prior.prefix.layout_classes,
    }
    return ids, {name: batch[name] for name, classes in has.items() if classes}

  @functools.cached_property
  def sampler(self) -> sampling.Sampler:
    """The run's sampling.Sampler. Raises UserError where the run is no prior."""
    if self.config.task != "prior":
      raise UserError(
        f"{self.workdir}: is a run of task {self.config.task!r}; sampling needs a prior."
      )
    return sampling.Sampler(self)

  @functools.cached_property
  def _chain(self) -> tuple[sampling.Sampler, ...]:
    """The samplers of all levels down to this prior's, coarse first.

    Raises UserError where one is not named, or is of something else.
    """
    sampler = self.sampler
    if not (level := sampler.condition.level):
      return (sampler,)
    option = f"{self.workdir}: config.condition.coarse"
    if not (path := sampler.condition.coarse):
      raise UserError(f"{option}: is not set; give the workdir of the prior of the coarser level.")
    coarse = load(path)
    if (found := coarse.sampler.condition.level) != level - 1:
      raise UserError(f"{option}: {path} models level {found}; give a prior of level {level - 1}.")
    if coarse.run.task.identity(coarse.state[2]) != self.run.task.identity(self.state[2]):
      raise UserError(
        f"{option}: {path} models the codes of another tokenizer, {coarse.config.tokenizer}; give a prior of this one's."
      )
    return (*coarse._chain, sampler)

  def _levels(
    self, chain: tuple, given: sampling.Given, seed: int, first: int, options: dict[str, Any]
  ) -> tuple:
    """Codes of the levels of `chain`, each drawn given the coarser ones."""
    drawn = ()
    for sampler in chain:
      drawn += (
        sampler.draw(
          given.request(sampler, drawn, self._chain), seed, first, **self._told(sampler, options)
        ),
      )
    return drawn

  def _told(self, sampler: sampling.Sampler, options: dict[str, Any]) -> dict[str, Any]:
    """The options that concern this level: its scheme's, and those that no level knows, for it to
    complain of.
    """
    known = {name for other in self._chain for name in other.options}
    return {k: v for k, v in options.items() if k in sampler.options or k not in known}

  def _decoded(self, levels: tuple) -> np.ndarray:
    return self.decode(levels if len(levels) > 1 else levels[0])

  def _check_finest(self) -> None:
    level, total = self.sampler.condition.level, self.sampler.prior.tokenizer.levels
    if level < total - 1:
      raise UserError(
        f"{self.workdir}: models level {level} of {total}; sample from the prior of the finest level, which calls this one."
      )

  def _grid(self, height: int | None, width: int | None) -> tuple[int, int]:
    """Codes of a picture of this size. Raises UserError for a size that is none."""
    factor, trained = self.sampler.prior.tokenizer.task.factor, self.image_shape[:2]
    size = tuple(n if given is None else given for given, n in zip((height, width), trained))
    if any(n < 1 or n % factor for n in size):
      raise UserError(
        f"height, width: {size[0]} x {size[1]} is not a multiple of {factor}, the tokenizer's factor."
      )
    return size[0] // factor, size[1] // factor

  def _window(
    self,
    given: sampling.Given,
    seed: int,
    first: int,
    grid: tuple[int, int],
    options: dict[str, Any],
  ) -> jax.Array:
    sampler, shape = self.sampler, self.sampler.prior.codes.shape
    parts = sampler.parts(
      given.num, given.label, given.layout, scale=(grid[0] / shape[0], grid[1] / shape[1])
    )
    return sampler.draw_window(parts, given.num, seed, grid, first, **options)

  def _checked(self, ids: Any, whole: bool = False) -> tuple[np.ndarray, ...]:
    """Codes as a tuple of levels; with `whole` on the very grids that the prior was trained on.

    Raises:
      UserError: what no tokenizer's `encode` returns.
    """
    task = self.sampler.prior.tokenizer.task if self.config.task == "prior" else self.run.task
    sizes = task.known["codebook_sizes"]
    levels = tuple(ids) if len(sizes) > 1 and isinstance(ids, (tuple, list)) else (ids,)
    if len(levels) != len(sizes):
      raise UserError(
        f"ids: one array; the tokenizer has {len(sizes)} levels, give a tuple as encode returns it."
      )
    levels = tuple(map(np.asarray, levels))
    for i, (level, size) in enumerate(zip(levels, sizes)):
      if level.dtype.kind not in "iu":
        raise UserError(
          f"ids: {level.dtype} of shape {level.shape}; give integers, as encode returns them."
        )
      if size and level.size and not 0 <= level.min() <= level.max() < size:
        raise UserError(
          f"ids: {level.min()} to {level.max()} is not within 0 to {size - 1}, the codes of the tokenizer."
        )
      if whole and level.shape[1:] != (grid := self.sampler.prior.tokenizer.codes(i).grid):
        raise UserError(
          f"ids: of shape {level.shape}; this prior is over grids of {' x '.join(map(str, grid))} codes."
        )
    return levels

  def _batch(self, inputs: Any) -> dict[str, jax.Array]:
    """What the run encodes, under the name its task knows it by."""
    if not (classes := self.run.task.known.get("classes")):
      return {"image": self._images(inputs)}
    maps = np.asarray(inputs)
    if maps.ndim != 3 or maps.dtype.kind not in "iu":
      raise UserError(
        f"layout: {maps.dtype} of shape {maps.shape}; this run was trained on label maps, give integers [B, H, W]."
      )
    return {
      "layout": jnp.asarray(
        check_range(maps, classes, "layout", f"config.model.channels={classes}")
      )
    }

  def _images(self, images: Any) -> jax.Array:
    images, channels = jnp.asarray(images), self.channels
    if images.ndim != 4 or images.shape[-1] != channels:
      raise UserError(
        f"images: shape {images.shape} is not [B, H, W, {channels}]; this model was trained on {channels} channel(s)."
      )
    if images.dtype == jnp.uint8:
      return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise UserError(
        f"images: {images.dtype} is neither uint8 nor float in [-1, 1]; convert with .astype('uint8')."
      )
    if (top := float(jnp.abs(images).max(initial=0))) > 1.001:
      raise UserError(f"images: floats reach {top:.4g}; scale them to [-1, 1], or pass uint8.")
    return images.astype(jnp.float32)


def _mesh(mesh: Any) -> Any:
  """The run's mesh where these devices can make it, so that what was split over them is again; else
  all of them for data.
  """
  try:
    sharding.make_mesh(**mesh)
  except UserError:
    return {}
  return mesh


def load(workdir: str | pathlib.Path) -> Model:
  """Opens the run in `workdir`, trained or converted."""
  return Model(workdir)


def _shown(out: dict[str, jax.Array]) -> np.ndarray:
  """A prediction's label maps, where it has some, else its images."""
  return np.asarray(out["layout"]) if "layout" in out else _pixels(out["image"])


def _pixels(image: jax.Array) -> np.ndarray:
  return np.asarray(jnp.round((jnp.clip(image, -1, 1) + 1) * 127.5).astype(jnp.uint8))
