"""A trained run as Python functions: load(workdir), or load of an exported file, is a Tokenizer,
which encodes and decodes, a Prior, which samples, completes and tells how probable codes are, or a
Ranker, which embeds images and captions. A run of a task that has no such class is a Loaded, whose
`run.task.predict` are its functions.
"""

from __future__ import annotations

import os

from vqjax.api._loaded import Loaded, open_run
from vqjax.api.prior import Prior
from vqjax.api.ranker import Ranker
from vqjax.api.tokenizer import Tokenizer
from vqjax.errors import UserError

__all__ = ["Loaded", "Prior", "Ranker", "Tokenizer", "load", "load_prior", "open_run"]


_KINDS = {"autoencode": Tokenizer, "prior": Prior, "contrast": Ranker}


def load(workdir: str | os.PathLike[str]) -> Tokenizer | Prior | Ranker | Loaded:
  """Opens the run in `workdir`, trained or converted, or the exported run of that name."""
  loaded = open_run(workdir)
  return _KINDS.get(loaded.config.task, lambda loaded: loaded)(loaded)


def load_prior(workdir: str | os.PathLike[str], option: str) -> Prior:
  """Opens the run that a caller gave as `option`. Raises UserError for one of another kind."""
  model = load(workdir)
  if not isinstance(model, Prior):
    raise UserError(f"{option}={workdir}: is no prior, and nothing else draws samples.")
  return model
