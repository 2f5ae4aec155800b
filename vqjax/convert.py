"""Convert published weights: python -m vqjax.convert --source=taming_vqgan --checkpoint=FILE
--workdir=OUT [--option NAME=VALUE …]

    --source=taming_vqgan        VQModel, VQSegmentationModel or GumbelVQ of taming-transformers, and its discriminator if there
    --source=taming_transformer  Net2Net of taming-transformers given classes, maps or nothing, all stages; needs --option heads=N
    --source=openai_dvae         DALL-E's dVAE; give --checkpoint twice, encoder and decoder
    --source=lpips               VGG16 of torchvision and LPIPS's linear weights (--checkpoint twice) to --output=FILE.npz
    --target=taming_vqgan        a workdir back to a checkpoint of taming-transformers

Sizes are read from the tensors; what a file does not hold is given as options. OUT is a workdir
like any other. Nothing that a file contains is executed. PyTorch files need `pip install torch
safetensors`.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqjax import cli
from vqjax.errors import UserError

SOURCES = ("taming_vqgan", "taming_transformer", "openai_dvae", "lpips")
LAYOUTS = dict(reconstruction="binary_cross_entropy")  # what makes a tokenizer one of label maps


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--source", choices=SOURCES)
  what.add_argument("--target", choices=("taming_vqgan",))
  parser.add_argument(
    "--checkpoint", action="append", type=pathlib.Path, default=[], metavar="FILE"
  )
  parser.add_argument("--workdir", type=pathlib.Path)
  parser.add_argument("--output", type=pathlib.Path, help="of --source=lpips")
  parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
  args = parser.parse_args(argv)
  wanted = 2 if args.source in ("openai_dvae", "lpips") else 1
  if len(args.checkpoint) != wanted:
    raise UserError(
      f"--checkpoint: {args.source or args.target} takes {wanted} file(s), not {len(args.checkpoint)}."
    )
  where = "output" if args.source == "lpips" else "workdir"
  if getattr(args, where) is None:
    raise UserError(f"--{where}: is not set; say where the result goes.")
  options = _options(args.option)
  if args.target:
    _export(args.workdir, args.checkpoint[0])
  else:
    _import(args.source, args.checkpoint, options, args.workdir, args.output)
  print(f"written: {args.checkpoint[0] if args.target else getattr(args, where)}")


def _options(words: Sequence[str]) -> dict[str, str]:
  for word in words:
    if "=" not in word:
      raise UserError(f"--option {word}: write NAME=VALUE.")
  return dict(word.split("=", 1) for word in words)


def _import(
  source: str, files: Sequence[pathlib.Path], options: dict[str, str], workdir: Any, output: Any
) -> None:
  from vqjax.importers import lpips, openai_dvae, taming, torch_file

  states = [torch_file.load(file) for file in files]
  if source == "lpips":
    # Either order: the linear weights are the file whose names start with "lin".
    states.sort(key=lambda state: any(name.startswith("lin") for name in state))
    lpips.save(output, lpips.read(*states))
  elif source == "openai_dvae":
    config, variables = openai_dvae.read(openai_dvae.join(*states), options)
    _write_tokenizer(
      workdir, config, variables, size=256, loss=dict(reconstruction="logit_laplace")
    )
  elif source == "taming_vqgan":
    config, variables = taming.read(states[0], options)
    judge = (
      taming.read_discriminator(states[0])
      if any("discriminator" in name for name in states[0])
      else None
    )
    loss = LAYOUTS if taming.is_segmentation(states[0]) else dict(reconstruction="l1")
    _write_tokenizer(workdir, config, variables, size=config["resolution"], loss=loss, judge=judge)
  else:
    _import_transformer(states[0], options, workdir)


def _write_tokenizer(
  workdir: pathlib.Path,
  model: dict[str, Any],
  variables: Mapping[str, Any],
  size: int,
  loss: dict[str, Any],
  judge: tuple[dict[str, Any], Mapping[str, Any]] | None = None,
) -> None:
  model = dict(model)
  del model["out_channels"]
  spec = {"layout": ((size, size), "uint8")} if loss == LAYOUTS else {}
  channels = 3 if spec else model.pop("channels")
  config = dict(
    model=model,
    loss=loss,
    data=dict(name="shapes", size=min(size, 256)),
    ops=dict(size=size, channels=channels),
  )
  params, stats = (
    {"model": variables["params"]},
    {"model": {k: v for k, v in variables.items() if k != "params"}},
  )
  if judge:
    config["disc"] = judge[0]
    params["disc"], stats["disc"] = (
      judge[1]["params"],
      {k: v for k, v in judge[1].items() if k != "params"},
    )
  _write(workdir, config, {"image": ((size, size, channels), "uint8")} | spec, params, stats)


def _import_transformer(
  state: Mapping[str, np.ndarray], options: dict[str, str], workdir: pathlib.Path
) -> None:
  from vqjax.importers import mingpt, reader, taming

  chosen = reader.options(options, dict(heads=0, labels=0, resolution=256, legacy=True, beta=0.25))
  if not chosen["heads"]:
    raise UserError(
      "--option heads: the tensors do not tell their number; give --option heads=N (n_head of the published config)."
    )
  part = lambda name: {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}
  first, cond = part("first_stage_model."), part("cond_stage_model.")
  if not first:
    raise UserError(
      "--checkpoint: holds no tensor first_stage_model.*; it is no Net2Net checkpoint of taming-transformers."
    )
  if cond and not taming.is_segmentation(cond):
    raise UserError(
      "--checkpoint: its cond_stage_model is no VQSegmentationModel; classes, maps and nothing can be read as conditions."
    )
  how = {k: chosen[k] for k in ("resolution", "legacy", "beta")}
  tokenizer, variables = taming.read(first, how)
  codes = tokenizer["quantizer"]["codebook_size"]
  if cond:
    if chosen["labels"]:
      raise UserError(
        f"--option labels: {chosen['labels']}, but the checkpoint's condition is a segmentation map; leave the option out."
      )
    layouts, layout_variables = taming.read(cond, how)
    rows = layouts["quantizer"]["codebook_size"]
    grid, prefix = _sides(state, _factor(tokenizer), _factor(layouts))
    config, params = mingpt.read(
      state, heads=chosen["heads"], codes=codes, grid=(grid, grid), prefix=prefix**2
    )
  else:
    config, params = mingpt.read(state, heads=chosen["heads"], codes=codes)
    rows = chosen["labels"] or config["vocab_size"] - codes
  if rows > config["vocab_size"] - codes:
    raise UserError(
      f"--option labels: {rows} is more than the {config['vocab_size'] - codes} rows of the checkpoint's embedding."
    )
  params["embed"]["table"] = params["embed"]["table"][: codes + rows]
  side = config["grid"][0] * _factor(tokenizer)
  condition, given = dict(labels=rows, drop=0.0), {"label": ((), "int32")}
  _write_tokenizer(
    workdir / "tokenizer",
    tokenizer,
    variables,
    side if cond else chosen["resolution"],
    dict(reconstruction="l1"),
  )
  if cond:
    path = workdir / "layout_tokenizer"
    _write_tokenizer(path, layouts, layout_variables, side, LAYOUTS)
    condition, given = (
      dict(layout_tokenizer=str(path.absolute()), drop=0.0),
      {"layout": ((side, side), "uint8")},
    )
  model = {
    k: v
    for k, v in config.items()
    if k not in ("vocab_size", "out_size", "grid", "causal", "max_prefix")
  }
  prior = dict(
    task="prior",
    tokenizer=str((workdir / "tokenizer").absolute()),
    model=model,
    scheme=dict(name="autoregressive"),
    condition=condition,
    data=dict(name="shapes", size=min(side, 256)),
    ops=dict(size=side, channels=tokenizer["channels"]),
  )
  _write(
    workdir,
    prior,
    {"image": ((side, side, tokenizer["channels"]), "uint8")} | given,
    {"model": params},
    {"model": {}},
  )


def _factor(tokenizer: Mapping[str, Any]) -> int:
  return 2 ** (len(tokenizer["ch_mult"]) - 1)


def _sides(state: Mapping[str, np.ndarray], factor: int, layout_factor: int) -> tuple[int, int]:
  """Sides of the grids of the image's and of the map's codes: the largest picture whose codes the
  transformer has places for.
  """
  if "transformer.pos_emb" not in state:
    raise UserError(
      "--checkpoint: tensor 'transformer.pos_emb' is missing; is it a Net2Net checkpoint of taming?"
    )
  places = state["transformer.pos_emb"].shape[1]
  step = max(factor, layout_factor)
  unit = (step // factor) ** 2 + (step // layout_factor) ** 2
  # The last code is predicted, not read.
  times = math.isqrt((places + 1) // unit)
  return times * step // factor, times * step // layout_factor


def _write(
  workdir: pathlib.Path, config: dict[str, Any], spec: dict[str, Any], params: Any, stats: Any
) -> None:
  """A workdir at step 0 with these variables.

  What the import does not have (optimizer, LeCAM) starts afresh.
  """
  import jax

  from vqjax import checkpoint, config as configuration, train

  if (workdir / "checkpoints").exists():
    raise UserError(f"--workdir={workdir}: already holds a run; choose another folder.")
  config = configuration.complete(config)
  spec = {k: jax.ShapeDtypeStruct((1, *shape), dtype) for k, (shape, dtype) in spec.items()}
  workdir.mkdir(parents=True, exist_ok=True)
  configuration.save(config, workdir)
  configuration.save_spec(spec, workdir)
  run = train.Run(config, spec)
  place = lambda new, like: jax.tree.map(
    lambda n, s: jax.device_put(np.asarray(n, s.dtype), s.sharding), new, like
  )
  params, stats = (
    {k: place(v, like[k]) for k, v in new.items()}
    for new, like in ((params, run.abstract.params), (stats, run.abstract.stats))
  )
  with checkpoint.Checkpoints(workdir) as checkpoints:
    checkpoints.save(0, run.init(jax.random.key(config.seed), params, stats), train.NoStream())


def _export(workdir: pathlib.Path, file: pathlib.Path) -> None:
  import jax

  from vqjax import api
  from vqjax.importers import taming, torch_file
  from vqjax.nn import palette

  model = api.load(workdir)
  config = model.config.model.to_dict()
  if config["name"] != "resnet" or config["quantizer"]["name"] not in ("vq", "gumbel"):
    names = f"{config['name']} with {config['quantizer']['name']}"
    raise UserError(
      f"--target=taming_vqgan: {names} has no place there; only resnet with vq or gumbel."
    )
  params, stats, _ = jax.device_get(model.state)
  classes = model.run.task.known["classes"]
  config |= dict.fromkeys(("channels", "out_channels"), classes or model.channels)
  state = taming.write(config, {"params": params["model"], **stats["model"]})
  if (
    "disc" in params
    and model.config.disc["name"] == "patchgan"
    and model.config.disc.get("norm", "batch") == "batch"
  ):
    state |= taming.write_discriminator({"params": params["disc"], **stats["disc"]})
  if classes:  # VQSegmentationModel's buffer, by which it shows its classes
    state["colorize"] = np.float32(palette.TABLE[:classes].T[:, :, None, None])
  file.parent.mkdir(parents=True, exist_ok=True)
  torch_file.save(file, {"state_dict": state})


if __name__ == "__main__":
  cli.run(main)
