"""The discrete VAE that OpenAI published for DALL·E (arXiv 2102.12092): an encoder file and a
decoder file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vqjax.build import build
from vqjax.errors import UserError
from vqjax.importers import reader


def join(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The two files' tensors as `read` takes them, "encoder.blocks…" and "decoder.blocks…", whichever
  comes first.
  """
  states = {}
  for state in (one, other):
    input_ = state.get("blocks.input.w", np.zeros(()))
    # The encoder looks at 7 x 7 pixels, the decoder at one code.
    states["encoder" if input_.shape[2:] == (7, 7) else "decoder"] = state
  if len(states) != 2:
    raise UserError(
      "OpenAI dVAE: give one encoder file and one decoder file; these two are of one kind."
    )
  return {f"{part}.{name}": x for part, state in states.items() for name, x in state.items()}


def read(
  state: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads both halves, see `join`.

  Args:
    state: tensors named "encoder.…" and "decoder.…".
    options: `temperature` (1/16) of the relaxation and `kl_weight` (0), for training on.

  Returns:
    config for `build("autoencoders", ...)`, including `channels` and `out_channels` (the means and
    log-scales of the logit-Laplace likelihood); variables {"params"}.

  Raises:
    UserError: tensors that are missing, extra or misshapen, all named.
  """
  chosen = reader.options(options, dict(temperature=1 / 16, kl_weight=0.0))
  source = reader.Reader(state, "OpenAI dVAE")
  found = [
    m.groups()
    for name in state
    if (m := re.search(r"encoder\.blocks\.group_(\d+)\.block_(\d+)\.", name))
  ]
  both = lambda name: ((f"{name}.w", 0), (f"{name}.b", 0))
  config = dict(
    name="dvae",
    hidden=source.size("the width", *both("encoder.blocks.input")),
    groups=max((int(group) for group, _ in found), default=1),
    blocks_per_group=max((int(block) for _, block in found), default=1),
    channels=source.size("the image's channels", ("encoder.blocks.input.w", 1)),
    out_channels=source.size("the output's channels", *both("decoder.blocks.output.conv")),
    quantizer=dict(
      name="gumbel",
      projection="none",
      mode="soft",
      codebook_size=source.size(
        "the number of codes", *both("encoder.blocks.output.conv"), ("decoder.blocks.input.w", 1)
      ),
      dim=source.size("the width of a code", *both("decoder.blocks.input")),
      **chosen,
    ),
  )
  model = build("autoencoders", config)

  def take(_: str, path: reader.Path, shape: tuple[int, ...]) -> np.ndarray:
    if path == ("quantizer", "codebook"):
      return source.take("decoder.blocks.input.w", (*shape[::-1], 1, 1))[:, :, 0, 0].T
    if path[-1] != "kernel":
      return source.take(_name(path), shape)
    return source.take(_name(path), (shape[3], shape[2], *shape[:2])).transpose(2, 3, 1, 0)

  variables = reader.fill(
    model, np.zeros((1, *model.factors, config["channels"]), np.float32), take
  )
  source.done()
  return config, variables


def _name(path: reader.Path) -> str:
  """Their name for our parameter."""
  part, *modules, leaf = path
  if leaf == "input_bias":
    return f"{part}.blocks.input.b"
  if modules == ["output"]:
    modules = ["output.conv"]
  if len(modules) == 2:
    block, layer = modules
    block = re.sub(r"^group_(\d+)_block_(\d+)$", r"group_\1.block_\2", block)
    modules = [block, layer if layer == "id_path" else f"res_path.{layer}"]
  return ".".join((part, "blocks", *modules, {"kernel": "w", "bias": "b"}[leaf]))
