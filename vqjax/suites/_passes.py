"""Each player's forward and backward pass and no more: what a step's FLOPs are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vqjax.nn import losses
from vqjax.tasks.autoencode import Autoencode


def passes(run: Autoencode) -> dict[str, Callable[..., jax.Array]]:
  """{player: fn(params, stats, frozen, batch) -> scalar}, whose gradients are the passes."""

  def model(params: Any, stats: Any, frozen: Any, batch: Any) -> jax.Array:
    """The model's own terms, the adversarial one through a discriminator that stands still."""
    x = run.input(batch)
    (recon, quantized), _ = run.model.apply(
      {"params": params["model"], **stats["model"]},
      x,
      train=True,
      step=jnp.zeros((), jnp.int32),
      rngs={"codes": jax.random.key(0), "dropout": jax.random.key(1)},
      mutable=list(stats["model"]),
    )
    total = run.distortion(recon, x, frozen)[0] + quantized.loss
    if run.disc is None:
      return total
    still = jax.lax.stop_gradient(params["disc"])
    (logits, _), _ = run.judge(still, stats["disc"], run.judged(recon))
    return total + losses.generator_loss(run.weights.adversarial, logits)

  def disc(params: Any, stats: Any, frozen: Any, batch: Any) -> jax.Array:
    """Both images judged, with gradients for the discriminator."""
    del frozen
    x = run.input(batch)
    (real, _), after = run.judge(params["disc"], stats["disc"], x)
    (fake, _), _ = run.judge(params["disc"], after, x[::-1])
    return losses.discriminator_loss(run.weights.adversarial, real, fake)

  return {"model": model} if run.disc is None else {"model": model, "disc": disc}
