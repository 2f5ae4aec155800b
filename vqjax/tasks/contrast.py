"""CLIP (arXiv 2103.00020): learn which caption belongs to which image, as vectors of two towers."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vqjax import config as configuration, fields, files
from vqjax.build import build, make as make_record, module, names
from vqjax.data import captions
from vqjax.errors import UserError
from vqjax.nn import codebook
from vqjax.signals import image
from vqjax.tasks import Frozen, Info, Task, Weights, need

_LARGEST = math.log(100.0)  # of the scale: more made training unstable (section 2.5)


@dataclasses.dataclass(frozen=True)
class Towers:
  """config.model: an embedder of images, one of captions, and the width of their vectors."""

  image: dict = fields.member("embedders", {"name": "vit"})
  text: dict = fields.member("embedders", {"name": "transformer"})
  features: int = 512


@dataclasses.dataclass(frozen=True)
class Fields:
  """What a config of this task holds beside vqjax.config.Common."""

  model: dict = fields.record("tasks.contrast.Towers")
  text: dict = fields.record("data.captions.Text")
  temperature: float = 0.07  # that training starts with


def begin(config: Any, dataset: Any, workdir: files.Path) -> Any:
  """The config with the vocabulary of the workdir as `text.bpe`, see vqjax.data.captions.keep."""
  text = make_record(captions.Text, config.text.to_dict(), "config.text")
  config = configuration.editable(config.to_dict())
  config.text.bpe = captions.keep(text, "config.text", dataset, workdir, marked=True)
  return configuration.complete(config)


def spec(config: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
  """{field: (shape, dtype)} of one example, as config.ops and config.text make it."""
  return {"image": image.Signal().spec(config["ops"])} | made(config)


def made(config: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
  """Captions as ids."""
  return {"text": ((config["text"]["length"],), "int32")}


def make(config: Mapping[str, Any], spec: Mapping[str, Any]) -> Task:
  """The task for a completed config and a batch's shapes `{name: ShapeDtypeStruct}`.

  Raises:
    UserError: data without images or captions, or anything in config.model, config.text or
      config.temperature that does not fit.
  """
  if missing := {"image", "text"} - spec.keys():
    raise UserError(
      f"config.data: have no {min(missing)}, but {', '.join(spec)}; this task reads images and "
      "captions (text)."
    )
  shape, towers = tuple(spec["image"].shape[1:]), config["model"]
  if towers["features"] < 1:
    raise UserError(f"config.model.features: {towers['features']} is not positive.")
  if not 0.01 <= config["temperature"] <= 100:
    raise UserError(f"config.temperature: {config['temperature']} is not within 0.01 to 100.")
  text = make_record(captions.Text, config["text"], "config.text")
  sizes = dict(features=towers["features"], size=shape[:-1], channels=shape[-1])
  sizes |= dict(vocabulary=text.size, length=text.length)
  run = Contrast(
    image=_tower(towers["image"], "image", sizes),
    text=_tower(towers["text"], "text", sizes),
    vocabulary=text,
    temperature=config["temperature"],
  )
  return Task(
    init=run.init,
    loss=run.loss,
    predict={
      "embed": run.embed,
      "embed_image": run.embed_image,
      "embed_text": run.embed_text,
      "preview": run.preview,
    },
    prepare=run.prepare,
    info=Info(
      signal=image.Signal(),
      shape=shape,
      factors=run.image.factors,
      levels=(),
      evaluators=("recall",),
      pictures=run.pictures,
      modules=run,
    ),
    frozen=Frozen(identity=run.identity),
  )


def _tower(config: Mapping[str, Any], field: str, sizes: dict[str, Any]) -> nn.Module:
  """Raises UserError for an embedder of something else than `field`."""
  option, known = f"config.model.{field}", {n: module("embedders", n) for n in names("embedders")}
  if (file := known.get(config.get("name"))) and file.Model.reads != field:
    fitting = ", ".join(n for n, file in known.items() if file.Model.reads == field)
    raise UserError(
      f"{option}.name: {config['name']!r} embeds {file.Model.reads}, not {field}; take {fitting}."
    )
  return build("embedders", config, option, **sizes)


@dataclasses.dataclass(frozen=True)
class Contrast:
  """The task's functions over the towers that the config names."""

  image: nn.Module
  text: nn.Module
  vocabulary: captions.Text
  temperature: float

  @functools.cached_property
  def captions(self) -> captions.Captions:
    """Captions to ids. Raises UserError where there is no vocabulary, or too large a one."""
    return captions.opened(self.vocabulary, "config.text")

  def prepare(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Images, and the ids of captions."""
    return {"image": need(batch, "image"), "text": self.captions(need(batch, "text"))}

  def identity(self, frozen: Any) -> dict[str, str]:
    """A hash of the vocabulary."""
    del frozen
    return {"text.bpe": self.captions.bpe.identity} if self.vocabulary.bpe else {}

  def init(self, key: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[Any, Any]:
    key_image, key_text = jax.random.split(key)
    params = {
      "image": self.image.init(key_image, self._pixels(batch))["params"],
      "text": self.text.init(key_text, batch["text"])["params"],
      "log_scale": jnp.full((), -math.log(self.temperature)),
    }
    return {"model": params}, {"model": {}}

  def _pixels(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    return image.Signal().read(batch["image"])

  def embed_image(
    self, weights: Weights, batch: Any, key: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """{"image": unit vectors float32 [B, D]} of batch["image"]."""
    del key
    return {"image": self._images(weights.params["model"], batch)}

  def embed_text(
    self, weights: Weights, batch: Any, key: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """{"text": unit vectors float32 [B, D]} of the ids batch["text"]."""
    del key
    return {"text": self._texts(weights.params["model"], batch)}

  def embed(
    self, weights: Weights, batch: Any, key: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """Both."""
    return self.embed_image(weights, batch, key) | self.embed_text(weights, batch, key)

  def _images(self, params: Any, batch: Any) -> jax.Array:
    found = self.image.apply({"params": params["image"]}, self._pixels(batch))
    return codebook.l2_normalize(found)

  def _texts(self, params: Any, batch: Any) -> jax.Array:
    return codebook.l2_normalize(self.text.apply({"params": params["text"]}, batch["text"]))

  def logits(self, params: Any, batch: Any) -> jax.Array:
    """float32 [B, B]: rows are images, columns captions."""
    scale = jnp.exp(clipped(params["log_scale"], _LARGEST))
    return scale * jnp.einsum("id,td->it", self._images(params, batch), self._texts(params, batch))

  def loss(
    self, params: Any, stats: Any, frozen: Any, batch: Any, key: jax.Array, step: jax.Array
  ) -> Any:
    """Mean of the cross entropies of an image's caption and of a caption's image, each among all of
    the (global) batch: figure 3 of the paper.
    """
    del frozen, key, step
    logits = self.logits(params["model"], batch)
    terms = {"captions": logits, "images": logits.T}
    nats = {k: jnp.mean(jax.nn.logsumexp(v, axis=1) - jnp.diagonal(v)) for k, v in terms.items()}
    right = jnp.argmax(logits, axis=1) == jnp.arange(len(logits))
    metrics = {f"loss/{k}": v for k, v in nats.items()} | {
      "contrast/accuracy": jnp.mean(right.astype(jnp.float32)),
      "contrast/scale": jnp.exp(clipped(params["model"]["log_scale"], _LARGEST)),
    }
    return (nats["captions"] + nats["images"]) / 2, (stats, metrics)

  def preview(self, weights: Weights, batch: Any, key: jax.Array) -> dict[str, Any]:
    """{"found": for each caption the image of the batch that is nearest to it}."""
    out = self.embed(weights, batch, key)
    return {"found": batch["image"][jnp.argmax(out["text"] @ out["image"].T, axis=1)]}

  def pictures(self, batch: Any, out: Any) -> tuple[np.ndarray, ...]:
    """Images above those that are found by their captions among all of them."""
    show = image.Signal().pictures
    return show(batch["image"]), show(out["found"])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def clipped(x: jax.Array, largest: float) -> jax.Array:
  """min(x, largest), with a gradient above it where that leads back."""
  return jnp.minimum(x, largest)


clipped.defvjp(
  lambda x, largest: (jnp.minimum(x, largest), x >= largest),
  lambda largest, above, g: (jnp.where(above & (g < 0), 0.0, g),),
)
