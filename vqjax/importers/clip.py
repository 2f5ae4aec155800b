"""CLIP as transformers' CLIPModel has it: two towers, to embed images and captions and to rank."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vqjax.errors import UserError
from vqjax.importers import Imported, _reader

FILES = 1
WHERE = "huggingface.co/openai/clip-vit-base-patch32: model.safetensors, vocab.json and merges.txt"
OPTIONS = dict(bpe="", image_heads=0, text_heads=0, activation="quick_gelu")

# Of pixels in [0, 1]: what CLIP's preprocessing takes off them and divides them by.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
# Buffers of older files: the positions 0 … L - 1.
_IGNORED = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")

State = Mapping[str, np.ndarray]


def read(
  states: Sequence[State], options: Mapping[str, Any], into: pathlib.Path
) -> Sequence[Imported]:
  """A run of vqjax/tasks/contrast.py.

  Args:
    states: the one state dict.
    options: `bpe`, CLIP's vocab.json (with merges.txt beside it) or their folder, without which
      captions cannot be read; `image_heads` and `text_heads` of the attention, 0 where heads are 64
      wide, as in all that OpenAI published; the towers' `activation`.
    into: not used.

  Raises:
    UserError: a tensor that is missing, extra or misshapen, or an option that does not fit.
  """
  del into
  (state,) = states
  reader = _reader.Reader(state, "--checkpoint")
  features = reader.size(
    "the vectors' width", ("visual_projection.weight", 0), ("text_projection.weight", 0)
  )
  image, size, channels = _image(reader, options)
  text, vocabulary, length = _text(reader, options)
  scale = reader.take("logit_scale", ())
  params = {
    "image": _image_params(reader, image, size, channels, features),
    "text": _text_params(reader, text, vocabulary, length, features),
    "log_scale": np.asarray(scale),
  }
  reader.done(_IGNORED)
  captions = dict(bpe=options["bpe"] or None, size=vocabulary, length=length)
  config = dict(
    task="contrast", model=dict(image=image, text=text, features=features), text=captions
  )
  return (
    Imported(
      config=config | _reader.images(size, channels),
      spec={"image": ((size, size, channels), "uint8"), "text": ((length,), "int32")},
      params={"model": params},
      stats={"model": {}},
    ),
  )


def _image(reader: _reader.Reader, options: Mapping[str, Any]) -> tuple[dict[str, Any], int, int]:
  """(the tower's sub-dict, side of its images, their channels)."""
  prefix, cut = "vision_model", "vision_model.embeddings.patch_embedding.weight"
  places = reader.size(
    "the size of images", ("vision_model.embeddings.position_embedding.weight", 0)
  )
  channels, patch = reader.size("channels", (cut, 1)), reader.size("patches", (cut, 2))
  side = math.isqrt(places - 1)
  if side * side != places - 1:
    raise UserError(f"--checkpoint: {places - 1} patches are no square; only such can be read.")
  sizes = _sizes(reader, prefix, options, "image_heads")
  fit = channels == len(_MEAN)
  pixels = dict(mean=_MEAN, std=_STD) if fit else dict(mean=(0.5,), std=(0.5,))
  return dict(name="vit", patch=patch) | sizes | pixels, side * patch, channels


def _text(reader: _reader.Reader, options: Mapping[str, Any]) -> tuple[dict[str, Any], int, int]:
  """(the tower's sub-dict, ids of its vocabulary, ids of a caption)."""
  embeddings = "text_model.embeddings"
  vocabulary = reader.size("the vocabulary", (f"{embeddings}.token_embedding.weight", 0))
  length = reader.size("a caption's length", (f"{embeddings}.position_embedding.weight", 0))
  sizes = _sizes(reader, "text_model", options, "text_heads")
  return dict(name="transformer") | sizes, vocabulary, length


def _sizes(
  reader: _reader.Reader, prefix: str, options: Mapping[str, Any], option: str
) -> dict[str, Any]:
  """Fields that both towers have."""
  layers = f"{prefix}.encoder.layers."
  depth = len({n.removeprefix(layers).split(".")[0] for n in reader.state if n.startswith(layers)})
  norms = [(f"{layers}{i}.layer_norm1.weight", 0) for i in range(depth)]
  width = reader.size(f"the width of {prefix}", (f"{layers}0.layer_norm1.weight", 0), *norms)
  inside = [(f"{layers}{i}.mlp.fc1.weight", 0) for i in range(depth)]
  hidden = reader.size(f"the MLPs' width of {prefix}", *inside)
  heads = options[option] or max(1, width // 64)
  if heads < 0 or width % heads:
    raise UserError(f"--option {option}: {heads} does not divide the width {width}.")
  if options["activation"] not in ("quick_gelu", "gelu"):
    raise UserError(
      f"--option activation: {options['activation']!r} is neither quick_gelu nor gelu."
    )
  return dict(
    width=width, depth=depth, heads=heads, mlp_width=hidden, activation=options["activation"]
  )


def _image_params(
  reader: _reader.Reader, tower: Mapping[str, Any], size: int, channels: int, features: int
) -> dict[str, Any]:
  width, patch = tower["width"], tower["patch"]
  prefix = "vision_model"
  cut = reader.take(f"{prefix}.embeddings.patch_embedding.weight", (width, channels, patch, patch))
  places = ((size // patch) ** 2 + 1, width)
  return {
    # Our patches are flattened in raster order, channels last.
    "embed": {"kernel": np.moveaxis(cut, (0, 1), (3, 2)).reshape(-1, width)},
    "start": reader.take(f"{prefix}.embeddings.class_embedding", (width,)),
    "positions": reader.take(f"{prefix}.embeddings.position_embedding.weight", places),
    "norm_in": _norm(reader, f"{prefix}.pre_layrnorm", width),  # as transformers spells it
    "norm_out": _norm(reader, f"{prefix}.post_layernorm", width),
    "out": {"kernel": reader.take("visual_projection.weight", (features, width)).T},
  } | _blocks(reader, prefix, tower)


def _text_params(
  reader: _reader.Reader, tower: Mapping[str, Any], vocabulary: int, length: int, features: int
) -> dict[str, Any]:
  width, prefix = tower["width"], "text_model"
  embeddings = f"{prefix}.embeddings"
  return {
    "table": reader.take(f"{embeddings}.token_embedding.weight", (vocabulary, width)),
    "positions": reader.take(f"{embeddings}.position_embedding.weight", (length, width)),
    "norm_out": _norm(reader, f"{prefix}.final_layer_norm", width),
    "out": {"kernel": reader.take("text_projection.weight", (features, width)).T},
  } | _blocks(reader, prefix, tower)


def _blocks(reader: _reader.Reader, prefix: str, tower: Mapping[str, Any]) -> dict[str, Any]:
  width, hidden = tower["width"], tower["mlp_width"]
  block: Callable[[str], dict[str, Any]] = lambda layer: {
    "norm1": _norm(reader, f"{layer}.layer_norm1", width),
    "norm2": _norm(reader, f"{layer}.layer_norm2", width),
    "qkv": _joined(_dense(reader, f"{layer}.self_attn.{n}_proj", width, width) for n in "qkv"),
    "proj": _dense(reader, f"{layer}.self_attn.out_proj", width, width),
    "mlp_in": _dense(reader, f"{layer}.mlp.fc1", width, hidden),
    "mlp_out": _dense(reader, f"{layer}.mlp.fc2", hidden, width),
  }
  return {f"block_{i}": block(f"{prefix}.encoder.layers.{i}") for i in range(tower["depth"])}


def _norm(reader: _reader.Reader, name: str, width: int) -> dict[str, np.ndarray]:
  return {
    "scale": reader.take(f"{name}.weight", (width,)),
    "bias": reader.take(f"{name}.bias", (width,)),
  }


def _dense(reader: _reader.Reader, name: str, inputs: int, outputs: int) -> dict[str, np.ndarray]:
  kernel = reader.leaf(f"{name}.weight", ("kernel",), (inputs, outputs))
  return {"kernel": kernel, "bias": reader.take(f"{name}.bias", (outputs,))}


def _joined(parts: Any) -> dict[str, np.ndarray]:
  """Linear maps of the same input as one."""
  parts = list(parts)
  return {k: np.concatenate([part[k] for part in parts], axis=-1) for k in ("kernel", "bias")}
