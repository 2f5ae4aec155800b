"""taming-transformers (arXiv 2012.09841): `VQModel`, `VQSegmentationModel`, `GumbelVQ`, their
discriminator, read and written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np

from vqjax.build import build
from vqjax.errors import UserError
from vqjax.importers import reader

State = dict[str, np.ndarray]

# No part of the autoencoder: the losses (with the discriminator, see `read_discriminator`),
# averaged copies, and a projection for showing segmentation maps.
_IGNORED = ("loss.", "model_ema.", "colorize")
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


def read(
  state: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads a VQModel, a VQSegmentationModel or a GumbelVQ; which quantizer, and all sizes, the
  tensors tell.

  Args:
    state: the state dict, as `torch_file.load` gives it.
    options: `resolution` (256) of the training images, which only names the levels with attention;
      `beta` (0.25) and `legacy` (true) of VQModel's loss: legacy puts beta on the codebook term, as
      all published models were trained; `kl_weight` (5e-4) of GumbelVQ's; `ema` (false) takes the
      averaged weights "model_ema.*".

  Returns:
    config for `build("autoencoders", ...)`, including `channels` and `out_channels`; variables
    {"params", "stats"}.

  Raises:
    UserError: tensors that are missing, extra or misshapen, all named; or an option that does not
      fit.
  """
  chosen = reader.options(
    options, dict(resolution=256, beta=0.25, legacy=True, kl_weight=5e-4, ema=False)
  )
  if chosen["ema"]:
    state = _averaged(state)
  source = reader.Reader(state, "taming checkpoint")
  config = _autoencoder(source, chosen["resolution"]) | {"quantizer": _quantizer(source, chosen)}
  model = build("autoencoders", config)
  gumbel = config["quantizer"]["name"] == "gumbel"

  def take(collection: str, path: reader.Path, shape: tuple[int, ...]) -> np.ndarray:
    if collection == "stats":
      return reader.book_stats(path, shape)
    theirs = _to_theirs(path, np.broadcast_to(np.float32(0), shape))
    return _to_ours(path, source.take(_name(path, gumbel), theirs.shape))

  variables = reader.fill(
    model, np.zeros((1, *model.factors, config["channels"]), np.float32), take
  )
  source.done(_IGNORED)
  return config, variables


def is_segmentation(state: Mapping[str, np.ndarray]) -> bool:
  """Whether these tensors are a VQSegmentationModel's, of one-hot label maps: it shows its classes
  in colours, and has no adversary.
  """
  colours, first = state.get("colorize"), state.get("encoder.conv_in.weight")
  if (
    colours is None
    or first is None
    or any(name.startswith("loss.discriminator.") for name in state)
  ):
    return False
  return colours.ndim == 4 and first.ndim == 4 and colours.shape[1] == first.shape[1]


def write(config: Mapping[str, Any], variables: Mapping[str, Any]) -> State:
  """The state dict of a VQModel or GumbelVQ with these weights: what `read` takes.

  Raises:
    UserError: an autoencoder other than `resnet`, or a quantizer whose codes taming's do not mean
      the same.
  """
  quantizer = dict(config["quantizer"])
  plain = (
    quantizer["name"] in ("vq", "ema", "simvq") and quantizer.get("normalize", "none") == "none"
  )
  gumbel = quantizer["name"] == "gumbel" and quantizer.get("projection", "linear") == "linear"
  if config["name"] != "resnet" or not (plain or gumbel):
    raise UserError(
      f"config.model: {config['name']!r} with quantizer {quantizer['name']!r} has no counterpart in "
      "taming; 'resnet' with 'vq' (not normalized) or 'gumbel' (with projection) has."
    )
  params = flax.traverse_util.flatten_dict(variables["params"])
  state = {
    _name(path, gumbel): np.ascontiguousarray(_to_theirs(path, np.asarray(leaf, np.float32)))
    for path, leaf in params.items()
    if path[0] != "quantizer" or path[1] == "proj"
  }
  model = build("autoencoders", config)
  codes = jnp.arange(model.quantizer.codebook_size)
  codebook = model.apply(variables, codes, method=lambda m, ids: m.quantizer.embed(ids))
  return state | {_name(("quantizer", "codebook"), gumbel): np.asarray(codebook, np.float32)}


def read_discriminator(
  state: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], dict[str, Any]] | None:
  """The NLayerDiscriminator under "loss.discriminator.", or in a file of its own; None where there
  is none.

  Returns:
    config for `build("discriminators", ...)`; variables {"params", "batch_stats"}.
  """
  prefix = "loss.discriminator."
  if not any(name.startswith(prefix) for name in state):
    if "main.0.weight" not in state:
      return None
    prefix = ""
  state = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
  if any(name.endswith(".loc") for name in state):
    raise UserError(
      "taming discriminator: its ActNorm layers are not supported; leave the discriminator out."
    )
  source = reader.Reader(state, "taming discriminator")
  convolutions = sum(x.ndim == 4 for x in state.values())
  config = dict(
    name="patchgan",
    channels=source.size("the width", ("main.0.weight", 0), ("main.0.bias", 0)),
    n_layers=convolutions - 2,
    norm="batch",
  )
  model = build("discriminators", config)

  def take(collection: str, path: reader.Path, shape: tuple[int, ...]) -> np.ndarray:
    theirs = _to_theirs(path, np.broadcast_to(np.float32(0), shape))
    return _to_ours(path, source.take(_disc_name(path), theirs.shape))

  side = 4 * 2 ** max(config["n_layers"], 0)
  channels = source.size("the image's channels", ("main.0.weight", 1))
  variables = reader.fill(model, np.zeros((1, side, side, channels), np.float32), take)
  source.done(tuple(name for name in state if name.endswith(".num_batches_tracked")))
  return config, variables


def write_discriminator(variables: Mapping[str, Any]) -> State:
  """A `patchgan` with batch norm as the tensors under "loss.discriminator." that
  `read_discriminator` takes.
  """
  state = {}
  for collection in ("params", "batch_stats"):
    for path, leaf in flax.traverse_util.flatten_dict(variables[collection]).items():
      state[_disc_name(path)] = np.ascontiguousarray(_to_theirs(path, np.asarray(leaf, np.float32)))
  # PyTorch expects the counter, which its fixed momentum does not use.
  counters = [
    name.replace("running_var", "num_batches_tracked")
    for name in state
    if name.endswith("running_var")
  ]
  state |= {name: np.zeros((), np.int64) for name in counters}
  return {f"loss.discriminator.{name}": x for name, x in state.items()}


def _autoencoder(source: reader.Reader, resolution: int) -> dict[str, Any]:
  """Config of the `resnet` whose tensors these are, without its quantizer."""
  names = source.state
  both = lambda name, axis=0: ((f"{name}.weight", axis), (f"{name}.bias", 0))
  ch = source.size("the width", *both("encoder.conv_in"), *both("encoder.down.0.block.0.norm1"))
  found = [
    m.groups() for name in names if (m := re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.", name))
  ]
  levels = range(1 + max((int(level) for level, _ in found), default=0))
  widths = []
  for i in levels:
    block = f"encoder.down.{i}.block.0"
    places = (place for part in ("conv1", "norm2", "conv2") for place in both(f"{block}.{part}"))
    widths.append(source.size(f"the width of level {i}", *places))
    if widths[-1] % ch:
      raise UserError(
        f"taming checkpoint: '{block}.conv1.weight' makes {widths[-1]} channels, no multiple of the first {ch}."
      )
  if resolution < 2 ** levels[-1]:
    raise UserError(
      f"--option resolution: {resolution} is too small for {len(levels)} levels; give the side of the images."
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
    z_channels=source.size("z_channels", *both("post_quant_conv"), ("decoder.conv_in.weight", 1)),
    channels=source.size("the image's channels", ("encoder.conv_in.weight", 1)),
    out_channels=source.size("the output's channels", *both("decoder.conv_out")),
  )


def _quantizer(source: reader.Reader, chosen: Mapping[str, Any]) -> dict[str, Any]:
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


def _name(path: reader.Path, gumbel: bool) -> str:
  """Their name for our parameter."""
  if path == ("quantizer", "codebook"):
    return "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
  *modules, leaf = path
  if modules[0] == "quantizer":
    modules[0] = "quantize"
  modules = [re.sub(r"^(down|up)_(\d+)_(block|attn)_(\d+)$", r"\1.\2.\3.\4", m) for m in modules]
  modules = [re.sub(r"^(down|up)_(\d+)_(downsample|upsample)$", r"\1.\2.\3", m) for m in modules]
  modules = [re.sub(r"^mid_", "mid.", m) for m in modules]
  return ".".join((*modules, _LEAVES[leaf]))


def _disc_name(path: reader.Path) -> str:
  module, leaf = path
  return f"{module.replace('_', '.')}.{_LEAVES[leaf]}"


def _to_theirs(path: reader.Path, x: np.ndarray) -> np.ndarray:
  if path[-1] != "kernel":
    return x
  # GumbelVQ's projection is a dense layer here and a 1 x 1 convolution there.
  return np.transpose(x)[:, :, None, None] if x.ndim == 2 else np.transpose(x, (3, 2, 0, 1))


def _to_ours(path: reader.Path, x: np.ndarray) -> np.ndarray:
  if path[-1] != "kernel":
    return x
  return np.transpose(x[:, :, 0, 0]) if path[-2] == "proj" else np.transpose(x, (2, 3, 1, 0))
