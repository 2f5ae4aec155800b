"""Stage 1: learn an autoencoder with a quantized latent, with or without a perceptual loss and an adversary."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax.build import build, check_fields
from vqjax.errors import UserError
from vqjax.nn import losses, perceptual
from vqjax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Losses:
  """The terms of stage 1 and their weights (VQGAN, arXiv 2012.09841, unless stated otherwise).

  The adversarial terms count from step `adversarial_start`; the discriminator learns from the first step or from there, by
  `disc_from`. `adaptive="last_layer"` multiplies the adversarial weight by the ratio of the two gradients at the decoder's
  last layer (eq. 7). Feature matching compares the discriminator's activations (arXiv 1512.09300) and needs no download;
  LPIPS (arXiv 1801.03924) needs `perceptual_weights`, the file that `python -m vqjax.convert --source=lpips` writes.
  R1 (arXiv 1801.04406) is taken every `r1_every` steps and scaled to count as if always; LeCAM is arXiv 2104.03310.
  """

  reconstruction: Literal["l1", "l2", "logit_laplace"] = "l2"
  reconstruction_weight: float = 1.0
  perceptual_weight: float = 0.0
  perceptual_weights: str | None = None
  feature_weight: float = 0.0
  adversarial: Literal["hinge", "vanilla", "non_saturating"] = "hinge"
  adversarial_weight: float = 0.8
  adversarial_start: int = 0
  adaptive: Literal["last_layer", "none"] = "last_layer"
  disc_from: Literal["start", "adversarial_start"] = "start"
  lecam_weight: float = 0.0
  r1_weight: float = 0.0
  r1_every: int = 16


def to_float(image: jax.Array) -> jax.Array:
  """uint8 pixels to float32 in [-1, 1]; floats pass."""
  return image.astype(jnp.float32) / 127.5 - 1 if image.dtype == jnp.uint8 else image


def make(config: Mapping[str, Any], spec: Mapping[str, Any]) -> Task:
  """The task for a completed config and a batch's shapes `{name: ShapeDtypeStruct}`.

  Raises:
    UserError: anything in config.model, config.disc or config.loss that does not fit, or image sizes that the model cannot take.
  """
  check_fields(Losses, dict(config["loss"]), "config.loss")
  weights = Losses(**config["loss"])
  channels = spec["image"].shape[-1]
  model = build("autoencoders", config["model"], "config.model", channels=channels,
                out_channels=losses.out_channels(weights.reconstruction, channels))
  disc = build("discriminators", config["disc"], "config.disc") if config["disc"] else None
  _check(weights, disc)
  run = _Autoencode(model, disc, weights)
  return Task(
      init=run.init, loss=run.loss, frozen=run.frozen, frozen_shapes=run.frozen_shapes,
      predict={"reconstruct": run.reconstruct, "encode": run.encode, "decode": run.decode, "preview": run.preview},
      prepare=lambda batch: {"image": batch["image"]},
      passes={"model": run.model_pass} | ({"disc": run.disc_pass} if disc is not None else {}),
      factor=model.factor,
      evaluators=("distortion", "ssim", "codes") if 0 < model.quantizer.codebook_size <= 2**24 else ("distortion", "ssim"),
      known=_codebooks(model, spec["image"].shape[1:3]))


def _codebooks(model: nn.Module, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
  """Sizes and numbers of codebooks per level of the hierarchy."""
  grid = model.grid(*size)
  levels = len(grid) if isinstance(grid[0], tuple) else 1
  quantizer = model.quantizer
  return {"codebook_sizes": (quantizer.codebook_size,) * levels, "num_codebooks": (quantizer.num_codebooks,) * levels}


def _check(weights: Losses, disc: nn.Module | None) -> None:
  if disc is None and (weights.feature_weight or weights.lecam_weight or weights.r1_weight):
    raise UserError("config.disc: feature_weight, lecam_weight and r1_weight need a discriminator; set config.disc, or the weights to 0.")
  if weights.perceptual_weight and not weights.perceptual_weights:
    raise UserError(
        f"config.loss.perceptual_weight: {weights.perceptual_weight} needs LPIPS weights; set config.loss.perceptual_weights "
        "to the file that python -m vqjax.convert --source=lpips writes, or use feature_weight, which needs none.")


@dataclasses.dataclass(frozen=True)
class _Autoencode:
  """The task's functions over the modules that the config names."""

  model: nn.Module
  disc: nn.Module | None
  weights: Losses

  def init(self, key: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[Any, Any]:
    x = to_float(batch["image"])
    key_model, key_disc, key_codes = jax.random.split(key, 3)
    variables = self.model.init({"params": key_model, "codes": key_codes}, x, train=False)
    players, stats = _split("model", variables)
    if self.disc is not None:
      disc_params, disc_stats = _split("disc", self.disc.init(key_disc, x, train=False))
      players |= disc_params
      stats |= disc_stats | {"lecam": losses.lecam_averages()}
    return players, stats

  def frozen(self) -> Any:
    return {"perceptual": perceptual.load(self.weights.perceptual_weights)} if self.weights.perceptual_weight else {}

  def frozen_shapes(self) -> Any:
    shapes = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in perceptual.shapes().items()}
    return {"perceptual": shapes} if self.weights.perceptual_weight else {}

  def loss(self, params: Any, stats: Any, frozen: Any, batch: Any, key: jax.Array, step: jax.Array) -> Any:
    x = to_float(batch["image"])
    rngs = {name: jax.random.fold_in(key, i) for i, name in enumerate(("codes", "dropout"))}
    (recon, quantized), new = self.model.apply(
        {"params": params["model"], **stats["model"]}, x, train=True, step=step, rngs=rngs,
        mutable=[*stats["model"], "intermediates"])
    intermediates = new.pop("intermediates")
    stats = stats | {"model": new}
    terms = _Terms()
    terms.add("quantizer", quantized.loss, 1.0)
    metrics = {f"codes/{k}": v for k, v in quantized.metrics.items()}
    if self.disc is None:
      total, pieces = self._distortion(recon, x, frozen)
      terms.update(pieces)
      return quantized.loss + total, (stats, metrics | terms.metrics())
    generator, cotangent, pieces, more = self._generator(params, stats, frozen, recon, intermediates, x, step)
    disc_loss, stats, disc_pieces, logits = self._discriminator(params, stats, recon, x, step)
    terms.update(pieces | disc_pieces)
    # The gradients at the reconstruction are known, so one product carries them into the model; its value is taken off again.
    carrier = jnp.sum(recon * cotangent)
    total = quantized.loss + generator + carrier - jax.lax.stop_gradient(carrier) + disc_loss
    return total, (stats, metrics | more | logits | terms.metrics())

  def _distortion(self, recon: jax.Array, x: jax.Array, frozen: Any) -> tuple[jax.Array, dict]:
    w = self.weights
    pieces = {"reconstruction": (losses.reconstruction(w.reconstruction, recon, x), w.reconstruction_weight)}
    if w.perceptual_weight:
      distance = jnp.mean(perceptual.lpips(frozen["perceptual"], x, self._judged(recon), dtype=self.model.dtype))
      pieces["perceptual"] = (distance, w.perceptual_weight)
    return sum(value * weight for value, weight in pieces.values()), pieces

  def _judged(self, recon: jax.Array) -> jax.Array:
    """The image that the perceptual loss and the discriminator see. A plain image is not clipped: all its pixels keep a gradient."""
    return losses.to_image("logit_laplace", recon) if self.weights.reconstruction == "logit_laplace" else recon

  def _adversarial_on(self, step: jax.Array) -> jax.Array:
    return jnp.where(step >= self.weights.adversarial_start, 1.0, 0.0)

  def _judge(self, params: Any, stats: Any, image: jax.Array) -> tuple[Any, Any]:
    """The discriminator in training mode: ((logits, features), its new statistics)."""
    return self.disc.apply({"params": params, **stats}, image, train=True, mutable=list(stats))

  def _generator(self, params: Any, stats: Any, frozen: Any, recon: jax.Array, intermediates: Any, x: jax.Array, step: jax.Array) -> Any:
    """Value of the model's terms and their gradient at the reconstruction, each term's backward pass run once.

    Returns (value, cotangent like recon, pieces, metrics). Nothing here is differentiated again: everything comes detached.
    """
    w, on = self.weights, self._adversarial_on(step)
    recon, disc_params, disc_stats = jax.lax.stop_gradient((recon, params["disc"], stats["disc"]))
    (_, features_real), after_real = self._judge(disc_params, disc_stats, x)

    def judged(recon: jax.Array) -> tuple[jax.Array, jax.Array]:
      (logits, features), _ = self._judge(disc_params, after_real, self._judged(recon))
      return losses.generator_loss(w.adversarial, logits), losses.feature_matching(features_real, features)

    distortion, pull, pieces = jax.vjp(lambda r: self._distortion(r, x, frozen), recon, has_aux=True)
    (cotangent,) = pull(jnp.ones_like(distortion))
    (gan, matching), pull = jax.vjp(judged, recon)
    if w.feature_weight:
      cotangent += pull((jnp.zeros_like(gan), on * w.feature_weight * jnp.ones_like(matching)))[0]
      pieces["features"] = (matching, on * w.feature_weight)
    (push,) = pull((jnp.ones_like(gan), jnp.zeros_like(matching)))
    scale = self._adaptive_weight(params, intermediates, cotangent, push) if w.adaptive == "last_layer" else jnp.ones(())
    scale = scale * on * w.adversarial_weight
    pieces["adversarial"] = (gan, scale)
    value = sum(v * s for v, s in pieces.values())
    return jax.lax.stop_gradient((value, cotangent + scale * push, pieces, {"adversarial/scale": scale}))

  def _adaptive_weight(self, params: Any, intermediates: Any, nll: jax.Array, gan: jax.Array) -> jax.Array:
    layer = params["model"]
    for name in self.model.last_layer:
      layer = layer[name]
    (h,) = _find(intermediates, "last_input")
    grads = (losses.last_layer_gradient(h, layer["kernel"], c) for c in (nll, gan))
    return losses.adaptive_weight(*grads)

  def _discriminator(self, params: Any, stats: Any, recon: jax.Array, x: jax.Array, step: jax.Array) -> Any:
    """The discriminator's loss on detached images, new statistics, pieces and metrics."""
    w = self.weights
    on = jnp.ones(()) if w.disc_from == "start" else self._adversarial_on(step)
    fake = jax.lax.stop_gradient(self._judged(recon))
    (logits_real, _), after = self._judge(params["disc"], stats["disc"], x)
    (logits_fake, _), after = self._judge(params["disc"], after, fake)
    pieces = {"discriminator": (losses.discriminator_loss(w.adversarial, logits_real, logits_fake), on)}
    lecam = stats["lecam"]
    if w.lecam_weight:
      penalty, lecam = losses.lecam(lecam, logits_real, logits_fake)
      pieces["lecam"] = (penalty, on * w.lecam_weight)
    if w.r1_weight:
      def penalty(disc_params: Any) -> jax.Array:
        return losses.r1(lambda image: self._judge(disc_params, stats["disc"], image)[0][0], x)
      r1 = jax.lax.cond(step % w.r1_every == 0, penalty, lambda _: jnp.zeros(()), params["disc"])
      pieces["r1"] = (r1, on * w.r1_weight * w.r1_every)
    metrics = {"adversarial/logits_real": jnp.mean(logits_real), "adversarial/logits_fake": jnp.mean(logits_fake)}
    return sum(v * s for v, s in pieces.values()), stats | {"disc": after, "lecam": lecam}, pieces, metrics

  def model_pass(self, params: Any, stats: Any, frozen: Any, batch: Any) -> jax.Array:
    """The model's own terms, the adversarial one through a discriminator that stands still."""
    x = to_float(batch["image"])
    rngs = {"codes": jax.random.key(0), "dropout": jax.random.key(1)}
    (recon, quantized), _ = self.model.apply(
        {"params": params["model"], **stats["model"]}, x, train=True, step=jnp.zeros((), jnp.int32), rngs=rngs, mutable=list(stats["model"]))
    total = self._distortion(recon, x, frozen)[0] + quantized.loss
    if self.disc is None:
      return total
    (logits, _), _ = self._judge(jax.lax.stop_gradient(params["disc"]), stats["disc"], self._judged(recon))
    return total + losses.generator_loss(self.weights.adversarial, logits)

  def disc_pass(self, params: Any, stats: Any, frozen: Any, batch: Any) -> jax.Array:
    """Both images judged, with gradients for the discriminator."""
    x = to_float(batch["image"])
    (real, _), after = self._judge(params["disc"], stats["disc"], x)
    (fake, _), _ = self._judge(params["disc"], after, x[::-1])
    return losses.discriminator_loss(self.weights.adversarial, real, fake)

  def reconstruct(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    """{"image": [B, H, W, C] in [-1, 1], "ids"}."""
    del frozen
    recon, quantized = self.model.apply({"params": params["model"], **stats["model"]}, to_float(batch["image"]), train=False)
    return {"image": losses.to_image(self.weights.reconstruction, recon), "ids": quantized.ids}

  def encode(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    del frozen
    x = to_float(batch["image"])
    return {"ids": self.model.apply({"params": params["model"], **stats["model"]}, x, method="tokens")}

  def decode(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    del frozen
    recon = self.model.apply({"params": params["model"], **stats["model"]}, batch["ids"], method="from_tokens")
    return {"image": losses.to_image(self.weights.reconstruction, recon)}

  def preview(self, params: Any, stats: Any, frozen: Any, batch: Any) -> dict[str, Any]:
    """Rows of a picture: originals above reconstructions."""
    return {"rows": (to_float(batch["image"]), self.reconstruct(params, stats, frozen, batch)["image"])}


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


class _Terms:
  """Collects loss terms under their names, for the log: loss/<term> is weighted, raw/<term> is not."""

  def __init__(self) -> None:
    self._pieces: dict[str, tuple[Any, Any]] = {}

  def add(self, name: str, value: Any, weight: Any) -> None:
    self._pieces[name] = (value, weight)

  def update(self, pieces: Mapping[str, tuple[Any, Any]]) -> None:
    self._pieces |= pieces

  def metrics(self) -> dict[str, jax.Array]:
    weighted = {f"loss/{k}": v * w for k, (v, w) in self._pieces.items()}
    return weighted | {f"raw/{k}": v for k, (v, _) in self._pieces.items() if k != "quantizer"}
