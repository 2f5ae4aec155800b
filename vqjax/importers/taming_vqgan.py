"""VQModel, VQSegmentationModel or GumbelVQ of taming-transformers, with its discriminator."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np

from vqjax.build import build
from vqjax.errors import UserError
from vqjax.importers import Imported, _reader, _taming_discriminator
from vqjax.nn import palette

FILES = 1
WHERE = "github.com/CompVis/taming-transformers: the .ckpt of a first stage"
OPTIONS = dict(resolution=256, beta=0.25, legacy=True, kl_weight=5e-4, ema=False)

State = dict[str, np.ndarray]

# No part of the autoencoder: the losses (with the discriminator), averaged copies, and a projection
# for showing segmentation maps.
_IGNORED = ("loss.", "model_ema.", "colorize")
_PROJECTION = ("quantizer", "proj", "kernel")


def read(
  states: Sequence[Mapping[str, np.ndarray]], options: Mapping[str, Any], into: pathlib.Path
) -> Sequence[Imported]:
  """The tokenizer of arXiv 2012.09841; which quantizer, and all sizes, the tensors tell.

  Args:
    states: the one state dict.
    options: `resolution` of the training images, which also names the levels with attention; `beta`
      and `legacy` of VQModel's loss: legacy puts beta on the codebook term, as all published models
      were trained; `kl_weight` of GumbelVQ's; `ema` takes the averaged weights "model_ema.*".
    into: not used.

  Raises:
    UserError: tensors that are missing, extra or misshapen, all named; or an option that does not
      fit.
  """
  (state,) = states
  run = tokenizer(state, options, options["resolution"])
  if (judge := _taming_discriminator.read(state)) is None:
    return (run,)
  disc, variables = judge
  stats = {k: v for k, v in variables.items() if k != "params"}
  whole = dataclasses.replace(
    run,
    config=run.config | dict(disc=disc),
    params=run.params | {"disc": variables["params"]},
    stats=run.stats | {"disc": stats},
  )
  return (whole,)


def tokenizer(state: Mapping[str, np.ndarray], options: Mapping[str, Any], size: int) -> Imported:
  """The autoencoder alone as a run on images or label maps of side `size`; else as `read`."""
  model, variables, channels = _model(state, options)
  if not is_segmentation(state):
    return _reader.tokenizer_run(model, variables, "l1", size, channels)
  run = _reader.tokenizer_run(model, variables, "binary_cross_entropy", size, channels=3)
  return dataclasses.replace(
    run,
    config=run.config | dict(signal=dict(name="layout", classes=channels)),
    spec={"layout": ((size, size), "uint8")},
  )


def _model(
  state: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], int]:
  """The config of the autoencoder, its variables {"params", "stats"}, and the channels it reads."""
  if options["ema"]:
    state = _averaged(state)
  source = _reader.Reader(state, "taming checkpoint")
  quantizer = _quantizer(source, options)
  model = _architecture(source, options["resolution"]) | {"quantizer": quantizer}
  channels = source.size("the image's channels", ("encoder.conv_in.weight", 1))
  returned = source.size("the output's channels", *_both("decoder.conv_out"))
  gumbel = quantizer["name"] == "gumbel"

  def take(collection: str, path: _reader.Path, shape: tuple[int, ...]) -> np.ndarray:
    if collection == "stats":
      return _reader.book_stats(path, shape)
    if path == _PROJECTION:  # a dense layer here, a 1 x 1 convolution there
      return source.take(_name(path, gumbel), (*shape[::-1], 1, 1))[:, :, 0, 0].T
    return source.leaf(_name(path, gumbel), path, shape)

  variables = _reader.autoencoder(model, channels, returned, take)
  source.done(_IGNORED)
  if returned != channels:
    raise UserError(
      f"taming checkpoint: reads {channels} channels and returns {returned}; give one that returns "
      "what it reads."
    )
  return model, variables, channels


def is_segmentation(state: Mapping[str, np.ndarray]) -> bool:
  """Whether these tensors are a VQSegmentationModel's, of one-hot label maps: it shows its classes
  in colours, and has no adversary.
  """
  colours, first = state.get("colorize"), state.get("encoder.conv_in.weight")
  if colours is None or first is None:
    return False
  if any(name.startswith(_taming_discriminator.PREFIX) for name in state):
    return False
  return colours.ndim == 4 and first.ndim == 4 and colours.shape[1] == first.shape[1]


def factor(state: Mapping[str, np.ndarray]) -> int:
  """Pixels of a code's side."""
  levels = [int(m[1]) for name in state if (m := re.match(r"encoder\.down\.(\d+)\.block\.", name))]
  return 2 ** max(levels, default=0)


def write(config: Mapping[str, Any], params: Mapping[str, Any], stats: Mapping[str, Any]) -> State:
  """The state dict of the taming model with these weights, with a discriminator that it knows.

  Raises:
    UserError: an autoencoder other than `resnet`, a quantizer whose codes taming's do not mean the
      same, or a signal that taming has no model of.
  """
  model, signal = config["model"], config.get("signal", {"name": "image"})
  _check_counterpart(model, signal["name"])
  gumbel = model["quantizer"]["name"] == "gumbel"
  state = {}
  for path, leaf in flax.traverse_util.flatten_dict(params["model"]).items():
    # Whatever a codebook is made of (stats too, or a projection), its codes follow below.
    if path[0] != "quantizer" or gumbel and path[1] == "proj":
      x = _reader.to_torch(path, leaf)
      state[_name(path, gumbel)] = x[:, :, None, None] if path == _PROJECTION else x
  quantizer = build("quantizers", model["quantizer"], "config.model.quantizer")
  own = {"params": params["model"], **stats["model"]}
  own = {collection: tree["quantizer"] for collection, tree in own.items() if "quantizer" in tree}
  codes = quantizer.apply(own, jnp.arange(quantizer.codebook_size), method="embed")
  state[_name(("quantizer", "codebook"), gumbel)] = np.asarray(codes, np.float32)
  if "disc" in params:
    variables = {"params": params["disc"], **stats["disc"]}
    state |= _taming_discriminator.write(config["disc"], variables)
  if signal["name"] == "layout":  # the buffer by which a VQSegmentationModel shows its classes
    colours = palette.TABLE[: signal["classes"]]
    state["colorize"] = np.float32(colours.T[:, :, None, None])
  return state


def _check_counterpart(model: Mapping[str, Any], signal: str) -> None:
  if signal not in ("image", "layout"):
    raise UserError(
      f"config.signal: {signal!r} has no counterpart in taming; image and layout have."
    )
  quantizer = model.get("quantizer", {"name": None})
  plain = (
    quantizer["name"] in ("vq", "ema", "simvq") and quantizer.get("normalize", "none") == "none"
  )
  gumbel = quantizer["name"] == "gumbel" and quantizer.get("projection", "linear") == "linear"
  if model["name"] != "resnet" or not (plain or gumbel):
    names = repr(model["name"])
    names += f" with quantizer {quantizer['name']!r}" if "quantizer" in model else ""
    raise UserError(
      f"config.model: {names} has no counterpart in taming; 'resnet' with 'vq', 'ema' or 'simvq' "
      "(not normalized) or 'gumbel' (with projection) has."
    )


def _architecture(source: _reader.Reader, resolution: int) -> dict[str, Any]:
  """Config of the `resnet` whose tensors these are, without its quantizer."""
  names = source.state
  ch = source.size("the width", *_both("encoder.conv_in"), *_both("encoder.down.0.block.0.norm1"))
  found = [
    m.groups() for name in names if (m := re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.", name))
  ]
  levels = range(1 + max((int(level) for level, _ in found), default=0))
  widths = []
  for i in levels:
    block = f"encoder.down.{i}.block.0"
    places = (place for part in ("conv1", "norm2", "conv2") for place in _both(f"{block}.{part}"))
    widths.append(source.size(f"the width of level {i}", *places))
    if widths[-1] % ch:
      raise UserError(
        f"taming checkpoint: '{block}.conv1.weight' makes {widths[-1]} channels, no multiple of "
        f"the first {ch}."
      )
  if resolution < 2 ** levels[-1]:
    raise UserError(
      f"--option resolution: {resolution} is too small for {len(levels)} levels; give the side of "
      "the images."
    )
  attention = [
    i
    for i in levels
    if any(name.startswith((f"encoder.down.{i}.attn.", f"decoder.up.{i}.attn.")) for name in names)
  ]
  return dict(
    name="resnet",
    ch=ch,
    ch_mult=tuple(width // ch for width in widths),
    num_res_blocks=1 + max((int(block) for _, block in found), default=0),
    attn_resolutions=tuple(resolution // 2**i for i in attention),
    resolution=resolution,
    mid_attention=any(".mid.attn_1." in name for name in names),
    z_channels=source.size("z_channels", *_both("post_quant_conv"), ("decoder.conv_in.weight", 1)),
  )


def _both(name: str) -> tuple[tuple[str, int], tuple[str, int]]:
  """Where a layer's outputs are counted, see `Reader.size`."""
  return (f"{name}.weight", 0), (f"{name}.bias", 0)


def _quantizer(source: _reader.Reader, chosen: Mapping[str, Any]) -> dict[str, Any]:
  gumbel = any(name.startswith("quantize.embed.") for name in source.state)
  book = "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
  dim = source.size(
    "the width of a code",
    ("quant_conv.weight", 0),
    ("quant_conv.bias", 0),
    ("post_quant_conv.weight", 1),
    (book, 1),
  )
  size = source.size(
    "the number of codes", (book, 0), ("quantize.proj.weight", 0), ("quantize.proj.bias", 0)
  )
  if gumbel:
    return dict(
      name="gumbel", codebook_size=size, dim=dim, projection="linear", kl_weight=chosen["kl_weight"]
    )
  weights = (chosen["beta"], 1.0) if chosen["legacy"] else (1.0, chosen["beta"])
  return dict(
    name="vq", codebook_size=size, dim=dim, codebook_weight=weights[0], commitment_weight=weights[1]
  )


def _averaged(state: Mapping[str, np.ndarray]) -> State:
  """The state with every parameter replaced by its average, stored as "model_ema." and its name
  without dots.
  """
  averages = {
    name: f"model_ema.{name.replace('.', '')}"
    for name in state
    if not name.startswith("model_ema.")
  }
  if not any(average in state for average in averages.values()):
    raise UserError(
      "--option ema: the checkpoint has no averaged weights 'model_ema.*'; leave the option out."
    )
  return {name: state.get(average, state[name]) for name, average in averages.items()}


def _name(path: _reader.Path, gumbel: bool) -> str:
  """Their name for our parameter."""
  if path == ("quantizer", "codebook"):
    return "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
  *modules, leaf = path
  if modules[0] == "quantizer":
    modules[0] = "quantize"
  modules = [re.sub(r"^(down|up)_(\d+)_(block|attn)_(\d+)$", r"\1.\2.\3.\4", m) for m in modules]
  modules = [re.sub(r"^(down|up)_(\d+)_(downsample|upsample)$", r"\1.\2.\3", m) for m in modules]
  modules = [re.sub(r"^mid_", "mid.", m) for m in modules]
  return ".".join((*modules, _reader.LEAVES[leaf]))
