"""Convert published weights: python -m vqjax.convert --source=taming_vqgan --checkpoint=FILE --workdir=OUT [--option NAME=VALUE …]

    --source=taming_vqgan        VQModel or GumbelVQ of taming-transformers, with its discriminator where the file has it
    --source=taming_transformer  Net2Net of taming-transformers, both stages; needs --option heads=N
    --source=openai_dvae         DALL-E's dVAE; give --checkpoint twice, encoder and decoder
    --source=lpips               VGG16 of torchvision and LPIPS's linear weights (--checkpoint twice) to --output=FILE.npz
    --target=taming_vqgan        a workdir back to a checkpoint of taming-transformers

Sizes are read from the tensors; what a file does not hold is given as options. OUT is a workdir like any other. Nothing that a file
contains is executed. PyTorch files need `pip install torch safetensors`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqjax import cli
from vqjax.errors import UserError

SOURCES = ("taming_vqgan", "taming_transformer", "openai_dvae", "lpips")


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--source", choices=SOURCES)
  what.add_argument("--target", choices=("taming_vqgan",))
  parser.add_argument("--checkpoint", action="append", type=pathlib.Path, default=[], metavar="FILE")
  parser.add_argument("--workdir", type=pathlib.Path)
  parser.add_argument("--output", type=pathlib.Path, help="of --source=lpips")
  parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
  args = parser.parse_args(argv)
  wanted = 2 if args.source in ("openai_dvae", "lpips") else 1
  if len(args.checkpoint) != wanted:
    raise UserError(f"--checkpoint: {args.source or args.target} takes {wanted} file(s), not {len(args.checkpoint)}.")
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


def _import(source: str, files: Sequence[pathlib.Path], options: dict[str, str], workdir: Any, output: Any) -> None:
  from vqjax.importers import lpips, openai_dvae, taming, torch_file

  states = [torch_file.load(file) for file in files]
  if source == "lpips":
    # Either order: the linear weights are the file whose names start with "lin".
    states.sort(key=lambda state: any(name.startswith("lin") for name in state))
    lpips.save(output, lpips.read(*states))
  elif source == "openai_dvae":
    config, variables = openai_dvae.read(openai_dvae.join(*states), options)
    _write_tokenizer(workdir, config, variables, size=256, loss=dict(reconstruction="logit_laplace"))
  elif source == "taming_vqgan":
    config, variables = taming.read(states[0], options)
    judge = taming.read_discriminator(states[0]) if any("discriminator" in name for name in states[0]) else None
    _write_tokenizer(workdir, config, variables, size=config["resolution"], loss=dict(reconstruction="l1"), judge=judge)
  else:
    _import_transformer(states[0], options, workdir)


def _write_tokenizer(workdir: pathlib.Path, model: dict[str, Any], variables: Mapping[str, Any], size: int, loss: dict[str, Any],
                     judge: tuple[dict[str, Any], Mapping[str, Any]] | None = None) -> None:
  model = dict(model)
  channels = model.pop("channels")
  model.pop("out_channels")
  config = dict(model=model, loss=loss, data=dict(name="shapes", size=min(size, 256)), ops=dict(size=size, channels=channels))
  params, stats = {"model": variables["params"]}, {"model": {k: v for k, v in variables.items() if k != "params"}}
  if judge:
    config["disc"] = judge[0]
    params["disc"], stats["disc"] = judge[1]["params"], {k: v for k, v in judge[1].items() if k != "params"}
  _write(workdir, config, {"image": ((size, size, channels), "uint8")}, params, stats)


def _import_transformer(state: Mapping[str, np.ndarray], options: dict[str, str], workdir: pathlib.Path) -> None:
  from vqjax.importers import mingpt, reader, taming

  chosen = reader.options(options, dict(heads=0, labels=0, resolution=256, legacy=True, beta=0.25))
  if not chosen["heads"]:
    raise UserError("--option heads: the tensors do not tell the number of attention heads; give --option heads=N (published models: n_head).")
  first = {k.removeprefix("first_stage_model."): v for k, v in state.items() if k.startswith("first_stage_model.")}
  if not first:
    raise UserError("--checkpoint: holds no tensor first_stage_model.*; it is no Net2Net checkpoint of taming-transformers.")
  tokenizer, variables = taming.read(first, {k: chosen[k] for k in ("resolution", "legacy", "beta")})
  _write_tokenizer(workdir / "tokenizer", tokenizer, variables, chosen["resolution"], dict(reconstruction="l1"))
  codes = tokenizer["quantizer"]["codebook_size"]
  config, params = mingpt.read(state, heads=chosen["heads"], codes=codes)
  rows = config["vocab_size"] - codes
  labels = chosen["labels"] or rows
  if labels > rows:
    raise UserError(f"--option labels: {labels} is more than the {rows} rows of the checkpoint's embedding.")
  params["embed"]["table"] = params["embed"]["table"][:codes + labels]
  model = {k: v for k, v in config.items() if k not in ("vocab_size", "out_size", "grid", "causal", "max_prefix")}
  side = config["grid"][0] * 2 ** (len(tokenizer["ch_mult"]) - 1)
  prior = dict(
      task="prior", tokenizer=str((workdir / "tokenizer").absolute()), model=model, scheme=dict(name="autoregressive"),
      condition=dict(labels=labels, drop=0.0), data=dict(name="shapes", size=min(side, 256)), ops=dict(size=side, channels=tokenizer["channels"]))
  spec = {"image": ((side, side, tokenizer["channels"]), "uint8"), "label": ((), "int32")}
  _write(workdir, prior, spec, {"model": params}, {"model": {}})


def _write(workdir: pathlib.Path, config: dict[str, Any], spec: dict[str, Any], params: Any, stats: Any) -> None:
  """A workdir at step 0 with these variables. What the import does not have (optimizer, LeCAM) starts afresh."""
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
  state = run.init(jax.random.key(config.seed))
  place = lambda new, like: jax.tree.map(lambda n, s: jax.device_put(np.asarray(n, s.dtype), s.sharding), new, like)
  params = place(params, run.abstract.params)
  stats = state.stats | {k: place(v, run.abstract.stats[k]) for k, v in stats.items()}
  with checkpoint.Checkpoints(workdir) as checkpoints:
    checkpoints.save(0, state.replace(params=params, stats=stats), train.NoStream())


def _export(workdir: pathlib.Path, file: pathlib.Path) -> None:
  import jax

  from vqjax import api
  from vqjax.importers import taming, torch_file

  model = api.load(workdir)
  config = model.config.model.to_dict()
  if config["name"] != "resnet" or config["quantizer"]["name"] not in ("vq", "gumbel"):
    raise UserError(f"--target=taming_vqgan: {config['name']} with {config['quantizer']['name']} has no place there; only resnet with vq or gumbel.")
  params, stats, _ = jax.device_get(model.state)
  config |= {"channels": model.channels, "out_channels": model.channels}
  state = taming.write(config, {"params": params["model"], **stats["model"]})
  if "disc" in params and model.config.disc["name"] == "patchgan" and model.config.disc.get("norm", "batch") == "batch":
    state |= taming.write_discriminator({"params": params["disc"], **stats["disc"]})
  torch_file.save(file, {"state_dict": state})


if __name__ == "__main__":
  cli.run(main)
