"""Descript Audio Codec (DAC), its own state dict or that of Hugging Face's DacModel."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqjax.errors import UserError
from vqjax.importers import Imported, _codec, _reader

FILES = 1
WHERE = "github.com/descriptinc/descript-audio-codec (weights*.pth), huggingface.co/descript"
OPTIONS = dict(rate=44_100)

_LEVEL = "quantizer.quantizers"
# What all published models have, and no tensor tells.
_FIXED = dict(
  dilations=(1, 3, 9), compress=1, shortcut="identity", sizes=(7, 3, 7, 7), activation="snake",
  time="centred", edges="zeros", trim="even", lstm=0, output="tanh",
)  # fmt: skip


def described(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Options by what a file says beside its tensors."""
  rate = settings.get("sample_rate", settings.get("sampling_rate"))
  return {"rate": rate} if isinstance(rate, int) else {}


def read(
  states: Sequence[Mapping[str, np.ndarray]], options: Mapping[str, Any], into: pathlib.Path
) -> Sequence[Imported]:
  """The codec of arXiv 2306.06546; all sizes are the tensors'.

  Args:
    states: the one state dict.
    options: `rate`, Hz, where the file does not say it.
    into: not used.

  Raises:
    UserError: tensors that are missing, extra or misshapen, all named.
  """
  del into
  (state,) = states
  source = _reader.Reader(_own_names(_codec.plain(state)), "DAC checkpoint")
  model, channels, returned = _architecture(source)

  def leaf(collection: str, path: _reader.Path, shape: tuple[int, ...]) -> np.ndarray:
    if collection == "stats":
      return _reader.book_stats(path, shape)
    if path[-1] == "codebook":
      return source.take(f"{_LEVEL}.{_level(path)}.codebook.weight", shape)
    return _codec.take(source, path, shape, lambda p: _name(p, model))

  variables = _reader.autoencoder(model, channels, returned, leaf)
  source.done()
  loss = dict(reconstruction="l1", reconstruction_weight=0.0, distances=dict(mel=15.0))
  return (_codec.run(model, variables, loss, options["rate"], channels),)


def write(config: Mapping[str, Any], params: Mapping[str, Any], stats: Mapping[str, Any]) -> Any:
  """The state dict of the DAC with these weights.

  Raises UserError for a run whose model or quantizer is not DAC's.
  """
  model, quantizer = config["model"], config["model"].get("quantizer", {})
  _codec.check(config, _FIXED, "DAC")
  inner = quantizer.get("quantizer", {})
  if [quantizer.get("name"), inner.get("name")] != ["residual", "projected"]:
    raise UserError(
      "config.model.quantizer: has no counterpart in DAC; residual of projected vq with "
      "normalize='search' has."
    )
  own = dict(params["model"])
  levels = own.pop("quantizer")
  state = _codec.give(own, lambda p: _name(p, model))
  for i in range(quantizer["depth"]):
    level, place = dict(levels[f"levels_{i}"]), ("quantizer", f"levels_{i}")
    book = np.asarray(level.pop("inner")["codebook"], np.float32)
    offset = stats["model"]["stats"]["quantizer"][f"levels_{i}"]["inner"]["offset"]
    state[f"{_LEVEL}.{i}.codebook.weight"] = book + np.asarray(offset, np.float32)
    state |= _codec.give(level, lambda p, place=place: _name((*place, *p), model))
  return state


def _level(path: _reader.Path) -> int:
  return int(path[1].removeprefix("levels_"))


def _architecture(source: _reader.Reader) -> tuple[dict[str, Any], int, int]:
  """(config of the model, the channels it reads, and returns)."""
  names, weight = source.state, lambda layer: _codec.weight(source, layer)
  stages = _codec.numbers(names, r"encoder\.block\.(\d+)\.block\.")
  levels = _codec.numbers(names, rf"{re.escape(_LEVEL)}\.(\d+)\.")
  kernel = lambda i: source.size(
    f"the stride of stage {i}", (weight(f"encoder.block.{i}.block.4"), 2)
  )
  first, last = "encoder.block.0", f"decoder.model.{len(stages) + 2}"
  book, into = f"{_LEVEL}.0.codebook.weight", f"{_LEVEL}.0.in_proj"
  normed = f"{first}.weight_v" in names
  norm = "weight" if normed else "none"
  level = dict(
    name="projected",
    outer=source.size("the width of latents", (weight(into), 1), (weight("decoder.model.0"), 1)),
    norm=norm,
    quantizer=dict(
      name="vq",
      codebook_size=source.size("the number of codes", (book, 0)),
      dim=source.size("the width of a code", (book, 1), (weight(into), 0)),
      normalize="search",
      codebook_init="standard_normal",
    ),
  )
  strides = tuple(max(1, kernel(i) // 2) for i in stages)
  model = dict(
    name="seanet",
    width=source.size("the encoder's width", (weight(first), 0), (f"{first}.bias", 0)),
    strides=strides,
    decoder_width=source.size("the decoder's width", (weight("decoder.model.0"), 0)),
    residual_size=source.size(
      "the size of residual convolutions", (weight("encoder.block.1.block.0.block.1"), 2)
    ),
    norm=norm,
    quantizer=dict(name="residual", depth=max(1, len(levels)), quantizer=level),
    **_FIXED,
  )
  channels = source.size("the channels that it reads", (weight(first), 1))
  returned = source.size("the channels that it returns", (f"{last}.bias", 0), (weight(last), 0))
  return model, channels, returned


def _name(path: tuple[str, ...], model: Mapping[str, Any]) -> str:
  """Their name for a layer of ours."""
  if path[0] == "quantizer":
    side = {"into": "in_proj", "back": "out_proj"}[path[2]]
    return f"{_LEVEL}.{_level(path)}.{side}"
  part, layer = path
  blocks, stages = len(model["dilations"]), len(model["strides"])
  encoder = part == "encoder"
  prefix = "encoder.block" if encoder else "decoder.model"
  ends = {"conv_in": 0, "act_out": stages + 1, "conv_out": stages + 2}
  if layer in ends:
    return f"{prefix}.{ends[layer]}"
  stage, rest = re.match(r"stage_(\d+)_(.*)", layer).groups()
  inside = f"{prefix}.{int(stage) + 1}.block"
  if m := re.match(r"block_(\d+)_(\w+)", rest):
    step = {"act1": 0, "conv1": 1, "act2": 2, "conv2": 3}[m[2]]
    return f"{inside}.{int(m[1]) + (0 if encoder else 2)}.block.{step}"
  first = blocks if encoder else 0
  return f"{inside}.{first + (rest != 'act')}"


def _own_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Hugging Face's names as DAC's own; others stay."""
  counts = {
    part: len(_codec.numbers(state, rf"{part}\.block\.(\d+)\.")) for part in ("encoder", "decoder")
  }
  return {_own_name(name, counts): x for name, x in state.items()}


_STEPS = {"snake1": 0, "conv1": 1, "snake2": 2, "conv2": 3}


def _own_name(name: str, counts: Mapping[str, int]) -> str:
  if m := re.match(r"(encoder|decoder)\.(conv1|snake1|conv2)\.(.*)", name):
    prefix = "encoder.block" if m[1] == "encoder" else "decoder.model"
    number = {"conv1": 0, "snake1": 1 + counts[m[1]], "conv2": 2 + counts[m[1]]}[m[2]]
    return f"{prefix}.{number}.{m[3]}"
  if m := re.match(r"(encoder|decoder)\.block\.(\d+)\.res_unit(\d)\.(\w+?)\.(.*)", name):
    encoder = m[1] == "encoder"
    prefix, before = ("encoder.block", -1) if encoder else ("decoder.model", 1)
    number = int(m[3]) + before
    return f"{prefix}.{int(m[2]) + 1}.block.{number}.block.{_STEPS[m[4]]}.{m[5]}"
  if m := re.match(r"(encoder|decoder)\.block\.(\d+)\.(snake1|conv1|conv_t1)\.(.*)", name):
    prefix = "encoder.block" if m[1] == "encoder" else "decoder.model"
    number = (3 if m[1] == "encoder" else 0) + (m[3] != "snake1")
    return f"{prefix}.{int(m[2]) + 1}.block.{number}.{m[4]}"
  return name
