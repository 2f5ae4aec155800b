"""DiT of facebookresearch: a class-conditional transformer over an autoencoder's latents."""

from __future__ import annotations

import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqjax import files
from vqjax.build import build
from vqjax.errors import UserError
from vqjax.importers import Imported, _reader
from vqjax.nn import attention

FILES = 1
WHERE = "github.com/facebookresearch/DiT: DiT-XL-2-256x256.pt, over stabilityai/sd-vae-ft-ema"
OPTIONS = dict(tokenizer=str, heads=0, scale=0.18215, timesteps=1_000)

State = Mapping[str, np.ndarray]

_HEAD_WIDTHS = {384: 64, 768: 64, 1024: 64, 1152: 72}  # of the published sizes

# Our dense layers within a block, and theirs; the three of attention's inputs are one there.
_BLOCK = {"proj": "attn.proj", "up": "mlp.fc1", "down": "mlp.fc2", "modulate": "adaLN_modulation.1"}
_QKV = ("query", "key", "value")
_OUTSIDE = {
  "time_in": "t_embedder.mlp.0",
  "time_out": "t_embedder.mlp.2",
  "modulate": "final_layer.adaLN_modulation.1",
  "head": "final_layer.linear",
}
_LABELS = "y_embedder.embedding_table.weight"


def read(
  states: Sequence[State], options: Mapping[str, Any], into: pathlib.Path
) -> Sequence[Imported]:
  """The prior of arXiv 2212.09748, as published: linear schedule, learned variance where the
  tensors have it, the last label for guidance, which moves three channels.

  Args:
    states: the one state dict.
    options: `tokenizer`, the workdir of the autoencoder, as `autoencoder_kl` makes it; `heads` of
      the attention, 0 for those of the published widths; `scale`, by which its latents were
      multiplied; `timesteps` of the schedule.
    into: not used.

  Raises:
    UserError: no such tokenizer or one of another size, tensors that are missing, extra or
      misshapen, or an option that does not fit.
  """
  del into
  (state,) = states
  source = _reader.Reader(state, "--checkpoint")
  width = source.size("the width", ("x_embedder.proj.weight", 0), ("x_embedder.proj.bias", 0))
  patch = source.size("the patch", ("x_embedder.proj.weight", 2))
  channels = source.size("the latents' channels", ("x_embedder.proj.weight", 1))
  wide = source.size("the output", ("final_layer.linear.bias", 0), ("final_layer.linear.weight", 0))
  rows = source.size("the classes", (_LABELS, 0))
  places = source.size("the places", ("pos_embed", 1))
  layers = 1 + max((int(m[1]) for n in state if (m := re.match(r"blocks\.(\d+)\.", n))), default=0)
  sizes = dict(
    name="dit",
    layers=layers,
    width=width,
    heads=_heads(options["heads"], width),
    hidden=source.size("the MLP's width", ("blocks.0.mlp.fc1.bias", 0)),
    patch=patch,
  )
  grid = (math.isqrt(places),) * 2
  tokenizer, size, image_channels = _tokenizer(options["tokenizer"], patch * grid[0], channels)
  _check_positions(source, grid, width)
  scheme = dict(name="ddpm", timesteps=options["timesteps"], guided_channels=min(3, channels))
  if wide == 2 * patch**2 * channels:
    scheme["variance"] = "learned"
  config = dict(
    task="prior",
    tokenizer=tokenizer,
    model=sizes,
    scheme=scheme,
    condition=dict(label=dict(classes=rows - 1)),
    latents=dict(kind="sampled", mean=(0.0,) * channels, std=(1 / options["scale"],) * channels),
  )
  params = _params(source, sizes, channels, wide, rows)
  source.done()
  return (
    Imported(
      config=config | _reader.images(size, image_channels),
      spec={"image": ((size, size, image_channels), "uint8"), "label": ((), "int32")},
      params={"model": params},
      stats={"model": {}},
    ),
  )


def write(config: Mapping[str, Any], params: Mapping[str, Any], stats: Mapping[str, Any]) -> State:
  """The state dict of their class.

  Raises:
    UserError: a network or a condition that theirs does not have.
  """
  del stats
  model = config["model"]
  fixed = dict(name="dit", condition="pooled", positions="sine", mlp="gelu", qk_norm="none")
  odd = [name for name, value in fixed.items() if model.get(name, value) != value]
  given = {k for k, v in config["condition"].items() if k != "drop" and v is not None}
  if odd or given != {"label"} or not isinstance(model["patch"], int):
    raise UserError(
      "config.model: DiT's own class is a 'dit' with pooled classes alone, one patch side, sine "
      "positions, gelu and no qk_norm; this one is another."
    )
  params, (p, width) = params["model"], (model["patch"], model["width"])
  kernel = np.asarray(params["patch_in"]["kernel"], np.float32)
  theirs = lambda layer: np.ascontiguousarray(np.asarray(layer["kernel"], np.float32).T)
  bias = lambda layer: np.asarray(layer["bias"], np.float32)
  state = {
    "x_embedder.proj.weight": np.ascontiguousarray(
      kernel.reshape(p, p, -1, width).transpose(3, 2, 0, 1)
    ),
    "x_embedder.proj.bias": bias(params["patch_in"]),
    _LABELS: np.concatenate(
      [np.asarray(params["embed"]["table"]), np.asarray(params["embed"]["null"])[None]]
    ),
    "pos_embed": attention.sine_table(_grid(config), width)[None],
  }
  for ours, name in _OUTSIDE.items():
    state |= {f"{name}.weight": theirs(params[ours]), f"{name}.bias": bias(params[ours])}
  for i in range(model["layers"]):
    block = {k: {n: np.asarray(x)[i] for n, x in v.items()} for k, v in params["blocks"].items()}
    for ours, name in _BLOCK.items():
      at = f"blocks.{i}.{name}"
      state |= {f"{at}.weight": theirs(block[ours]), f"{at}.bias": bias(block[ours])}
    at = f"blocks.{i}.attn.qkv"
    state[f"{at}.weight"] = np.concatenate([theirs(block[name]) for name in _QKV])
    state[f"{at}.bias"] = np.concatenate([bias(block[name]) for name in _QKV])
  return state


def _params(
  source: _reader.Reader, sizes: Mapping[str, Any], channels: int, wide: int, rows: int
) -> dict[str, Any]:
  width, hidden, patch = sizes["width"], sizes["hidden"], sizes["patch"]

  def dense(name: str, into: int, out: int) -> dict[str, np.ndarray]:
    return {
      "kernel": source.take(f"{name}.weight", (out, into)).T,
      "bias": source.take(f"{name}.bias", (out,)),
    }

  shapes = {
    "proj": (width, width),
    "up": (width, hidden),
    "down": (hidden, width),
    "modulate": (width, 6 * width),
  }
  blocks = []
  for i in range(sizes["layers"]):
    block = {k: dense(f"blocks.{i}.{name}", *shapes[k]) for k, name in _BLOCK.items()}
    qkv = dense(f"blocks.{i}.attn.qkv", width, 3 * width)
    parts = {k: np.split(x, 3, axis=-1) for k, x in qkv.items()}
    block |= {name: {k: parts[k][j] for k in parts} for j, name in enumerate(_QKV)}
    blocks.append(block)
  stacked = {
    name: {leaf: np.stack([block[name][leaf] for block in blocks]) for leaf in ("kernel", "bias")}
    for name in blocks[0]
  }
  outside = {
    "time_in": (256, width),
    "time_out": (width, width),
    "modulate": (width, 2 * width),
    "head": (width, wide),
  }
  labels = source.take(_LABELS, (rows, width))
  kernel = source.take("x_embedder.proj.weight", (width, channels, patch, patch))
  return {
    "embed": {"table": labels[:-1], "null": labels[-1]},
    "patch_in": {
      "kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, width),
      "bias": source.take("x_embedder.proj.bias", (width,)),
    },
    "blocks": stacked,
  } | {k: dense(name, *outside[k]) for k, name in _OUTSIDE.items()}


def _heads(heads: int, width: int) -> int:
  if not heads and width not in _HEAD_WIDTHS:
    raise UserError(
      f"--option heads: the tensors do not tell it, and {width} is the width of no published DiT; "
      "give --option heads=VALUE."
    )
  return heads or width // _HEAD_WIDTHS[width]


def _check_positions(source: _reader.Reader, grid: tuple[int, int], width: int) -> None:
  """Raises UserError for positions that are no sines on a square."""
  found = source.take("pos_embed", (1, math.prod(grid), width))[0]
  if source.misshapen:
    return  # `done` will say so
  if width % 4 or np.abs(found - attention.sine_table(grid, width)).max() > 1e-4:
    raise UserError("--checkpoint: 'pos_embed' are not DiT's sines and cosines; they are fixed.")


def _tokenizer(workdir: str, side: int, channels: int) -> tuple[str, int, int]:
  """(its absolute path, side and channels of its images). Raises UserError for one whose latents
  are others than `side` x `side` x `channels`.
  """
  size, image_channels, grid, width = _latents(files.path(workdir), "--option tokenizer")
  if (grid, width) != ((side, side), channels):
    found = " x ".join(map(str, (*grid, width)))
    wanted = side * size // grid[0]
    raise UserError(
      f"--option tokenizer: {workdir} has latents of {found}, the checkpoint is over "
      f"{side} x {side} x {channels}; convert one with --option resolution={wanted}."
    )
  return str(files.path(workdir).absolute()), size, image_channels


def _grid(config: Mapping[str, Any]) -> tuple[int, ...]:
  """Of the patches of a prior."""
  _, _, grid, _ = _latents(files.path(config["tokenizer"]), "config.tokenizer")
  return tuple(n // config["model"]["patch"] for n in grid)


def _latents(workdir: files.Path, option: str) -> tuple[int, int, tuple[int, ...], int]:
  """(side and channels of a tokenizer's images, grid and channels of its latents)."""
  file = workdir / "config.json"
  if not file.is_file():
    raise UserError(f"{option}: {workdir} holds no run; give the workdir of the autoencoder.")
  config = json.loads(file.read_text(encoding="utf-8"))
  if config.get("task") != "autoencode":
    raise UserError(f"{option}: {workdir} is no autoencoder; give the workdir of one.")
  ops = config["ops"]
  model = build("autoencoders", config["model"], channels=ops["channels"])
  return ops["size"], ops["channels"], model.grid(*(ops["size"],) * 2), model.latents_width
