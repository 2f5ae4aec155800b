"""Codes: how much of the codebook a whole split uses, and what an image's codes cost in bits."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqjax import fields
from vqjax.errors import UserError
from vqjax.latents import Codes

_LARGEST = 2**24


@dataclasses.dataclass(frozen=True)
class Measure:
  """Usage and perplexity from the exact histogram of all codes of the split.

  - "usage": share of the codes that occur, over all codebooks together;
  - "perplexity": exp of the histogram's entropy, mean over codebooks;
  - "bits_per_image": codes per image times log2 K, what storing them plainly costs; of other
    signals per what `amount` names ("bits_per_second");
  - "entropy_bits_per_image": codes per image times the entropy, a bound for any code that treats
    positions alike and independently.

  With several codebooks, "codes/level.book/usage" and "codes/level.book/perplexity" give each.

  Attributes:
    levels: the latents of the tokenizer, coarse first; set by the program.
    amount: what bits are told of, and how much of it is in an example; set by the program.
  """

  levels: tuple[Codes, ...] = fields.program(())
  amount: tuple[str, float] = fields.program(("image", 1.0))

  needs: ClassVar[str] = "reconstruct"
  reduction: ClassVar[str] = "sum"
  protocol: ClassVar[str] = "one histogram of codes per codebook over all images of the split"

  def __post_init__(self) -> None:
    if any(latent.kind != "codes" for latent in self.levels):
      raise UserError("measure 'codes': this model has no codes to count; leave the measure out.")
    if any(codes.size > _LARGEST for codes in self.levels):
      raise UserError(
        f"measure 'codes': an exact histogram holds at most {_LARGEST} codes, this codebook has "
        f"{max(codes.size for codes in self.levels)}; leave the measure out."
      )

  def update(
    self, frozen: Any, batch: dict[str, Any], out: dict[str, Any], mask: jax.Array
  ) -> dict[str, jax.Array]:
    """Counts each code: "level.book" -> int32 [K]."""
    levels = out["ids"] if isinstance(out["ids"], (tuple, list)) else (out["ids"],)
    if not self.levels or len(levels) != len(self.levels) or levels[0] is None:
      raise UserError("measure 'codes': this model has no codes to count; leave the measure out.")
    kept = (mask != 0).astype(jnp.int32)
    sums = {"images": kept.sum()}
    for level, (ids, codes) in enumerate(zip(levels, self.levels, strict=True)):
      ids_BLQ = ids.reshape(ids.shape[0], -1, codes.books)
      weights_BL = jnp.broadcast_to(kept[:, None], ids_BLQ.shape[:2])
      for book in range(codes.books):
        empty = jnp.zeros(codes.size, jnp.int32)
        sums[f"{level}.{book}"] = empty.at[ids_BLQ[:, :, book]].add(weights_BL)
    return sums

  def result(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
    """Usage, perplexity and bits, see the class."""
    images, (unit, amount) = float(sums["images"]), self.amount
    counts = {key: value for key, value in sums.items() if key != "images"}
    usages = {key: float((n > 0).mean()) for key, n in counts.items()}
    entropies = {key: _entropy(n) for key, n in counts.items()}
    per_unit = {key: float(n.sum()) / (images * amount) for key, n in counts.items()}
    result = {
      "usage": sum(float((n > 0).sum()) for n in counts.values())
      / sum(n.size for n in counts.values()),
      "perplexity": float(np.mean([np.exp(h) for h in entropies.values()])),
      f"bits_per_{unit}": sum(per_unit[key] * float(np.log2(n.size)) for key, n in counts.items()),
      f"entropy_bits_per_{unit}": sum(
        per_unit[key] * entropies[key] / float(np.log(2)) for key in counts
      ),
    }
    if len(counts) > 1:
      for key in counts:
        result[f"codes/{key}/usage"] = usages[key]
        result[f"codes/{key}/perplexity"] = float(np.exp(entropies[key]))
    return result


def _entropy(counts: np.ndarray) -> float:
  """Entropy in nats of the distribution that counts [K] make."""
  p = counts[counts > 0] / counts.sum()
  return float(-(p * np.log(p)).sum())
