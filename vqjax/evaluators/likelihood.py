"""Likelihood: what a prior says of held-out latents, in nats per position and bits per dimension,
and where it is unsure.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import fields
from vqjax.evaluators import _pixels


@dataclasses.dataclass(frozen=True)
class Measure:
  """Of codes "nats_per_code", "bits_per_dim" and "bits_per_image"; "nats_at/i" is the mean at
  position i; "nats_per_text_token" that over the tokens of all captions, where the prior predicts
  these too.

  Bits per dimension spread the codes' bits over the image's H·W·C values; they say what the codes
  cost, not the pixels that the tokenizer loses.

  Of floats "nats_per_vector", and "bits_per_latent_dim" over their own channels: minus the log of
  a density, by the probability-flow ODE; it may be negative, and does not compare with codes'.

  Standard errors are by how the images' totals vary, so that they hold the noise of a bound's draws
  too. They are too large rather than too small where draws are spread evenly over a batch (masked).

  Attributes:
    values: H·W·C of one image; set by the program.
    amount: what bits are told of ("bits_per_second" for sound), and how much of it is in an
      example; set by the program.
    latent: what the prior learns; set by the program.
    exact: whether the nats are -log p or bound it from above; set by the program.
  """

  values: int = fields.program(0)
  amount: tuple[str, float] = fields.program(("image", 1.0))
  latent: Any = fields.program(None)
  exact: bool = fields.program(False)

  needs: ClassVar[str] = "likelihood"
  reduction: ClassVar[str] = "sum"

  @property
  def protocol(self) -> str:
    """Whether the figures are exact or a bound."""
    if self._floats:
      return (
        "-log of the density of each image's latents, in the tokenizer's own units, by the "
        "probability-flow ODE with one Hutchinson probe per image"
      )
    of = "-log p of the codes of each image"
    return f"{of}, exact" if self.exact else f"upper bound on {of}, one draw of it per image"

  @property
  def _floats(self) -> bool:
    return self.latent is not None and self.latent.kind == "floats"

  def update(
    self, frozen: Any, batch: dict[str, Any], out: dict[str, Any], mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Sums over images of nats [L], and of the square of each image's total."""
    squares_B = jnp.square(out["nats"].mean(-1))
    sums = _pixels.masked_sums(mask, nats=out["nats"], squares=squares_B)
    return sums | _of_prefix(out.get("prefix", {}), mask)

  def result(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over images, see the class."""
    images = float(sums["images"])
    at = sums["nats"] / images
    mean = float(at.mean())
    variance = max(0.0, float(sums["squares"]) / images - mean**2)
    error = float(np.sqrt(variance / max(1.0, images - 1)))
    unit, amount = self.amount
    bits = at.size / float(np.log(2))  # of an image, for each nat per code
    if self._floats:
      bits /= at.size * self.latent.width
      figures = {
        "nats_per_vector": mean,
        "nats_per_vector_standard_error": error,
        "bits_per_latent_dim": mean * bits,
        "bits_per_latent_dim_standard_error": error * bits,
      }
      return figures | {f"nats_at/{i}": float(v) for i, v in enumerate(at)}
    figures = {
      "nats_per_code": mean,
      "nats_per_code_standard_error": error,
      f"bits_per_{unit}": mean * bits / amount,
    }
    if self.values:
      figures["bits_per_dim"] = mean * bits / self.values
      figures["bits_per_dim_standard_error"] = error * bits / self.values
    for key in sums:
      if key.startswith("prefix/"):
        name = key.removeprefix("prefix/")
        count = max(1.0, float(sums[f"tokens/{name}"]))
        figures[f"nats_per_{name}_token"] = float(sums[key]) / count
    return figures | {f"nats_at/{i}": float(v) for i, v in enumerate(at)}


def _of_prefix(found: dict[str, Any], mask: jax.Array) -> dict[str, jax.Array]:
  """Sums of nats and numbers of tokens of each condition that is predicted."""
  sums = {}
  for name, (nats_BP, counted_BP) in found.items():
    counted_BP = counted_BP & (mask != 0)[:, None]
    sums[f"prefix/{name}"] = jnp.where(counted_BP, nats_BP, 0.0).sum()
    sums[f"tokens/{name}"] = counted_BP.sum(dtype=jnp.int32)
  return sums
