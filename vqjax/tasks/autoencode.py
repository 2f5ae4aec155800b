"""Stage 1: learn an autoencoder with a quantized latent, with or without an adversary."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

from vqjax import fields
from vqjax.build import build, make as make_record, member, names
from vqjax.errors import UserError, near_miss
from vqjax.latents import Codes, Floats
from vqjax.nn import book, losses, perceptual
from vqjax.signals import Likelihood
from vqjax.tasks import Frozen, Info, Task, Weights, _equivariance, _loss_terms as loss_terms, need

# A histogram of more codes is too large to count them all.
_COUNTABLE = 2**24


@dataclasses.dataclass(frozen=True)
class Fields:
  """What a config of this task holds beside vqjax.config.Common."""

  signal: dict = fields.member("signals", {"name": "image"})  # what is learned
  model: dict = fields.member("autoencoders", {})
  disc: dict | None = fields.member("discriminators", None)  # None trains without an adversary
  loss: dict = fields.record("tasks._loss_terms.Losses")
  optim_disc: dict | None = fields.record("optim.Optimizer", None)  # where it differs from optim


def signal_of(config: Mapping[str, Any]) -> Any:
  """The signal of a completed config; what the ops decide (a rate) is taken from them.

  Raises UserError where the ops are those of another kind of signal.
  """
  name, ops = config["signal"]["name"], config["ops"]["name"]
  field, treated = member("signals", name).field, member("data.ops", ops).fields
  if field not in treated:
    fitting = [other for other in names("data.ops") if field in member("data.ops", other).fields]
    raise UserError(
      f"config.ops.name: {ops!r} is for {' and '.join(treated)}, not for the {field} that "
      f"config.signal.name={name} learns; set config.ops.name={' or '.join(fitting)}."
    )
  return build("signals", config["signal"], "config.signal", **config["ops"])


def spec(config: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
  """{field: (shape, dtype)} of one example, as config.ops make it."""
  signal = signal_of(config)
  return {signal.field: signal.spec(config["ops"])}


def make(config: Mapping[str, Any], spec: Mapping[str, Any]) -> Task:
  """The task for a completed config and a batch's shapes `{name: ShapeDtypeStruct}`.

  Raises:
    UserError: anything in config.signal, config.model, config.disc or config.loss that does not
      fit, or sizes that the model cannot take.
  """
  signal = signal_of(config)
  if signal.field not in spec:
    raise UserError(
      f"config.signal.name: {config['signal']['name']!r} learns the data's {signal.field}, but "
      f"they yield {', '.join(spec)}. Use other data, or another signal."
    )
  shape = tuple(spec[signal.field].shape[1:])
  weights = make_record(loss_terms.Losses, config["loss"], "config.loss")
  likelihood = _likelihood(signal, weights.reconstruction)
  channels = signal.channels(shape)
  sizes = dict(axes=signal.axes, channels=channels, out_channels=channels * likelihood.outputs)
  model = build("autoencoders", config["model"], "config.model", **sizes)
  disc = None
  if config["disc"]:
    disc = build("discriminators", config["disc"], "config.disc", axes=signal.axes)
  loss_terms.check(weights, disc, signal, model)
  run = Autoencode(signal, likelihood, model, disc, weights)
  codes, floats = _levels(model, shape[: signal.axes])
  measures = ("codes",) if codes and codes[0].size <= _COUNTABLE else ()
  return Task(
    init=run.init,
    loss=run.loss,
    predict={
      "reconstruct": run.reconstruct,
      "encode": run.encode,
      "decode": run.decode,
      "latents": run.latents,
      "drawn_latents": run.drawn_latents,
      "preview": run.preview,
    },
    prepare=run.prepare,
    info=Info(
      signal=signal,
      shape=shape,
      factors=model.factors,
      levels=codes or floats,
      floats=floats,
      evaluators=(*signal.measures, *measures),
      pictures=run.pictures,
      modules=run,
    ),
    frozen=Frozen(run.frozen, run.frozen_shapes, predicted=False),
    early=((weights.adversarial_start, functools.partial(run.loss, early=True)) if disc else None),
    restart=lambda average, *step: book.restart(average, *(tree["model"] for tree in step)),
  )


def _likelihood(signal: Any, name: str) -> Likelihood:
  if name not in signal.likelihoods:
    raise UserError(
      f"config.loss.reconstruction: {name!r} is no loss of the signal {signal.field!r}."
      f"{near_miss(name, signal.likelihoods)}"
    )
  return signal.likelihoods[name]


def _levels(
  model: nn.Module, size: tuple[int, ...]
) -> tuple[tuple[Codes, ...], tuple[Floats, ...]]:
  """The codes of every level of the hierarchy, coarse first, and the floats before the quantizer;
  () where there are none.
  """
  grids, quantizer = model.grid(*size), model.quantizer
  grids = grids if isinstance(grids[0], tuple) else (grids,)
  codes = (quantizer.codebook_size, quantizer.num_codebooks)
  return (
    tuple(Codes(grid, *codes) for grid in grids) if quantizer.codebook_size else (),
    (Floats(grids[0], model.latents_width),) if hasattr(model, "latents") else (),
  )


@dataclasses.dataclass(frozen=True)
class Autoencode:
  """The task's functions over the modules that the config names."""

  signal: Any
  likelihood: Likelihood
  model: nn.Module
  disc: nn.Module | None
  weights: loss_terms.Losses

  def prepare(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    return {self.signal.field: self.signal.prepare(need(batch, self.signal.field))}

  def input(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """What the model reads, float32 [B, *size, channels]."""
    return self.signal.read(batch[self.signal.field])

  def output(self, recon: jax.Array) -> dict[str, jax.Array]:
    return {self.signal.field: self.signal.write(self.likelihood.mean(recon))}

  def init(self, key: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[Any, Any]:
    x = self.input(batch)
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
    self,
    params: Any,
    stats: Any,
    frozen: Any,
    batch: Any,
    key: jax.Array,
    step: jax.Array,
    early: bool = False,
  ) -> Any:
    """`early` is for steps before `adversarial_start`: the same, without computing what counts
    nothing yet.
    """
    x = self.input(batch)
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
    beside = quantized.loss
    if self.weights.equivariance_weight:
      variables = {"params": params["model"], **stats["model"]}
      value = self.equivariance(variables, frozen, quantized.z, x, jax.random.fold_in(key, 2))
      terms.add("equivariance", value, self.weights.equivariance_weight)
      beside += self.weights.equivariance_weight * value
    if self.disc is None or early:
      total, pieces = self.distortion(recon, x, frozen)
    else:
      total, cotangent, pieces, more = self._generator(
        params, stats, frozen, recon, intermediates, x, step
      )
      metrics |= more
      # The gradients at the reconstruction are known, so one product carries them into the model;
      # its value is taken off again.
      carrier = jnp.sum(recon * cotangent)
      total += carrier - jax.lax.stop_gradient(carrier)
    terms.update(pieces)
    if self.disc is not None and not (early and self.weights.disc_from != "start"):
      disc_loss, stats, pieces, logits = self._discriminator(params, stats, recon, x, step)
      terms.update(pieces)
      metrics |= logits
      total += disc_loss
    return beside + total, (stats, metrics | terms.metrics())

  def distortion(self, recon: jax.Array, x: jax.Array, frozen: Any) -> tuple[jax.Array, dict]:
    w = self.weights
    pieces = {"reconstruction": (self.likelihood.loss(recon, x), w.reconstruction_weight)}
    for name, weight in w.distances.items():
      pieces[name] = (self.signal.distances[name](x, self.judged(recon)), weight)
    if w.perceptual_weight:
      distance = jnp.mean(
        perceptual.lpips(frozen["perceptual"], x, self.judged(recon), dtype=self.model.dtype)
      )
      pieces["perceptual"] = (distance, w.perceptual_weight)
    return sum(value * weight for value, weight in pieces.values()), pieces

  def equivariance(
    self, variables: Any, frozen: Any, z: jax.Array, x: jax.Array, key: jax.Array
  ) -> jax.Array:
    """The distortion of latents that are turned and shrunk as the signal is, see _equivariance."""

    def compare(z: jax.Array, x: jax.Array) -> jax.Array:
      return self.distortion(self.model.apply(variables, z, method="decode"), x, frozen)[0]

    return _equivariance.loss(key, z, x, compare)

  def judged(self, recon: jax.Array) -> jax.Array:
    """What the perceptual loss and the discriminator see.

    Not clipped: all pixels keep a gradient.
    """
    return self.likelihood.mean(recon)

  def _adversarial_on(self, step: jax.Array) -> jax.Array:
    return jnp.where(step >= self.weights.adversarial_start, 1.0, 0.0)

  def judge(self, params: Any, stats: Any, image: jax.Array) -> tuple[Any, Any]:
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
    """Value of the model's terms and their gradient at the reconstruction.

    Returns (value, cotangent like recon, pieces, metrics). Nothing here is differentiated again:
    everything comes detached.
    """
    w, on = self.weights, self._adversarial_on(step)
    recon, disc_params, disc_stats = jax.lax.stop_gradient((recon, params["disc"], stats["disc"]))
    (_, features_real), after_real = self.judge(disc_params, disc_stats, x)

    def judge(recon: jax.Array) -> tuple[Any, Any]:
      return self.judge(disc_params, after_real, self.judged(recon))[0]

    def nll(recon: jax.Array, features: Any) -> tuple[jax.Array, dict]:
      value, pieces = self.distortion(recon, x, frozen)
      if w.feature_weight:
        matching, weight = losses.feature_matching(features_real, features), on * w.feature_weight
        value, pieces = value + matching * weight, pieces | {"features": (matching, weight)}
      return value, pieces

    def gan(logits: Any) -> jax.Array:
      return losses.generator_loss(w.adversarial, logits)

    def all_terms(recon: jax.Array) -> tuple[jax.Array, Any]:
      logits, features = judge(recon)
      (value, pieces), adversarial = nll(recon, features), gan(logits)
      return value + adversarial * scale, pieces | {"adversarial": (adversarial, scale)}

    scale = on * w.adversarial_weight
    if w.adaptive == "last_layer":
      both = jax.value_and_grad(lambda r: nll(r, judge(r)[1]), has_aux=True)
      (value, pieces), cotangent = both(recon)
      adversarial, push = jax.value_and_grad(lambda r: gan(judge(r)[0]))(recon)
      scale *= self._adaptive_weight(params, intermediates, cotangent, push)
      value, cotangent = value + adversarial * scale, cotangent + scale * push
      pieces |= {"adversarial": (adversarial, scale)}
    else:  # one pass back through the discriminator is enough
      (value, pieces), cotangent = jax.value_and_grad(all_terms, has_aux=True)(recon)
    return jax.lax.stop_gradient((value, cotangent, pieces, {"adversarial/scale": scale}))

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
    fake = jax.lax.stop_gradient(self.judged(recon))
    (logits_real, _), after = self.judge(params["disc"], stats["disc"], x)
    (logits_fake, _), after = self.judge(params["disc"], after, fake)
    pieces = {
      "discriminator": (losses.discriminator_loss(w.adversarial, logits_real, logits_fake), on)
    }
    lecam = stats["lecam"]
    if w.lecam_weight:
      penalty, lecam = losses.lecam(lecam, logits_real, logits_fake)
      pieces["lecam"] = (penalty, on * w.lecam_weight)
    if w.r1_weight:

      def penalty(disc_params: Any) -> jax.Array:
        return losses.r1(lambda image: self.judge(disc_params, stats["disc"], image)[0][0], x)

      r1 = jax.lax.cond(step % w.r1_every == 0, penalty, lambda _: jnp.zeros(()), params["disc"])
      pieces["r1"] = (r1, on * w.r1_weight * w.r1_every)
    metrics = {
      "adversarial/logits_real": losses.over_judges(jnp.mean, logits_real),
      "adversarial/logits_fake": losses.over_judges(jnp.mean, logits_fake),
    }
    return (
      sum(v * s for v, s in pieces.values()),
      stats | {"disc": after, "lecam": lecam},
      pieces,
      metrics,
    )

  def variables(self, weights: Weights) -> dict[str, Any]:
    return {"params": weights.params["model"], **weights.stats["model"]}

  def reconstruct(self, weights: Weights, batch: Any, key: jax.Array) -> dict[str, Any]:
    """{field of the signal: values, "ids"}."""
    del key
    recon, quantized = self.model.apply(self.variables(weights), self.input(batch), train=False)
    return self.output(recon) | {"ids": quantized.ids}

  def encode(self, weights: Weights, batch: Any, key: jax.Array | None = None) -> dict[str, Any]:
    """{"ids"}, of a hierarchy a tuple, coarse first; without codes as `latents`."""
    if not self.model.quantizer.codebook_size:
      return self.latents(weights, batch)
    x = self.input(batch)
    return {"ids": self.model.apply(self.variables(weights), x, method="tokens")}

  def decode(self, weights: Weights, batch: Any, key: jax.Array | None = None) -> dict[str, Any]:
    """{field of the signal: values} of batch["ids"] or batch["latents"]."""
    del key
    name, method = ("ids", "from_tokens") if "ids" in batch else ("latents", "from_latents")
    return self.output(self.model.apply(self.variables(weights), batch[name], method=method))

  def latents(self, weights: Weights, batch: Any, key: jax.Array | None = None) -> dict[str, Any]:
    """{"latents"}: floats before the quantizer, of a posterior the mean."""
    del key
    x = self.input(batch)
    return {"latents": self.model.apply(self.variables(weights), x, method="latents")}

  def drawn_latents(self, weights: Weights, batch: Any, key: jax.Array) -> dict[str, Any]:
    """{"latents"}: the same, of a posterior a sample."""
    x, draw = self.input(batch), dict(draw=True, rngs={"codes": key})
    return {"latents": self.model.apply(self.variables(weights), x, method="latents", **draw)}

  def preview(self, weights: Weights, batch: Any, key: jax.Array) -> dict[str, Any]:
    return {"reconstruction": self.reconstruct(weights, batch, key)[self.signal.field]}

  def pictures(self, batch: Any, out: Any) -> tuple[Any, Any]:
    """Originals above reconstructions."""
    shown = (batch[self.signal.field], out["reconstruction"])
    return tuple(self.signal.pictures(values) for values in shown)


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
