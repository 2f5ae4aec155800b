"""The terms of stage 1: their names and weights, which go together, and their log."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
from flax import linen as nn

from vqjax import checks, fields
from vqjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Losses:
  """The terms of stage 1 and their weights (VQGAN, arXiv 2012.09841, unless stated otherwise).

  The adversarial terms count from step `adversarial_start`; the discriminator learns from the first
  step or from there, by `disc_from`. `adaptive="last_layer"` multiplies the adversarial weight by
  the ratio of the two gradients at the decoder's last layer (eq. 7). Feature matching compares the
  discriminator's activations (arXiv 1512.09300) and needs no download; LPIPS (arXiv 1801.03924)
  needs `perceptual_weights`, the file that `python -m vqjax.convert --source=lpips` writes. R1
  (arXiv 1801.04406) is taken every `r1_every` steps and scaled to count as if always; LeCAM is
  arXiv 2104.03310.

  `equivariance_weight` asks that turned and shrunk latents decode to turned and shrunk pictures
  (EQ-VAE, arXiv 2502.09509): it smooths what a prior over floats has to learn.

  `reconstruction` is one of the signal's likelihoods, `distances` are the weights of any of its
  further distances by name, see vqjax/signals.
  """

  reconstruction: str = "l2"
  reconstruction_weight: float = 1.0
  distances: dict = dataclasses.field(default_factory=dict, hash=False)
  perceptual_weight: float = 0.0
  perceptual_weights: str | None = fields.place(None)
  equivariance_weight: float = 0.0
  feature_weight: float = 0.0
  adversarial: Literal["hinge", "vanilla", "non_saturating", "least_squares"] = "hinge"
  adversarial_weight: float = 0.8
  adversarial_start: int = 0
  adaptive: Literal["last_layer", "none"] = "last_layer"
  disc_from: Literal["start", "adversarial_start"] = "start"
  lecam_weight: float = 0.0
  r1_weight: float = 0.0
  r1_every: int = 16

  def __post_init__(self) -> None:
    weights = (f.name for f in dataclasses.fields(self) if f.name.endswith("_weight"))
    checks.within(self, *weights, "adversarial_start", at_least=0)
    checks.positive(self, "r1_every")
    for name, weight in self.distances.items():
      if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight:
        raise UserError(f"distances.{name}: {weight!r} is no weight; give a number from 0 up.")


def check(weights: Losses, disc: nn.Module | None, signal: Any, model: nn.Module) -> None:
  """Raises UserError for terms that lack what they need, or that cannot judge the signal."""
  if weights.equivariance_weight and (signal.axes != 2 or not hasattr(model, "latents")):
    raise UserError(
      "config.loss.equivariance_weight: turns one grid of latents, of height and width; set it to "
      "0 for hierarchies and for signals of other axes."
    )
  wanted = {"discriminator": disc is not None, "perceptual": bool(weights.perceptual_weight)}
  if any(asked and who not in signal.judges for who, asked in wanted.items()):
    raise UserError(
      f"config.signal.name: {signal.field!r} is nothing that a discriminator or a perceptual loss "
      "judges; set config.disc=None and config.loss.perceptual_weight=0."
      if not signal.judges
      else f"config.loss.perceptual_weight: LPIPS judges no {signal.noun}; set it to 0."
    )
  for name in weights.distances.keys() - signal.distances.keys():
    known = ", ".join(signal.distances) or "none"
    raise UserError(
      f"config.loss.distances.{name}: is nothing that compares {signal.noun}s; there is {known}."
    )
  if disc is not None and weights.adaptive == "last_layer" and model.last_layer is None:
    raise UserError(
      "config.loss.adaptive: 'last_layer' needs a last layer that is linear, which this "
      "autoencoder has not; set it to 'none'."
    )
  if disc is None and (weights.feature_weight or weights.lecam_weight or weights.r1_weight):
    raise UserError(
      "config.disc: feature_weight, lecam_weight and r1_weight need a discriminator; set "
      "config.disc, or the weights to 0."
    )
  if weights.perceptual_weight and not weights.perceptual_weights:
    raise UserError(
      f"config.loss.perceptual_weight: {weights.perceptual_weight} needs LPIPS weights; set "
      "config.loss.perceptual_weights to the file that python -m vqjax.convert --source=lpips "
      "writes, or use feature_weight, which needs none."
    )


class Terms:
  """Collects loss terms by name for the log: loss/<term> is weighted, raw/<term> is not."""

  def __init__(self) -> None:
    self._pieces: dict[str, tuple[Any, Any]] = {}

  def add(self, name: str, value: Any, weight: Any) -> None:
    self._pieces[name] = (value, weight)

  def update(self, pieces: Mapping[str, tuple[Any, Any]]) -> None:
    self._pieces |= pieces

  def metrics(self) -> dict[str, jax.Array]:
    weighted = {f"loss/{k}": v * w for k, (v, w) in self._pieces.items()}
    return weighted | {f"raw/{k}": v for k, (v, _) in self._pieces.items() if k != "quantizer"}
