"""Likelihood: what a prior says of held-out codes, in nats per code and bits per pixel-dimension,
and where it is unsure.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import fields


@dataclasses.dataclass(frozen=True)
class Measure:
  """ "nats_per_code", its standard error, "bits_per_dim" and "bits_per_image"; "nats_at/i" is the
  mean at position i; "nats_per_text_token" that over the tokens of all captions, where the prior
  predicts these too.

  Bits per dimension spread the codes' bits over the image's H·W·C values; they say what the codes
  cost, not the pixels that the tokenizer loses.

  Attributes:
    values: H·W·C of one image; set by the program.
  """

  values: int = fields.program(0)

  needs: ClassVar[str] = "likelihood"
  reduction: ClassVar[str] = "sum"
  protocol: ClassVar[str] = (
    "-log p of the codes of each image, exact for autoregressive priors, else one draw of the "
    "variational bound"
  )

  def frozen(self) -> tuple[()]:
    """No weights."""
    return ()

  def update(
    self, frozen: Any, batch: dict[str, Any], out: dict[str, Any], mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Sums over images of nats [L], and of the square of each image's total."""
    nats_BL = jnp.where((mask != 0)[:, None], out["nats"], 0.0)
    per_code_B = nats_BL.mean(-1)
    return {
      "images": (mask != 0).sum(dtype=jnp.int32),
      "nats": nats_BL.sum(0),
      "squares": jnp.square(per_code_B).sum(),
    } | _of_prefix(out.get("prefix", {}), mask)

  def result(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over images, see the class."""
    images = float(sums["images"])
    at = sums["nats"] / images
    mean = float(at.mean())
    variance = max(0.0, float(sums["squares"]) / images - mean**2)
    bits = float(at.sum() / np.log(2))
    figures = {
      "nats_per_code": mean,
      "standard_error": float(np.sqrt(variance / images)),
      "bits_per_image": bits,
    }
    if self.values:
      figures["bits_per_dim"] = bits / self.values
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
