"""minGPT as taming-transformers trained it (arXiv 2012.09841), in the layout of our transformer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vqjax.errors import UserError

State = Mapping[str, np.ndarray]

_PREFIX = "transformer."
# Of one block: our path and theirs.
_BLOCK = {
    ("norm_1", "scale"): "ln1.weight", ("norm_1", "bias"): "ln1.bias",
    ("norm_2", "scale"): "ln2.weight", ("norm_2", "bias"): "ln2.bias",
    ("query", "kernel"): "attn.query.weight", ("query", "bias"): "attn.query.bias",
    ("key", "kernel"): "attn.key.weight", ("key", "bias"): "attn.key.bias",
    ("value", "kernel"): "attn.value.weight", ("value", "bias"): "attn.value.bias",
    ("proj", "kernel"): "attn.proj.weight", ("proj", "bias"): "attn.proj.bias",
    ("up", "kernel"): "mlp.0.weight", ("up", "bias"): "mlp.0.bias",
    ("down", "kernel"): "mlp.2.weight", ("down", "bias"): "mlp.2.bias",
}  # fmt: skip


class Network(NamedTuple):
  """A checkpoint's transformer in our layout.

  taming embeds conditions and codes with one table, condition c by row c. We give conditions rows
  of their own, after the codes: token `codes + c` is their condition c.
  """

  fields: dict[str, Any]  # of vqjax.priors.transformer.Model that a config sets, with its name
  params: dict[str, Any]
  codes: int  # that are predicted
  rows: int  # of the embedding, for conditions
  grid: tuple[int, ...]  # of the codes
  prefix: int  # condition tokens before the codes


def part(state: State, prefix: str) -> dict[str, np.ndarray]:
  """The tensors under `prefix`, without it."""
  return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def read(
  state: State,
  *,
  heads: int,
  prefix: int = 1,
  grid: tuple[int, ...] | None = None,
  codes: int | None = None,
  rows: int | None = None,
) -> Network:
  """The minGPT of a Net2Net.

  Args:
    state: their `state_dict`; what does not start with "transformer." is ignored.
    heads: attention heads, which the tensors do not tell.
    prefix: condition tokens before the codes: 1 for a class or the unconditional start token, as
      many as the label map's codes.
    grid: shape of the code grid; None means the square, or else the line, that fills the block
      size.
    codes: predicted codes; None means all of the vocabulary.
    rows: values of a condition token; None means all of the vocabulary.

  Raises:
    UserError: naming a tensor that is missing, extra or misshapen, or an option that does not fit.
  """
  tensors = {name: np.asarray(x) for name, x in part(state, _PREFIX).items()}
  layers = len({m[1] for name in tensors if (m := re.match(r"blocks\.(\d+)\.", name))})
  vocabulary, width = _tensor(tensors, "tok_emb.weight").shape
  hidden, _ = _tensor(tensors, "blocks.0.mlp.0.weight").shape
  block_size = _tensor(tensors, "pos_emb").shape[1]
  grid = _grid(block_size, prefix) if grid is None else tuple(grid)
  codes, rows = vocabulary if codes is None else codes, vocabulary if rows is None else rows
  _check_sizes(heads, prefix, grid, width, block_size)
  if not 0 < codes <= vocabulary:
    raise UserError(f"codes: {codes} is not in 1 .. {vocabulary}, the checkpoint's vocabulary.")
  if not 0 < rows <= vocabulary:
    raise UserError(
      f"--option classes: {rows} of the condition is not in 1 .. {vocabulary}, the checkpoint's "
      "vocabulary."
    )
  _check_tensors(tensors, _shapes(vocabulary, width, hidden, layers, block_size))
  fields = dict(name="transformer", layers=layers, width=width, heads=heads, hidden=hidden)
  params = _params(tensors, layers, codes, rows, prefix + math.prod(grid) - 1)
  return Network(fields, params, codes, rows, grid, prefix)


def _params(tensors: State, layers: int, codes: int, rows: int, positions: int) -> dict[str, Any]:
  blocks: dict[str, dict[str, np.ndarray]] = {}
  for (module, leaf), theirs in _BLOCK.items():
    stack = np.stack([tensors[f"blocks.{i}.{theirs}"] for i in range(layers)]).astype(np.float32)
    blocks.setdefault(module, {})[leaf] = stack.swapaxes(1, 2) if leaf == "kernel" else stack
  table = tensors["tok_emb.weight"].astype(np.float32)
  zeros = np.zeros(table.shape[1], np.float32)
  norm_out = {
    "scale": tensors["ln_f.weight"].astype(np.float32),
    "bias": tensors["ln_f.bias"].astype(np.float32),
  }
  # taming has neither an empty prefix (`start`) nor a dropped condition (`null`): both are there to
  # be trained.
  return {
    "embed": {"table": np.concatenate([table[:codes], table[:rows]]), "null": zeros},
    "start": zeros,
    "position_table": tensors["pos_emb"][0, :positions].astype(np.float32),
    "blocks": blocks,
    "norm_out": norm_out,
    "head": {"kernel": tensors["head.weight"][:codes].T.astype(np.float32)},
  }


def places(state: State) -> int:
  """How many tokens the transformer can read."""
  return _tensor(part(state, _PREFIX), "pos_emb").shape[1]


def _tensor(tensors: State, name: str) -> np.ndarray:
  if name not in tensors:
    raise UserError(
      f"--checkpoint: tensor '{_PREFIX}{name}' is missing; is it a Net2Net checkpoint of taming?"
    )
  return tensors[name]


def _grid(block_size: int, prefix: int) -> tuple[int, ...]:
  """The codes that fit: all but the last are read, after the prefix.

  Published block sizes may leave one unused.
  """
  for codes in (block_size - prefix + 1, block_size - prefix):
    side = math.isqrt(max(codes, 0))
    if side > 1 and side * side == codes:
      return side, side
  return (block_size - prefix + 1,)


def _check_sizes(
  heads: int, prefix: int, grid: tuple[int, ...], width: int, block_size: int
) -> None:
  if heads < 1 or width % heads:
    raise UserError(f"heads: {heads} does not divide the checkpoint's width {width}.")
  if prefix < 1:
    raise UserError(f"prefix: {prefix}; taming's transformers read at least one condition token.")
  if prefix + math.prod(grid) - 1 > block_size:
    raise UserError(
      f"grid: {grid} after {prefix} condition tokens exceeds the checkpoint's block size "
      f"{block_size}."
    )


def _shapes(
  vocabulary: int, width: int, hidden: int, layers: int, block_size: int
) -> dict[str, tuple[int, ...]]:
  shapes = {
    "pos_emb": (1, block_size, width),
    "tok_emb.weight": (vocabulary, width),
    "head.weight": (vocabulary, width),
    "ln_f.weight": (width,),
    "ln_f.bias": (width,),
  }
  kernels = {"up": (hidden, width), "down": (width, hidden)}
  for i in range(layers):
    for (module, leaf), theirs in _BLOCK.items():
      kernel = kernels.get(module, (width, width))
      size = kernel if leaf == "kernel" else (kernel[0],) if module in ("up", "down") else (width,)
      shapes[f"blocks.{i}.{theirs}"] = size
  return shapes


def _check_tensors(
  tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
  masks = {name for name in tensors if name.endswith(".attn.mask")}
  for name in sorted(masks):
    if np.triu(tensors[name][0, 0], 1).any():
      raise UserError(
        f"--checkpoint: '{_PREFIX}{name}' is not causal (n_unmasked > 0), which is not supported."
      )
  if extra := sorted(tensors.keys() - shapes.keys() - masks):
    raise UserError(f"--checkpoint: unexpected tensor '{_PREFIX}{extra[0]}'.")
  for name, shape in shapes.items():
    if name not in tensors:
      raise UserError(f"--checkpoint: tensor '{_PREFIX}{name}' is missing.")
    if tensors[name].shape != shape:
      raise UserError(
        f"--checkpoint: tensor '{_PREFIX}{name}' has shape {tensors[name].shape}, expected {shape}."
      )
