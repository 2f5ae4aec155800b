"""Net2Net of taming-transformers given classes, label maps or nothing, with all its stages."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqjax.errors import UserError
from vqjax.importers import Imported, _mingpt, _reader, taming_vqgan

FILES = 1
WHERE = "github.com/CompVis/taming-transformers: a transformer's .ckpt; n_head is in its .yaml"
OPTIONS = dict(heads=int, classes=0) | taming_vqgan.OPTIONS

State = Mapping[str, np.ndarray]


def read(
  states: Sequence[State], options: Mapping[str, Any], into: pathlib.Path
) -> Sequence[Imported]:
  """The prior of arXiv 2012.09841 and its tokenizers: the images' in "tokenizer", and that of label
  maps, where the prior is given them, in "layout_tokenizer".

  Args:
    states: the one state dict.
    options: `heads` of the attention; `classes` of the condition, where 0 means as many as the
      embedding has rows; `resolution` of the images; the others as for `taming_vqgan`.
    into: the prior's workdir; its config names the tokenizers' by it.

  Raises:
    UserError: a stage or a tensor that is missing, extra or misshapen, another kind of condition,
      or an option that does not fit.
  """
  (state,) = states
  first, cond = _mingpt.part(state, "first_stage_model."), _mingpt.part(state, "cond_stage_model.")
  if not first:
    raise UserError(
      "--checkpoint: holds no tensor first_stage_model.*; it is no Net2Net checkpoint of "
      "taming-transformers."
    )
  if not cond:
    return _given_classes(state, first, options, into)
  if not taming_vqgan.is_segmentation(cond):
    raise UserError(
      "--checkpoint: its cond_stage_model is no VQSegmentationModel; classes, maps and nothing can "
      "be read as conditions."
    )
  if options["classes"]:
    raise UserError(
      f"--option classes: {options['classes']}, but the checkpoint's condition is a label map; "
      "leave the option out."
    )
  return _given_maps(state, first, cond, options, into)


def _given_classes(
  state: State, first: State, options: Mapping[str, Any], into: pathlib.Path
) -> Sequence[Imported]:
  tokenizer = taming_vqgan.tokenizer(first, options, options["resolution"])
  rows = options["classes"] or None
  network = _mingpt.read(state, heads=options["heads"], codes=_codes(tokenizer), rows=rows)
  if len(network.grid) == 1:
    raise UserError(
      f"--checkpoint: has places for {network.grid[0]} codes, no square of them; only square grids "
      "can be read."
    )
  label = dict(label=dict(classes=network.rows))
  prior = _prior(network, tokenizer, taming_vqgan.factor(first), label, into)
  prior = dataclasses.replace(prior, spec=prior.spec | {"label": ((), "int32")})
  return dataclasses.replace(tokenizer, folder="tokenizer"), prior


def _given_maps(
  state: State, first: State, cond: State, options: Mapping[str, Any], into: pathlib.Path
) -> Sequence[Imported]:
  factor = taming_vqgan.factor(first)
  side, layout_side = _sides(state, factor, taming_vqgan.factor(cond))
  size = side * factor
  tokenizer = taming_vqgan.tokenizer(first, options, size)
  layouts = taming_vqgan.tokenizer(cond, options, size)
  network = _mingpt.read(
    state,
    heads=options["heads"],
    prefix=layout_side**2,
    grid=(side, side),
    codes=_codes(tokenizer),
    rows=_codes(layouts),
  )
  codes = dict(layout_codes=dict(tokenizer=str((into / "layout_tokenizer").absolute())))
  prior = _prior(network, tokenizer, factor, codes, into)
  return (
    dataclasses.replace(tokenizer, folder="tokenizer"),
    dataclasses.replace(layouts, folder="layout_tokenizer"),
    dataclasses.replace(prior, spec=prior.spec | {"layout": layouts.spec["layout"]}),
  )


def _codes(tokenizer: Imported) -> int:
  return tokenizer.config["model"]["quantizer"]["codebook_size"]


def _prior(
  network: _mingpt.Network,
  tokenizer: Imported,
  factor: int,
  condition: dict[str, Any],
  into: pathlib.Path,
) -> Imported:
  """The run of the prior, but for what its batches hold of the condition."""
  size, channels = network.grid[0] * factor, tokenizer.config["ops"]["channels"]
  config = dict(
    task="prior",
    tokenizer=str((into / "tokenizer").absolute()),
    model=network.fields,
    scheme=dict(name="autoregressive"),
    condition=condition | dict(drop=0.0),
  )
  return Imported(
    config=config | _reader.images(size, channels),
    spec={"image": ((size, size, channels), "uint8")},
    params={"model": network.params},
    stats={"model": {}},
  )


def _sides(state: State, factor: int, layout_factor: int) -> tuple[int, int]:
  """Sides of the grids of the image's and of the map's codes: the largest picture whose codes the
  transformer has places for.
  """
  places = _mingpt.places(state)
  step = max(factor, layout_factor)
  unit = (step // factor) ** 2 + (step // layout_factor) ** 2
  # The last code is predicted, not read.
  times = math.isqrt((places + 1) // unit)
  return times * step // factor, times * step // layout_factor
