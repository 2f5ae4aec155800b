"""vqjax: generative models with a discrete latent space, in JAX and Flax."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

__version__ = "0.1.0"

# The functions import what they need when they are called: `import vqjax` stays light.


def load(workdir: str) -> Any:
  """Opens a trained or converted run, in its workdir or in one file (python -m vqjax.export): a
  vqjax.api.Tokenizer, a vqjax.api.Prior or a vqjax.api.Ranker.
  """
  from vqjax import api

  return api.load(workdir)


def fit(
  config: str | os.PathLike[str] | Mapping[str, Any],
  workdir: str | os.PathLike[str],
  overrides: Sequence[str] = (),
  data: str | None = None,
) -> dict[str, float]:
  """Trains a run in this process, or continues it, as `python -m vqjax.main` does.

  Args:
    config: "FILE[:debug]" as for --config, or the config itself.
    workdir: where the run lives.
    overrides: assignments such as "optim.lr=1e-4", as for --config.FIELD=VALUE.
    data: a path, as for --data.

  Returns:
    The last held-out figures by name; {} where no step was left to take.

  Raises:
    vqjax.errors.UserError: bad input, in one line.
  """
  from vqjax import main

  return main.fit(config, workdir, overrides, data)
