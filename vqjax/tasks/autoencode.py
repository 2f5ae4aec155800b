"""Stage 1: learn an autoencoder with a quantized latent, of images (with or without an adversary)
or of label maps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import fields
from vqjax.build import build, make as make_record
from vqjax.errors import UserError
from vqjax.nn import losses, palette, perceptual
from vqjax.tasks import Task, _loss_terms as loss_terms, _conditions as conditions


@dataclasses.dataclass(frozen=True)
class Fields:
  """What a config of this task holds beside vqjax.config.Common."""

  model: dict = fields.member("autoencoders", {})
  disc: dict | None = fields.member("discriminators", None)  # None trains without an adversary
  loss: dict = fields.record("tasks._loss_terms.Losses")
  optim_disc: dict | None = fields.record("optim.Optimizer", None)  # where it differs from optim


def to_float(image: jax.Array) -> jax.Array:
  """uint8 pixels to float32 in [-1, 1]; floats pass."""
  return image.astype(jnp.float32) / 127.5 - 1 if image.dtype == jnp.uint8 else image


def reads(config: Mapping[str, Any]) -> str:
  """The field of a batch that a run of this task learns: "image", or "layout"."""
  return "layout" if config["loss"].get("reconstruction") == "binary_cross_entropy" else "image"


def make(config: Mapping[str, Any], spec: Mapping[str, Any]) -> Task:
  """The task for a completed config and a batch's shapes `{name: ShapeDtypeStruct}`.

  Raises:
    UserError: anything in config.model, config.disc or config.loss that does not fit, or image
      sizes that the model cannot take.
  """
  weights = make_record(loss_terms.Losses, dict(config["loss"]), "config.loss")
  field = reads(config)
  classes = _classes(config["model"], spec) if field == "layout" else 0
  channels = classes or spec["image"].shape[-1]
  model = build(
    "autoencoders",
    config["model"],
    "config.model",
    **({} if classes else {"channels": channels}),
    out_channels=losses.out_channels(weights.reconstruction, channels),
  )
  disc = build("discriminators", config["disc"], "config.disc") if config["disc"] else None
  loss_terms.check(weights, disc, field)
  run = _Autoencode(model, disc, weights, classes)
  measures = ("layouts",) if classes else ("distortion", "ssim")
  return Task(
    init=run.init,
    loss=run.loss,
    frozen=run.frozen,
    frozen_shapes=run.frozen_shapes,
    predict={
      "reconstruct": run.reconstruct,
      "encode": run.encode,
      "decode": run.decode,
      "preview": run.preview,
    },
    prepare=run.prepare,
    passes={"model": run.model_pass} | ({"disc": run.disc_pass} if disc is not None else {}),
    factor=max(model.factors),
    evaluators=(*measures, "codes") if 0 < model.quantizer.codebook_size <= 2**24 else measures,
    known=_codebooks(model, spec[field].shape[1:3]) | {"classes": classes},
  )


def _classes(model: Mapping[str, Any], spec: Mapping[str, Any]) -> int:
  """How many classes the label maps have.

  Raises UserError where the config or the data does not tell.
  """
  if "layout" not in spec:
    raise UserError(
      f"config.loss.reconstruction: 'binary_cross_entropy' learns label maps, but the data has no layout; "
      f"it yields {', '.join(spec)}. Use other data, or 'l1' or 'l2' for images."
    )
  if not isinstance(classes := model.get("channels"), int) or not 1 < classes <= 256:
    raise UserError(
      f"config.model.channels: is {classes}; give the number of the label maps' classes, 2 to 256."
    )
  return classes


def _codebooks(model: nn.Module, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
  """Sizes and numbers of codebooks per level of the hierarchy."""
  grid = model.grid(*size)
  levels = len(grid) if isinstance(grid[0], tuple) else 1
  quantizer = model.quantizer
  return {
    "codebook_sizes": (quantizer.codebook_size,) * levels,
    "num_codebooks": (quantizer.num_codebooks,) * levels,
  }


@dataclasses.dataclass(frozen=True)
class _Autoencode:
  """The task's functions over the modules that the config names.

  `classes` of label maps; 0 where images are learned.
  """

  model: nn.Module
  disc: nn.Module | None
  weights: loss_terms.Losses
  classes: int = 0

  def prepare(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    if not self.classes:
      return {"image": batch["image"]}
    return {
      "layout": conditions.check_range(
        batch["layout"], self.classes, "layout", f"config.model.channels={self.classes}"
      )
    }

  def _input(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """What the model reads: pixels in [-1, 1], or a label map's classes as one-hot 0 and 1."""
    if self.classes:
      if "layout" not in batch:
        raise UserError(
          "image: this run was trained on label maps and reads no images; give it maps of classes, int [B, H, W]."
        )
      return jax.nn.one_hot(batch["layout"], self.classes)
    return to_float(batch["image"])

  def _output(self, recon: jax.Array) -> dict[str, jax.Array]:
    layout = {"layout": losses.to_layout(recon)} if self.classes else {}
    return {"image": losses.to_image(self.weights.reconstruction, recon)} | layout

  def init(self, key: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[Any, Any]:
    x = self._input(batch)
    key_model, key_disc, key_codes = jax.random.split(key, 3)
    variables = self.model.init({"params": key_model, "codes": key_codes}, x, train=False)
    players, stats = _split("model", variables)
    if self.disc is not None:
      disc_params, disc_stats = _split("disc", self.disc.init(key_disc, x, train=False))
      players |= disc_params
      stats |= disc_stats | {"lecam": losses.lecam_averages()}
    return players, stats

  def frozen(self) -> Any:
    return (
      {"perceptual": perceptual.load(self.weights.perceptual_weights)}
      if self.weights.perceptual_weight
      else {}
    )

  def frozen_shapes(self) -> Any:
    shapes = {
      k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in perceptual.shapes().items()
    }
    return {"perceptual": shapes} if self.weights.perceptual_weight else {}

  def loss(
    self, params: Any, stats: Any, frozen: Any, batch: Any, key: jax.Array, step: jax.Array
  ) -> Any:
    x = self._input(batch)
    rngs = {name: jax.random.fold_in(key, i) for i, name in enumerate(("codes", "dropout"))}
    (recon, quantized), new = self.model.apply(
      {"params": params["model"], **stats["model"]},
      x,
      train=True,
      step=step,
      rngs=rngs,
      mutable=[*stats["model"], "intermediates"],
    )
    intermediates = new.pop("intermediates")
    stats = stats | {"model": new}
    terms = loss_terms.Terms()
    terms.add("quantizer", quantized.loss, 1.0)
    metrics = {f"codes/{k}": v for k, v in quantized.metrics.items()}
    if self.disc is None:
      total, pieces = self._distortion(recon, x, frozen)
      terms.update(pieces)
      return quantized.loss + total, (stats, metrics | terms.metrics())
    generator, cotangent, pieces, more = self._generator(
      params, stats, frozen, recon, intermediates, x, step
    )
    disc_loss, stats, disc_pieces, logits = self._discriminator(params, stats, recon, x, step)
    terms.update(pieces | disc_pieces)
    # The gradients at the reconstruction are known, so one product carries them into the model; its
    # value is taken off again.
    carrier = jnp.sum(recon * cotangent)
    total = quantized.loss + generator + carrier - jax.lax.stop_gradient(carrier) + disc_loss
    return total, (stats, metrics | more | logits | terms.metrics())

  def _distortion(self, recon: jax.Array, x: jax.Array, frozen: Any) -> tuple[jax.Array, dict]:
    w = self.weights
    pieces = {
      "reconstruction": (losses.reconstruction(w.reconstruction, recon, x), w.reconstruction_weight)
    }
    if w.perceptual_weight:
      distance = jnp.mean(
        perceptual.lpips(frozen["perceptual"], x, self._judged(recon), dtype=self.model.dtype)
      )
      pieces["perceptual"] = (distance, w.perceptual_weight)
    return sum(value * weight for value, weight in pieces.values()), pieces

  def _judged(self, recon: jax.Array) -> jax.Array:
    """The image that the perceptual loss and the discriminator see.

    A plain image is not clipped: all its pixels keep a gradient.
    """
    return (
      losses.to_image("logit_laplace", recon)
      if self.weights.reconstruction == "logit_laplace"
      else recon
    )

  def _adversarial_on(self, step: jax.Array) -> jax.Array:
    return jnp.where(step >= self.weights.adversarial_start, 1.0, 0.0)

  def _judge(self, params: Any, stats: Any, image: jax.Array) -> tuple[Any, Any]:
    """The discriminator in training mode: ((logits, features), its new statistics)."""
    return self.disc.apply({"params": params, **stats}, image, train=True, mutable=list(stats))

  def _generator(
    self,
    params: Any,
    stats: Any,
    frozen: Any,
    recon: jax.Array,
    intermediates: Any,
    x: jax.Array,
    step: jax.Array,
  ) -> Any:
    """Value of the model's terms and their gradient at the reconstruction, each term's backward
    pass run once.

    Returns (value, cotangent like recon, pieces, metrics). Nothing here is differentiated again:
    everything comes detached.
    """
    w, on = self.weights, self._adversarial_on(step)
    recon, disc_params, disc_stats = jax.lax.stop_gradient((recon, params["disc"], stats["disc"]))
    (_, features_real), after_real = self._judge(disc_params, disc_stats, x)

    def judged(recon: jax.Array) -> tuple[jax.Array, jax.Array]:
      (logits, features), _ = self._judge(disc_params, after_real, self._judged(recon))
      return losses.generator_loss(w.adversarial, logits), losses.feature_matching(
        features_real, features
      )

    distortion, pull, pieces = jax.vjp(
      lambda r: self._distortion(r, x, frozen), recon, has_aux=True
    )
    (cotangent,) = pull(jnp.ones_like(distortion))
    (gan, matching), pull = jax.vjp(judged, recon)
    if w.feature_weight:
      cotangent += pull((jnp.zeros_like(gan), on * w.feature_weight * jnp.ones_like(matching)))[0]
      pieces["features"] = (matching, on * w.feature_weight)
    (push,) = pull((jnp.ones_like(gan), jnp.zeros_like(matching)))
    scale = (
      self._adaptive_weight(params, intermediates, cotangent, push)
      if w.adaptive == "last_layer"
      else jnp.ones(())
    )
    scale = scale * on * w.adversarial_weight
    pieces["adversarial"] = (gan, scale)
    value = sum(v * s for v, s in pieces.values())
    return jax.lax.stop_gradient(
      (value, cotangent + scale * push, pieces, {"adversarial/scale": scale})
    )

  def _adaptive_weight(
    self, params: Any, intermediates: Any, nll: jax.Array, gan: jax.Array
  ) -> jax.Array:
    layer = params["model"]
    for name in self.model.last_layer:
      layer = layer[name]
    (h,) = _find(intermediates, "last_input")
    grads = (losses.last_layer_gradient(h, layer["kernel"], c) for c in (nll, gan))
    return losses.adaptive_weight(*grads)

  def _discriminator(
    self, params: Any, stats: Any, recon: jax.Array, x: jax.Array, step: jax.Array
  ) -> Any:
    """The discriminator's loss on detached images, new statistics, pieces and metrics."""
    w = self.weights
    on = jnp.ones(()) if w.disc_from == "start" else self._adversarial_on(step)
    fake = jax.lax.stop_gradient(self._judged(recon))
    (logits_real, _), after = self._judge(params["disc"], stats["disc"], x)
    (logits_fake, _), after = self._judge(params["disc"], after, fake)
    pieces = {
      "discriminator": (losses.discriminator_loss(w.adversarial, logits_real, logits_fake), on)
    }
    lecam = stats["lecam"]
    if w.lecam_weight:
      penalty, lecam = losses.lecam(lecam, logits_real, logits_fake)
      pieces["lecam"] = (penalty, on * w.lecam_weight)
    if w.r1_weight:

      def penalty(disc_params: Any) -> jax.Array:
        return losses.r1(lambda image: self._judge(disc_params, stats["disc"], image)[0][0], x)

      r1 = jax.lax.cond(step % w.r1_every == 0, penalty, lambda _: jnp.zeros(()), params["disc"])
      pieces["r1"] = (r1, on * w.r1_weight * w.r1_every)
    metrics = {
      "adversarial/logits_real": jnp.mean(logits_real),
      "adversarial/logits_fake": jnp.mean(logits_fake),
    }
    return (
      sum(v * s for v, s in pieces.values()),
      stats | {"disc": after, "lecam": lecam},
      pieces,
      metrics,
    )

  def model_pass(self, params: Any, stats: Any, frozen: Any, batch: Any) -> jax.Array:
    """The model's own terms, the adversarial one through a discriminator that stands still."""
    x = self._input(batch)
    rngs = {"codes": jax.random.key(0), "dropout": jax.random.key(1)}
    (recon, quantized), _ = self.model.apply(
      {"params": params["model"], **stats["model"]},
      x,
      train=True,
      step=jnp.zeros((), jnp.int32),
      rngs=rngs,
      mutable=list(stats["model"]),
    )
    total = self._distortion(recon, x, frozen)[0] + quantized.loss
    if self.disc is None:
      return total
    (logits, _), _ = self._judge(
      jax.lax.stop_gradient(params["disc"]), stats["disc"], self._judged(recon)
    )
    return total + losses.generator_loss(self.weights.adversarial, logits)

  def disc_pass(self, params: Any, stats: Any, frozen: Any, batch: Any) -> jax.Array:
    """Both images judged, with gradients for the discriminator."""
    x = self._input(batch)
    (real, _), after = self._judge(params["disc"], stats["disc"], x)
    (fake, _), _ = self._judge(params["disc"], after, x[::-1])
    return losses.discriminator_loss(self.weights.adversarial, real, fake)

  def reconstruct(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    """{"image": [B, H, W, C] in [-1, 1], "ids"}, and of label maps "layout": uint8 [B, H, W], whose
    colours the image is.
    """
    del frozen
    recon, quantized = self.model.apply(
      {"params": params["model"], **stats["model"]}, self._input(batch), train=False
    )
    return self._output(recon) | {"ids": quantized.ids}

  def encode(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    del frozen
    x = self._input(batch)
    return {
      "ids": self.model.apply({"params": params["model"], **stats["model"]}, x, method="tokens")
    }

  def decode(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    del frozen
    recon = self.model.apply(
      {"params": params["model"], **stats["model"]}, batch["ids"], method="from_tokens"
    )
    return self._output(recon)

  def preview(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    """Rows of a picture: originals above reconstructions."""
    shown = palette.colours(batch["layout"]) if self.classes else to_float(batch["image"])
    return {"rows": (shown, self.reconstruct(params, stats, frozen, batch)["image"])}


def _split(player: str, variables: Any) -> tuple[dict, dict]:
  variables = dict(flax.core.unfreeze(variables))
  params = variables.pop("params")
  variables.pop("intermediates", None)
  return {player: params}, {player: variables}


def _find(tree: Any, name: str) -> Any:
  """The one entry called `name`, at any depth."""
  found = [v for path, v in flax.traverse_util.flatten_dict(tree).items() if path[-1] == name]
  if len(found) != 1:
    raise ValueError(f"the model sowed {len(found)} values called {name!r}, not one")
  return found[0]
