"""EnCodec, Meta's own state dict or that of Hugging Face's EncodecModel."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import numpy as np

from vqjax.errors import UserError
from vqjax.importers import Imported, _codec, _reader

FILES = 1
WHERE = "github.com/facebookresearch/encodec (encodec_24khz-*.th), huggingface.co/facebook"
OPTIONS = dict(rate=24_000, causal=True, edges="reflect", dilation_growth=2, quantizers=0)

_BOOK = "quantizer.layers"
_AVERAGES = {"codebook": "embed", "sums": "embed_avg", "counts": "cluster_size"}
# What all published models have, and no tensor tells.
_FIXED = dict(activation="elu", trim="exact", output="none")


def described(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Options by Hugging Face's config.json. Raises UserError for what has no counterpart here."""
  if settings.get("normalize"):
    raise UserError("config.json: normalize=true scales each sound; the model has no place for it.")
  if settings.get("trim_right_ratio", 1.0) != 1.0:
    raise UserError(
      f"config.json: trim_right_ratio={settings['trim_right_ratio']} is not supported; 1.0 is."
    )
  names = {
    "sampling_rate": "rate",
    "use_causal_conv": "causal",
    "pad_mode": "edges",
    "dilation_growth_rate": "dilation_growth",
  }
  told = {ours: settings[theirs] for theirs, ours in names.items() if theirs in settings}
  edges = {"constant": "zeros"}  # PyTorch's name for it
  return told | ({"edges": edges.get(told["edges"], told["edges"])} if "edges" in told else {})


def read(
  states: Sequence[Mapping[str, np.ndarray]], options: Mapping[str, Any], into: pathlib.Path
) -> Sequence[Imported]:
  """The codec of arXiv 2210.13438; all sizes are the tensors'.

  Args:
    states: the one state dict.
    options: `rate`, Hz; `causal` convolutions, or centred ones; `edges`, "reflect" or "zeros";
      `dilation_growth` of the residual blocks of a stage; `quantizers` takes the first of them
      alone, 0 all. A config.json beside the file gives the first four.
    into: not used.

  Raises:
    UserError: tensors that are missing, extra or misshapen, all named; an option that does not fit.
  """
  del into
  (state,) = states
  if options["edges"] not in ("reflect", "zeros"):
    raise UserError(f"--option edges: {options['edges']!r} is neither reflect nor zeros.")
  source = _reader.Reader(_hf_names(_codec.plain(state)), "EnCodec checkpoint")
  model, channels = _architecture(source, options)

  def leaf(collection: str, path: _reader.Path, shape: tuple[int, ...]) -> np.ndarray:
    if collection == "stats":
      return _book(source, path, shape)
    name = lambda p: _name(p, model)
    take = _lstm if path[1] == "lstm" else _codec.take
    return take(source, path, shape, name)

  variables = _reader.autoencoder(model, channels, channels, leaf)
  kept = [f"{_BOOK}.{i}." for i in range(model["quantizer"]["depth"])]
  others = {
    name for name in source.state if name.startswith(_BOOK) and not name.startswith(tuple(kept))
  }
  source.done([*others, *(f"{level}codebook.inited" for level in kept)])
  loss = dict(reconstruction="l1", reconstruction_weight=0.1, distances=dict(mel=1.0))
  return (_codec.run(model, variables, loss, options["rate"], channels),)


def _book(source: _reader.Reader, path: _reader.Path, shape: tuple[int, ...]) -> np.ndarray:
  """A level's averages, or what they are where a file leaves them out: of codes used once."""
  if path[-1] == "initialised":
    return np.ones(shape, bool)
  level = f"{_BOOK}.{path[1].removeprefix('levels_')}.codebook"
  name = f"{level}.{_AVERAGES[path[-1]]}"
  if name in source.state or path[-1] == "codebook":
    return source.take(name, shape)
  return (
    np.ones(shape, np.float32) if path[-1] == "counts" else source.take(f"{level}.embed", shape)
  )


def _lstm(source: _reader.Reader, path: _reader.Path, shape: tuple[int, ...], name: Any) -> Any:
  """A leaf of an LSTM, whose two biases are one here."""
  kind, _, number = path[-1].rpartition("_")
  layer = f"{name(path[:-1])}.lstm"
  both = [source.take(f"{layer}.{which}_l{number}", shape[::-1]) for which in _LSTM[kind]]
  return sum(both).T


_LSTM = {"input": ("weight_ih",), "state": ("weight_hh",), "bias": ("bias_ih", "bias_hh")}


def write(config: Mapping[str, Any], params: Mapping[str, Any], stats: Mapping[str, Any]) -> Any:
  """The state dict, by Hugging Face's names, of the EnCodec with these weights.

  Raises UserError for a run whose model or quantizer is not EnCodec's.
  """
  model, quantizer = config["model"], config["model"].get("quantizer", {})
  _codec.check(config, _FIXED, "EnCodec")
  if [quantizer.get("name"), quantizer.get("quantizer", {}).get("name")] != ["residual", "ema"]:
    raise UserError("config.model.quantizer: has no counterpart in EnCodec; residual of ema has.")
  flat = flax.traverse_util.flatten_dict(params["model"])
  name = lambda path: _name(path, model)
  lstm = {path: x for path, x in flat.items() if path[1] == "lstm"}
  rest = {path: x for path, x in flat.items() if path not in lstm and path[0] != "quantizer"}
  state = _codec.give(flax.traverse_util.unflatten_dict(rest), name)
  for path, x in lstm.items():
    kind, _, number = path[-1].rpartition("_")
    first, *others = (f"{name(path[:-1])}.lstm.{which}_l{number}" for which in _LSTM[kind])
    state[first] = np.ascontiguousarray(np.asarray(x, np.float32).T)
    state |= {other: np.zeros_like(state[first]) for other in others}
  for i in range(quantizer["depth"]):
    book = stats["model"]["stats"]["quantizer"][f"levels_{i}"]
    for ours, theirs in _AVERAGES.items():
      state[f"{_BOOK}.{i}.codebook.{theirs}"] = np.asarray(book[ours], np.float32)
    state[f"{_BOOK}.{i}.codebook.inited"] = np.ones(1, np.float32)
  return state


def _architecture(source: _reader.Reader, options: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
  """(config of the model, the channels it reads and returns)."""
  names, weight = source.state, lambda layer: _codec.weight(source, layer)
  convs = _codec.numbers(names, r"encoder\.layers\.(\d+)\.conv\.weight")
  backs = _codec.numbers(names, r"decoder\.layers\.(\d+)\.conv\.weight")
  blocks = _codec.numbers(names, r"encoder\.layers\.(\d+)\.block\.")
  levels = _codec.numbers(names, rf"{re.escape(_BOOK)}\.(\d+)\.")
  layer = lambda part, i: f"{part}.layers.{i}.conv"
  first, last = layer("encoder", (convs or [0])[0]), layer("encoder", (convs or [0])[-1])
  ends = layer("decoder", 0), layer("decoder", (backs or [0])[-1])
  size = lambda meaning, name: source.size(meaning, (weight(name), 2))
  width = source.size("the width", (weight(first), 0), (f"{first}.bias", 0))
  strides = tuple(max(1, size("a stride", layer("encoder", i)) // 2) for i in convs[1:-1])
  inner = f"encoder.layers.{(blocks or [1])[0]}"
  hidden = source.size(
    "the width of residual blocks",
    (f"{inner}.block.1.conv.bias", 0),
    (weight(f"{inner}.block.1.conv"), 0),
  )
  book = f"{_BOOK}.0.codebook.embed"
  wanted = options["quantizers"] or len(levels)
  if not 0 < wanted <= max(1, len(levels)):
    raise UserError(f"--option quantizers: {wanted}; the checkpoint has {len(levels)}.")
  each = max(1, len(blocks) // max(1, len(strides)))
  lstm = _codec.numbers(names, r"encoder\.layers\.\d+\.lstm\.weight_ih_l(\d+)")
  group = any(name.endswith(".norm.weight") for name in names)
  model = dict(
    name="seanet",
    width=width,
    strides=strides or (1,),
    decoder_width=None,
    dilations=tuple(options["dilation_growth"] ** j for j in range(each)),
    residual_size=size("the size of residual convolutions", f"{inner}.block.1.conv"),
    compress=max(1, width // hidden),
    shortcut="conv" if any(".shortcut." in name for name in names) else "identity",
    sizes=tuple(size("the size of a convolution", name) for name in (first, last, *ends)),
    norm="group" if group else "weight" if f"{first}.weight_v" in names else "none",
    time="causal" if options["causal"] else "centred",
    edges=options["edges"],
    lstm=len(lstm),
    quantizer=dict(
      name="residual",
      depth=wanted,
      quantizer=dict(
        name="ema",
        codebook_size=source.size("the number of codes", (book, 0)),
        dim=source.size("the width of a code", (book, 1), (weight(last), 0)),
      ),
    ),
    **_FIXED,
  )
  return model, source.size("the channels", (weight(first), 1))


def _name(path: tuple[str, ...], model: Mapping[str, Any]) -> str:
  """Hugging Face's name for a layer of ours: all layers of a part are counted in one row, with
  activations and, where there is one, the LSTM.
  """
  part, layer = path
  blocks, stages = len(model["dilations"]), len(model["strides"])
  memory, encoder = int(model["lstm"] > 0), part == "encoder"
  # Layers before the first stage and in each; a stage of the decoder begins with its activation.
  before, each = 1 + (0 if encoder else memory), blocks + 2
  end = before + stages * each + (memory if encoder else 0)
  ends = {"conv_in": 0, "lstm": before + stages * each if encoder else 1, "conv_out": end + 1}
  if layer == "lstm":
    return f"{part}.layers.{ends['lstm']}"
  if layer in ends:
    return f"{part}.layers.{ends[layer]}.conv"
  stage, rest = re.match(r"stage_(\d+)_(.*)", layer).groups()
  start = before + int(stage) * each
  if m := re.match(r"block_(\d+)_(\w+)", rest):
    number = start + int(m[1]) + (0 if encoder else 2)
    inside = {"conv1": "block.1", "conv2": "block.3", "shortcut": "shortcut"}[m[2]]
    return f"{part}.layers.{number}.{inside}.conv"
  return f"{part}.layers.{start + (blocks + 1 if encoder else 1)}.conv"


def _hf_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Meta's names as Hugging Face's; those stay."""
  changes = (
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.conv(tr)?\.conv(tr)?\.", ".conv."),
    (r"\.conv(tr)?\.norm\.", ".norm."),
    (r"^quantizer\.vq\.layers\.", f"{_BOOK}."),
    (r"\._codebook\.", ".codebook."),
  )
  renamed = {}
  for name, x in state.items():
    for pattern, new in changes:
      name = re.sub(pattern, new, name)
    renamed[name] = x
  return renamed
