"""vqjax: generative models with a discrete latent space, in JAX and Flax."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def load(workdir: str) -> Any:
  """Opens a trained or converted run: .encode, .decode, .reconstruct, .sample, … (see vqjax.api)."""
  from vqjax import api  # keeps `import vqjax` light

  return api.load(workdir)
