"""AutoencoderKL: the first stage of latent diffusion, as diffusers or CompVis lay it out."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import numpy as np

from vqjax.errors import UserError
from vqjax.importers import Imported, _reader, _torch_file

FILES = 1
WHERE = (
  "huggingface.co/stabilityai/sd-vae-ft-mse: the folder with config.json, or its safetensors; or a "
  ".ckpt of github.com/CompVis/latent-diffusion"
)
OPTIONS = dict(resolution=256, norm_groups=32, kl_weight=1e-6)

State = Mapping[str, np.ndarray]

_WEIGHTS = "diffusion_pytorch_model.safetensors"
# Part of a whole diffusion model's file, and what such files hold beside the autoencoder.
_WITHIN = "first_stage_model."
_IGNORED = ("loss.", "model_ema.")
_SETTINGS = {"sample_size": "resolution", "norm_num_groups": "norm_groups"}

# Our modules within encoder and decoder, and diffusers' names for them; `{up}` counts levels from
# the coarsest.
_DIFFUSERS = (
  (r"down_(\d+)_block_(\d+)", "down_blocks.{0}.resnets.{1}"),
  (r"down_(\d+)_attn_(\d+)", "down_blocks.{0}.attentions.{1}"),
  (r"down_(\d+)_downsample", "down_blocks.{0}.downsamplers.0"),
  (r"up_(\d+)_block_(\d+)", "up_blocks.{up}.resnets.{1}"),
  (r"up_(\d+)_attn_(\d+)", "up_blocks.{up}.attentions.{1}"),
  (r"up_(\d+)_upsample", "up_blocks.{up}.upsamplers.0"),
  (r"mid_block_1", "mid_block.resnets.0"),
  (r"mid_block_2", "mid_block.resnets.1"),
  (r"mid_attn_1", "mid_block.attentions.0"),
  (r"norm_out", "conv_norm_out"),
  (r"nin_shortcut", "conv_shortcut"),
)
_COMPVIS = (
  (r"(down|up)_(\d+)_(block|attn)_(\d+)", "{0}.{1}.{2}.{3}"),
  (r"(down|up)_(\d+)_(downsample|upsample)", "{0}.{1}.{2}"),
  (r"mid_(\w+)", "mid.{0}"),
)
# Of attention; older files of diffusers have the second name.
_ATTENTION = {
  "norm": ("group_norm", "group_norm"),
  "q": ("to_q", "query"),
  "k": ("to_k", "key"),
  "v": ("to_v", "value"),
  "proj_out": ("to_out.0", "proj_attn"),
}


def described(settings: Mapping[str, Any]) -> dict[str, Any]:
  """The options that diffusers' config.json tells."""
  if settings.get("_class_name") != "AutoencoderKL":
    return {}
  return {ours: settings[theirs] for theirs, ours in _SETTINGS.items() if settings.get(theirs)}


def read(
  states: Sequence[State], options: Mapping[str, Any], into: pathlib.Path
) -> Sequence[Imported]:
  """The tokenizer of arXiv 2112.10752 with a Gaussian posterior; the tensors tell its sizes.

  Its latents are as the encoder gives them: the factor (0.18215 of Stable Diffusion's) by which
  diffusion models scale them belongs to a prior, see config.latents.

  Args:
    states: the one state dict, of the autoencoder or of a whole diffusion model that holds it.
    options: `resolution` of the training images, which also names the levels with attention;
      `norm_groups` of every group norm; `kl_weight` of further training, against sums over all of
      an image, as published.
    into: not used.

  Raises:
    UserError: tensors that are missing, extra or misshapen, all named; or an option that does not
      fit.
  """
  del into
  (state,) = states
  if any(name.startswith(_WITHIN) for name in state):
    state = {k.removeprefix(_WITHIN): v for k, v in state.items() if k.startswith(_WITHIN)}
  diffusers = not any(name.startswith(("encoder.mid.", "encoder.down.")) for name in state)
  source = _reader.Reader(state, "--checkpoint")
  model = _architecture(source, options, diffusers)
  channels = source.size("the image's channels", ("encoder.conv_in.weight", 1))
  name = _namer(len(model["ch_mult"]), diffusers, state)

  def take(collection: str, path: _reader.Path, shape: tuple[int, ...]) -> np.ndarray:
    if f"{path[0]}.weight" not in state and path[0] in ("quant_conv", "post_quant_conv"):
      # Models without these convolutions (Stable Diffusion 3's): the identity.
      if path[-1] == "bias":
        return np.zeros(shape, np.float32)
      return np.eye(*shape[-2:], dtype=np.float32).reshape(shape)
    theirs = name(path)
    if path[-1] == "kernel" and theirs in state and state[theirs].ndim == 2:
      # Attention: a linear map there, a convolution of size 1 here.
      return source.take(theirs, shape[-2:][::-1]).T.reshape(shape)
    return source.leaf(theirs, path, shape)

  variables = _reader.autoencoder(model, channels, channels, take)
  source.done(_IGNORED)
  return (_reader.tokenizer_run(model, variables, "l1", options["resolution"], channels),)


def write(config: Mapping[str, Any], params: Mapping[str, Any], stats: Mapping[str, Any]) -> State:
  """The state dict in CompVis' layout.

  Raises:
    UserError: another autoencoder than `resnet`, or another quantizer than `gaussian`.
  """
  del stats
  return _written(config, params, diffusers=False)


def write_folder(
  config: Mapping[str, Any],
  params: Mapping[str, Any],
  stats: Mapping[str, Any],
  folder: pathlib.Path,
) -> None:
  """Writes diffusers' folder: config.json and the weights. Raises as `write` does."""
  del stats
  state, model = _written(config, params, diffusers=True), config["model"]
  levels = range(len(model["ch_mult"]))
  attention = [model["resolution"] // 2**i in model["attn_resolutions"] for i in levels]
  kind = lambda side, i: f"{'Attn' if attention[i] else ''}{side}"
  channels = params["model"]["encoder"]["conv_in"]["kernel"].shape[-2]
  said = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "in_channels": channels,
    "out_channels": params["model"]["decoder"]["conv_out"]["kernel"].shape[-1],
    "block_out_channels": [model["ch"] * m for m in model["ch_mult"]],
    "down_block_types": [f"{kind('Down', i)}EncoderBlock2D" for i in levels],
    "up_block_types": [f"{kind('Up', i)}DecoderBlock2D" for i in reversed(levels)],
    "latent_channels": model["quantizer"]["dim"],
    "layers_per_block": model["num_res_blocks"],
    "mid_block_add_attention": model["mid_attention"],
    "norm_num_groups": model["norm_groups"],
    "sample_size": model["resolution"],
    "use_quant_conv": True,
    "use_post_quant_conv": True,
  }
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(said, indent=2), encoding="utf-8")
  _torch_file.save(folder / _WEIGHTS, state)


def _written(config: Mapping[str, Any], params: Mapping[str, Any], diffusers: bool) -> State:
  model = config["model"]
  if model["name"] != "resnet" or model["quantizer"]["name"] != "gaussian":
    raise UserError(
      f"config.model: {model['name']!r} with quantizer {model['quantizer']['name']!r} is no "
      "AutoencoderKL; 'resnet' with 'gaussian' is."
    )
  if diffusers and model["z_channels"] != model["quantizer"]["dim"]:
    raise UserError(
      f"config.model.z_channels: {model['z_channels']}, but latents have "
      f"{model['quantizer']['dim']} channels: diffusers has one number; write a .ckpt."
    )
  name, state = _namer(len(model["ch_mult"]), diffusers, {}), {}
  for path, leaf in flax.traverse_util.flatten_dict(params["model"]).items():
    x = _reader.to_torch(path, leaf)
    linear = diffusers and "attn" in path[1] and x.ndim == 4
    state[name(path)] = x[:, :, 0, 0] if linear else x
  return state


def _architecture(
  source: _reader.Reader, options: Mapping[str, Any], diffusers: bool
) -> dict[str, Any]:
  """Config of the `resnet` with its quantizer."""
  level = r"down_blocks\.(\d+)\." if diffusers else r"down\.(\d+)\."
  block, attend = ("resnets", "attentions") if diffusers else ("block", "attn")
  numbers = lambda pattern: {
    tuple(map(int, m.groups())) for n in source.state if (m := re.match(pattern, n))
  }
  blocks = numbers(rf"encoder\.{level}{block}\.(\d+)\.")
  levels = range(1 + max((i for i, _ in blocks), default=0))
  ch = source.size("the width", ("encoder.conv_in.weight", 0), ("encoder.conv_in.bias", 0))
  widths = []
  for i in levels:
    first = f"encoder.down_blocks.{i}.resnets.0" if diffusers else f"encoder.down.{i}.block.0"
    widths.append(source.size(f"the width of level {i}", (f"{first}.conv1.weight", 0)))
    if widths[-1] % ch:
      raise UserError(
        f"--checkpoint: level {i} has {widths[-1]} channels, no multiple of the first {ch}."
      )
  channels = source.size("the image's channels", ("encoder.conv_in.weight", 1))
  # Without `post_quant_conv` the decoder reads the latents themselves.
  z = source.size("z_channels", ("decoder.conv_in.weight", 1))
  dims = [source.state[n].shape[1] for n in ("post_quant_conv.weight",) if n in source.state]
  resolution = options["resolution"]
  if resolution < 2 ** levels[-1]:
    raise UserError(
      f"--option resolution: {resolution} is too small for {len(levels)} levels; give the side of "
      "the images."
    )
  attention = {i for (i, *_) in numbers(rf"encoder\.{level}{attend}\.\d+\.")}
  return dict(
    name="resnet",
    ch=ch,
    ch_mult=tuple(width // ch for width in widths),
    num_res_blocks=1 + max((j for _, j in blocks), default=0),
    attn_resolutions=tuple(resolution // 2**i for i in sorted(attention)),
    resolution=resolution,
    mid_attention=any(".mid.attn_1." in n or ".mid_block.attentions." in n for n in source.state),
    z_channels=z,
    norm_groups=options["norm_groups"],
    quantizer=dict(
      name="gaussian",
      dim=dims[0] if dims else z,
      # Here against means, over pixels' values and over positions.
      kl_weight=options["kl_weight"] / (channels * 4 ** levels[-1]),
    ),
  )


def _namer(levels: int, diffusers: bool, state: State) -> Callable[[_reader.Path], str]:
  """fn(path of our parameter) -> their name for it."""
  old = any(".query." in name for name in state)  # of diffusers' attention
  table = _DIFFUSERS if diffusers else _COMPVIS

  def renamed(module: str) -> str:
    for pattern, theirs in table:
      if m := re.fullmatch(pattern, module):
        up = levels - 1 - int(m[1]) if diffusers and module.startswith("up_") else None
        return theirs.format(*m.groups(), up=up)
    return module

  def name(path: _reader.Path) -> str:
    *modules, leaf = path
    attention = diffusers and len(modules) > 2 and "attn" in modules[1]
    last = _ATTENTION[modules[-1]][old] if attention else None
    modules = [renamed(m) for m in modules]
    return ".".join((*modules[:-1], last or modules[-1], _reader.LEAVES[leaf]))

  return name
