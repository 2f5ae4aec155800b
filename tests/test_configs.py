"""Every config of the repository: its docstring, full size in the abstract, and two steps of
`:debug`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights
from ml_collections import ConfigDict

from vqjax import build, config as configuration, data, sharding, train
from vqjax.compile import batch_of, with_tokenizers
from vqjax.errors import UserError
from vqjax.latents import Codes, Floats

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
if str(CONFIGS.parent) not in sys.path:  # as it is for `python -m vqjax.main` in the repository
  sys.path.insert(0, str(CONFIGS.parent))
NAMES = sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "common")


# Compiling every step would take longer than all other tests together: these are what no other
# test trains. VQJAX_EVERY_CONFIG=1 compiles all.
COMPILED = {
  "dvae_dalle",
  "lfq_imagenet",
  "maskgit_imagenet",
  "pixelsnail_vqvae2_bottom",
  "vit_vqgan",
  "vq_diffusion_imagenet",
}
if os.environ.get("VQJAX_EVERY_CONFIG"):
  COMPILED = set(NAMES)


def load(name: str) -> ConfigDict:
  """The completed config `name`, or `name:argument`."""
  file, _, argument = name.partition(":")
  return configuration.complete(configuration.load(f"{CONFIGS / file}.py:{argument}"))


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_what_it_is_and_how_to_run_it(name):
  doc = importlib.import_module(f"configs.{name}").__doc__
  assert (
    doc
    and f"--config=configs/{name}.py" in doc
    and f"--workdir=runs/{name}" in doc.replace("SHARED_FOLDER", "runs")
  )
  assert "paper" in doc or "reports" in doc or "arXiv" in doc


@pytest.mark.parametrize("name", NAMES)
def test_the_source_and_the_ops_know_the_fields(name):
  for config in (load(name), load(f"{name}:debug")):
    build.build("data.sources", config.data, "config.data")
    build.build("data.ops", config.ops, "config.ops")


# Fields that count blocks, of which all but the first have the same shapes.
REPEATED = {
  "num_res_blocks",
  "residual_blocks",
  "blocks_per_group",
  "blocks",
  "residuals",
  "prefix_layers",
  "depth",
}


def shallow(family: str, model: dict) -> None:
  known = {field.name for field in dataclasses.fields(build.member(family, model["name"]))}
  model |= {name: 1 for name in REPEATED & known}
  for part in model.values():
    if isinstance(part, dict) and part.get("name") == "residual":
      part["depth"] = min(part["depth"], 2)


def without_repetition(config: ConfigDict, folder: pathlib.Path) -> ConfigDict:
  """The config with one block where there are several alike, its tokenizers' too: what is traced is
  as wide, and the graph a tenth.
  """
  config = config.to_dict()
  if config["task"] == "contrast":
    for part in ("image", "text"):
      shallow("embedders", config["model"][part])
  else:
    shallow("priors" if config["task"] == "prior" else "autoencoders", config["model"])
  for file in folder.glob("tokenizer*/config.json"):
    tokenizer = json.loads(file.read_text())
    # The books of a tokenizer are what its prior learns: they stay.
    quantizer = tokenizer["model"].pop("quantizer", {})
    shallow("autoencoders", tokenizer["model"])
    tokenizer["model"]["quantizer"] = quantizer
    file.write_text(json.dumps(tokenizer))
  return configuration.editable(config)


def abstract_loss(config: ConfigDict, early: bool = False) -> None:
  """Traces the loss of a batch, or that of early steps, on four devices; nothing is compiled."""
  run = train.Run(config, batch_of(config))
  sharding.local_batch_size(config.batch_size, run.mesh)
  state, key = run.abstract, jax.random.key(0)
  given = state.params, state.stats, run.task.frozen.shapes(), run.spec, key, state.step
  early = early and run.task.early is not None
  loss, (_, metrics) = jax.eval_shape(run.task.early[1] if early else run.task.loss, *given)
  assert loss.shape == ()
  if not early:
    assert ("loss/discriminator" in metrics) == (config.get("disc") is not None)
  assert config.task != "prior" or metrics.keys() & {"loss/codes", "loss/floats"}


@pytest.mark.parametrize("name", NAMES)
def test_full_size(name, tmp_path):
  config = load(name)
  with_tokenizers(config, CONFIGS, str(tmp_path))
  build.module("tasks", config.task).make(config, batch_of(config))  # as deep as it is
  # A discriminator of full size is initialised; what it judges is traced in small.
  abstract_loss(without_repetition(config, tmp_path), early=True)


@pytest.mark.parametrize(
  "name, published",
  [
    ("llamagen", 111),
    ("llamagen:l", 343),
    ("llamagen:xl", 775),
    ("llamagen:xxl", 1_411),
    ("llamagen:3b", 3_097),
    ("vqgan_prior_imagenet", 1_400),
    ("dalle", 12_000),
  ],
)
def test_millions_of_parameters_are_those_published(name, published):
  model = build.build(
    "priors", load(name).model, latent=Codes((16, 16), 16_384), rows=16_384 + 1_000, causal=True
  )
  ids, prefix = jax.ShapeDtypeStruct((1, 256), "int32"), jax.ShapeDtypeStruct((1, 1), "int32")
  params = jax.eval_shape(
    lambda i, p: model.init(jax.random.key(0), i, p, train=False), ids, prefix
  )["params"]
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) / 1e6 == pytest.approx(
    published, rel=0.03
  )


@pytest.mark.parametrize("name, published", [("s", 33), ("b", 130), ("l", 458), ("xl", 675)])
def test_millions_of_parameters_of_dit(name, published):
  latent = Floats((32, 32), 4)
  config = load(f"dit_imagenet:{name}").model
  model = build.build("priors", config, latent=latent, rows=1_000, outputs=8)
  x, prefix = jax.ShapeDtypeStruct((1, 1024, 4), "float32"), jax.ShapeDtypeStruct((1, 1), "int32")
  params = jax.eval_shape(
    lambda x, p: model.init(jax.random.key(0), x, p, time_B=jnp.ones(1), train=False), x, prefix
  )["params"]
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) / 1e6 == pytest.approx(
    published, rel=0.01
  )


def test_llamagen_names_the_near_miss():
  with pytest.raises(UserError, match="Did you mean 'xxl'"):
    load("llamagen:xxll")


def debug_config(name: str, folder: pathlib.Path) -> ConfigDict:
  config = load(f"{name}:debug")
  assert config.data["name"] in ("shapes", "moving_shapes", "tones") and config.total_steps <= 4
  with_tokenizers(config, CONFIGS, str(folder))
  return config


@pytest.mark.parametrize("name", sorted({*NAMES} - COMPILED))
def test_debug_variant_in_the_abstract(name, tmp_path):
  config = debug_config(name, tmp_path)
  if config.get("disc"):
    abstract_loss(config)
  else:
    train.Run(config, batch_of(config))  # its loss is traced at full size


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COMPILED))
def test_debug_variant_takes_two_steps(name, tmp_path):
  config = debug_config(name, tmp_path)
  batch = data.Dataset(config.data, config.ops).sample(config.batch_size)
  run = train.Run(config, configuration.spec_of(batch), jax.devices()[:1])
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), run.abstract)
  ones = jax.tree.map(
    lambda x: np.full(x.shape, x.dtype != bool, x.dtype), run.abstract.stats
  )  # but nothing is initialised
  drawn = lambda tree: tree if tree is None else weights.drawn(tree, std=0.05)
  params, ema = drawn(run.abstract.params), drawn(run.abstract.ema)
  state = zeros.replace(params=params, stats=ones, ema=ema)
  # Placed as a step's results are, or the second would be compiled anew.
  state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, run.abstract))
  frozen = drawn(run.task.frozen.shapes())
  types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  for _ in range(2):
    state, metrics = run.step(state, frozen, sharding.to_global(run.task.prepare(batch), run.mesh))
  assert int(state.step) == 2 and types(state) == types(run.abstract)
  assert all(math.isfinite(v) for v in jax.device_get(metrics).values())
