"""The discrete VAE that OpenAI published for DALL·E: an encoder file and a decoder file."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqjax.errors import UserError
from vqjax.importers import Imported, _reader

FILES = 2
WHERE = "cdn.openai.com/dall-e/encoder.pkl and cdn.openai.com/dall-e/decoder.pkl"
OPTIONS = dict(temperature=1 / 16, kl_weight=0.0)


def read(
  states: Sequence[Mapping[str, np.ndarray]], options: Mapping[str, Any], into: pathlib.Path
) -> Sequence[Imported]:
  """The tokenizer of arXiv 2102.12092. Its outputs are the means and log-scales of the
  logit-Laplace likelihood.

  Args:
    states: of the encoder and of the decoder, whichever comes first.
    options: `temperature` of the relaxation and `kl_weight`, for training on.
    into: not used.

  Raises:
    UserError: tensors that are missing, extra or misshapen, all named.
  """
  source = _reader.Reader(_join(*states), "OpenAI dVAE")
  model = _architecture(source) | {"quantizer": _quantizer(source, options)}
  channels = source.size("the image's channels", ("encoder.blocks.input.w", 1))
  returned = source.size("the output's channels", *_both("decoder.blocks.output.conv"))
  if returned != 2 * channels:
    raise UserError(
      f"OpenAI dVAE: reads {channels} channels and returns {returned}; a mean and a scale of each "
      "were expected."
    )

  def take(_: str, path: _reader.Path, shape: tuple[int, ...]) -> np.ndarray:
    if path == ("quantizer", "codebook"):
      return source.take("decoder.blocks.input.w", (*shape[::-1], 1, 1))[:, :, 0, 0].T
    return source.leaf(_name(path), path, shape)

  variables = _reader.autoencoder(model, channels, returned, take)
  source.done()
  return (_reader.tokenizer_run(model, variables, "logit_laplace", 256, channels),)


def _join(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The two files' tensors as "encoder.blocks…" and "decoder.blocks…"."""
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


def _architecture(source: _reader.Reader) -> dict[str, Any]:
  """Config of the `dvae` whose tensors these are, without its quantizer."""
  found = [
    m.groups()
    for name in source.state
    if (m := re.search(r"encoder\.blocks\.group_(\d+)\.block_(\d+)\.", name))
  ]
  return dict(
    name="dvae",
    hidden=source.size("the width", *_both("encoder.blocks.input")),
    groups=max((int(group) for group, _ in found), default=1),
    blocks_per_group=max((int(block) for _, block in found), default=1),
  )


def _quantizer(source: _reader.Reader, options: Mapping[str, Any]) -> dict[str, Any]:
  places = (*_both("encoder.blocks.output.conv"), ("decoder.blocks.input.w", 1))
  return dict(
    name="gumbel",
    projection="none",
    mode="soft",
    codebook_size=source.size("the number of codes", *places),
    dim=source.size("the width of a code", *_both("decoder.blocks.input")),
    **options,
  )


def _both(name: str) -> tuple[tuple[str, int], tuple[str, int]]:
  """Where a layer's outputs are counted, see `Reader.size`."""
  return (f"{name}.w", 0), (f"{name}.b", 0)


def _name(path: _reader.Path) -> str:
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
