"""A trained run as Python functions: load(workdir) gives encode, decode, reconstruct, sample, complete and log_prob."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import checkpoint, config as configuration, data, train
from vqjax.errors import UserError
from vqjax.tasks.conditions import check_range


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
    self.config.mesh = {}
    self.run = train.Run(self.config, spec)
    abstract = {"params": self.run.abstract.params, "stats": self.run.abstract.stats}
    averaged = self.run.abstract.ema is not None
    parts = checkpoint.restore_params(self.workdir, abstract | ({"ema": self.run.abstract.ema} if averaged else {}))
    params = parts["params"] | ({"model": parts["ema"]} if averaged else {})
    self.state = (params, parts["stats"], self.run.load_frozen())
    self._jitted: dict[str, Any] = {}

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3) of the images that the run, or its tokenizer, was trained on."""
    spec = self.run.spec if "image" in self.run.spec else self.sampler.prior.tokenizer.spec
    return tuple(spec["image"].shape[1:])

  @property
  def channels(self) -> int:
    """Of the images: 1 or 3."""
    return self.image_shape[-1]

  @functools.cached_property
  def identity(self) -> str:
    """A hash of the model's weights and config: what cached codes are tied to."""
    return checkpoint.identity(self.config.model.to_dict(), {"params": self.state[0]["model"], "stats": self.state[1]["model"]})

  def predict(self, name: str, **batch: Any) -> dict[str, Any]:
    """One of the task's predictions on a batch, compiled once per shape. Raises UserError where the task lacks it."""
    if name not in self.run.task.predict:
      raise UserError(f"{self.workdir}: a run of task {self.config.task!r} does not {name}; it can {', '.join(self.run.task.predict)}.")
    if name not in self._jitted:
      self._jitted[name] = jax.jit(self.run.task.predict[name])
    return self._jitted[name](*self.state, batch)

  def encode(self, images: Any) -> Any:
    """Codes int32 `[B, h, w]` (`[B, h, w, Q]` for several codebooks, a tuple for hierarchies) of images.

    Args:
      images: `[B, H, W, C]`, uint8, or float in [-1, 1]; for a tokenizer of label maps the maps, integers `[B, H, W]`.

    Raises:
      UserError: another layout, type or range, or a size that the architecture cannot take.
    """
    return self.predict("encode", **self._batch(images))["ids"]

  def decode(self, ids: Any) -> np.ndarray:
    """Images uint8 `[B, H, W, C]` of codes as `encode` returns them; label maps uint8 `[B, H, W]` by their tokenizer."""
    return _shown(self.predict("decode", ids=jax.tree.map(jnp.asarray, ids)))

  def reconstruct(self, images: Any) -> np.ndarray:
    """Images uint8 `[B, H, W, C]`, or label maps, after encoding and decoding; a prior's by its tokenizer."""
    if "reconstruct" not in self.run.task.predict:
      return self.decode(self.predict("encode", image=self._images(images))["ids"])
    return _shown(self.predict("reconstruct", **self._batch(images)))

  def sample(self, num: int = 1, *, label: Any = None, layout: Any = None, height: int | None = None, width: int | None = None,
             seed: int = 0, batch_size: int = 64, **options: Any) -> np.ndarray:
    """Images uint8 `[num, H, W, C]` drawn from a prior.

    Args:
      num: how many.
      label, layout: the conditions the prior was trained with: one for all, or one per image; left out, it draws freely.
      height, width: pixels beyond the training size, by a sliding window (autoregressive priors).
      seed: the same seed draws the same images, the first ones of a larger `num` too.
      batch_size: how many are drawn at once; the images do not depend on it but for rounding.
      **options: guidance, temperature, top_k, top_p, steps, choice_temperature, as the prior's scheme has them.

    Raises:
      UserError: no prior, a condition or option it does not have, or a value out of range.
    """
    rows = lambda value, start, count, rank: value if value is None or np.ndim(value) < rank else np.asarray(value)[start:start + count]
    images = []
    for start in range(0, num, batch_size):
      count = min(batch_size, num - start)
      conditions = dict(labels=rows(label, start, count, 1), layouts=rows(layout, start, count, 3))
      images.append(self._draw(count, seed, conditions, first=start, height=height, width=width, **options))
    return np.concatenate(images)

  def complete(self, images: Any, keep: float = 0.5, mask: Any = None, *, label: Any = None, layout: Any = None,
               seed: int = 0, **options: Any) -> np.ndarray:
    """Images uint8 like `images` whose first share `keep` of the codes stays (in raster order), the rest drawn.

    Args:
      images: as for `encode`.
      keep: in [0, 1].
      mask: `[H, W]`, nonzero where codes are drawn again, instead of `keep` (masked and diffusion priors).
      label, layout, seed, **options: as for `sample`.
    """
    images = self._images(images)
    if images.shape[1:] != self.image_shape:
      (height, width), (h, w, _) = images.shape[1:3], self.image_shape
      raise UserError(f"images: {height} x {width} pixels, this prior completes {h} x {w}; resize them.")
    return self.complete_codes(self.encode(images), keep, mask, label=label, layout=layout, seed=seed, **options)

  def complete_codes(self, ids: Any, keep: float = 0.5, mask: Any = None, *, label: Any = None, layout: Any = None,
                     seed: int = 0, **options: Any) -> np.ndarray:
    """Like `complete`, of codes as `encode` returns them."""
    levels, known = ids if isinstance(ids, tuple) else (ids,), self._kept(keep, mask)
    return self._draw(len(levels[0]), seed, dict(labels=label, layouts=layout), levels=levels, known=known, **options)

  def _kept(self, keep: float, mask: Any) -> np.ndarray:
    return self.sampler.keep_first(keep) if mask is None else self.sampler.keep_outside(np.asarray(mask))

  def frames(self, num: int = 1, *, ids: Any = None, keep: float = 0.5, mask: Any = None, label: Any = None, layout: Any = None,
             seed: int = 0, **options: Any) -> np.ndarray:
    """uint8 `[S, num, H, W, C]`: the images after every step of sampling; grey where nothing is decided yet.

    With `ids`, codes of `num` images as `encode` returns them, these are completed; `keep` and `mask` as for `complete`.
    """
    sampler, levels = self.sampler, () if ids is None else ids if isinstance(ids, tuple) else (ids,)
    coarser = levels[:sampler.condition.level] if levels else self._coarser(num, seed, dict(labels=label, layouts=layout))
    request = sampler.request(num, label, layout, coarser, levels, self._kept(keep, mask) if levels else None)
    _, steps = sampler.draw(request, seed, trajectory=True, **options)
    codes, (height, width, _) = sampler.prior.codes, self.image_shape
    pictures = []
    for drawn in steps:
      undecided = np.asarray(drawn >= codes.vocabulary).reshape(num, *codes.shape, -1).all(-1)
      drawn = codes.unflatten(jnp.minimum(drawn, codes.vocabulary - 1))
      image = self.decode((*coarser, drawn) if coarser else drawn)
      cells = undecided.repeat(height // codes.shape[0], 1).repeat(width // codes.shape[1], 2)
      pictures.append(np.where(cells[..., None], np.uint8(128), image))
    return np.stack(pictures)

  def log_prob(self, ids: Any, *, label: Any = None, layout: Any = None, per_code: bool = False) -> np.ndarray:
    """Log-probability of codes under the prior in nats, float32 `[B]`, or `[B, L]` with per_code.

    Exact for autoregressive priors; for masked and diffusion priors one draw of a lower bound.

    Args:
      ids: as `encode` returns them.
      label, layout: as for `sample`.
    """
    levels = ids if isinstance(ids, tuple) else (ids,)
    sampler, condition = self.sampler, self.sampler.condition
    request = sampler.request(len(levels[0]), label, layout, levels[:condition.level], levels)
    if not hasattr(sampler.prior.scheme, "bound"):
      raise UserError(f"{self.workdir}: the scheme {self.config.scheme.name!r} has no likelihood.")
    nats = sampler.nats(request)
    return -np.asarray(nats if per_code else nats.sum(-1))

  def held_out(self, num: int) -> tuple[Any, dict[str, np.ndarray]]:
    """(codes of `num` held-out examples of a prior's data; their `label` and `layout`, where it is conditioned on them)."""
    batch = data.sample_batch(self.config.data, self.config.ops, num)
    ids = self.predict("encode", **{k: v for k, v in batch.items() if k == "image" or k.startswith("ids")})["ids"]
    has = {"label": self.sampler.condition.labels, "layout": self.sampler.prior.prefix.layout_classes}
    return ids, {name: batch[name] for name, classes in has.items() if classes}

  @functools.cached_property
  def sampler(self) -> Any:
    """The run's sampling.Sampler. Raises UserError where the run is no prior."""
    from vqjax import sampling

    if self.config.task != "prior":
      raise UserError(f"{self.workdir}: is a run of task {self.config.task!r}; sampling needs a prior.")
    return sampling.Sampler(self)

  @functools.cached_property
  def _coarse(self) -> Model:
    path = self.sampler.condition.coarse
    if not path:
      raise UserError(f"{self.workdir}: config.condition.coarse: is not set; give the workdir of the prior of the coarser level.")
    return load(path)

  def _coarser(self, num: int, seed: int, conditions: dict, first: int = 0) -> tuple:
    """Codes of the levels coarser than this prior's, drawn."""
    return self._coarse._levels(num, seed, conditions, first) if self.sampler.condition.level else ()

  def _levels(self, num: int, seed: int, conditions: dict, first: int) -> tuple:
    """Codes of this prior's level and of all coarser ones, drawn."""
    coarser = self._coarser(num, seed, conditions, first)
    return (*coarser, self.sampler.draw(self.sampler.request(num, **conditions, coarser=coarser), seed, first))

  def _draw(self, num: int, seed: int, conditions: dict, first: int = 0, levels: tuple = (), known: Any = None,
            height: int | None = None, width: int | None = None, **options: Any) -> np.ndarray:
    sampler = self.sampler
    level, total = sampler.condition.level, sampler.prior.tokenizer.levels
    if level < total - 1:
      raise UserError(f"{self.workdir}: models level {level} of {total}; sample from the prior of the finest level, which calls this one.")
    if height or width:
      factor, trained = sampler.prior.tokenizer.task.factor, self.image_shape[:2]
      size = (height or trained[0], width or trained[1])
      if size[0] % factor or size[1] % factor:
        raise UserError(f"height, width: {size[0]} x {size[1]} is not a multiple of {factor}, the tokenizer's factor.")
      request = sampler.request(num, **conditions)
      return self.decode(sampler.draw_window(request, seed, (size[0] // factor, size[1] // factor), first, **options))
    coarser = levels[:level] if levels else self._coarser(num, seed, conditions, first)
    request = sampler.request(num, **conditions, coarser=coarser, levels=levels, known=known)
    ids = sampler.draw(request, seed, first, **options)
    return self.decode((*coarser, ids) if total > 1 else ids)

  def _batch(self, inputs: Any) -> dict[str, jax.Array]:
    """What the run encodes, under the name its task knows it by."""
    if not (classes := self.run.task.known.get("classes")):
      return {"image": self._images(inputs)}
    maps = np.asarray(inputs)
    if maps.ndim != 3 or maps.dtype.kind not in "iu":
      raise UserError(f"layout: {maps.dtype} of shape {maps.shape}; this run was trained on label maps, give integers [B, H, W].")
    return {"layout": jnp.asarray(check_range(maps, classes, "layout", f"config.model.channels={classes}"))}

  def _images(self, images: Any) -> jax.Array:
    images, channels = jnp.asarray(images), self.channels
    if images.ndim != 4 or images.shape[-1] != channels:
      raise UserError(f"images: shape {images.shape} is not [B, H, W, {channels}]; this model was trained on {channels} channel(s).")
    if images.dtype == jnp.uint8:
      return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise UserError(f"images: {images.dtype} is neither uint8 nor float in [-1, 1]; convert with .astype('uint8').")
    if (top := float(jnp.abs(images).max(initial=0))) > 1.001:
      raise UserError(f"images: floats reach {top:.4g}; scale them to [-1, 1], or pass uint8.")
    return images.astype(jnp.float32)


def load(workdir: str | pathlib.Path) -> Model:
  """Opens the run in `workdir`, trained or converted."""
  return Model(workdir)


def _shown(out: dict[str, jax.Array]) -> np.ndarray:
  """A prediction's label maps, where it has some, else its images."""
  return np.asarray(out["layout"]) if "layout" in out else _pixels(out["image"])


def _pixels(image: jax.Array) -> np.ndarray:
  return np.asarray(jnp.round((jnp.clip(image, -1, 1) + 1) * 127.5).astype(jnp.uint8))
