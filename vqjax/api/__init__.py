"""A trained run as Python functions: load(workdir) is a Tokenizer, which encodes and decodes, or a
Prior, which samples, completes and tells how probable codes are.
"""

from __future__ import annotations

import os

from vqjax.api._loaded import Loaded, open_run
from vqjax.api.prior import Prior
from vqjax.api.tokenizer import Tokenizer

__all__ = ["Loaded", "Prior", "Tokenizer", "load", "open_run"]


def load(workdir: str | os.PathLike[str]) -> Tokenizer | Prior:
  """Opens the run in `workdir`, trained or converted."""
  loaded = open_run(workdir)
  return {"autoencode": Tokenizer.of, "prior": Prior}[loaded.config.task](loaded)
