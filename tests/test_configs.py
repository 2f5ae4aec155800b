"""Every config of the repository: its docstring, its full size in the abstract, and two steps of its `:debug` variant."""

from __future__ import annotations

import functools
import importlib
import math
import pathlib
import sys
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from vqjax import build, config as configuration, sharding, train
from vqjax.data import ops
from vqjax.errors import UserError
from vqjax.nn import perceptual

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
if str(CONFIGS.parent) not in sys.path:  # as it is for `python -m vqjax.main` in the repository
  sys.path.insert(0, str(CONFIGS.parent))
NAMES = sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "common")


def load(name: str) -> ConfigDict:
  """The completed config `name`, or `name:argument`."""
  file, _, argument = name.partition(":")
  return configuration.complete(configuration.load(f"{CONFIGS / file}.py:{argument}"))


PRIORS = [name for name in NAMES if load(name).task == "prior"]
TOKENIZERS = [name for name in NAMES if name not in PRIORS]


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_what_it_is_and_how_to_run_it(name):
  doc = importlib.import_module(f"configs.{name}").__doc__
  assert doc and f"--config=configs/{name}.py" in doc and f"--workdir=runs/{name}" in doc.replace("SHARED_FOLDER", "runs")
  assert "paper" in doc or "reports" in doc or "arXiv" in doc


@pytest.mark.parametrize("name", NAMES)
def test_the_source_and_the_ops_know_the_fields(name):
  for config in (load(name), load(f"{name}:debug")):
    fields = dict(config.data)
    build.check_fields(build.module("data.sources", fields.pop("name")).Source, fields, "config.data")
    ops.from_config(config.ops)


def spec_of(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a batch of this config's data."""
  shape = (config.batch_size, config.ops.size, config.ops.size, config.ops.get("channels") or 3)
  label = {"label": jax.ShapeDtypeStruct(shape[:1], "int32")} if config.condition and config.condition.get("labels") else {}
  return {"image": jax.ShapeDtypeStruct(shape, "uint8")} | label


def abstract_run(config: ConfigDict) -> tuple[train.Run, dict[str, jax.ShapeDtypeStruct]]:
  """The run on four devices, and the metrics of its step; nothing is compiled."""
  spec = spec_of(config)
  run = train.Run(config, spec)
  sharding.local_batch_size(config.batch_size, run.mesh)
  if config.task == "prior":
    tokenizer = run.task.extra.tokenizer
    frozen = jax.eval_shape(tokenizer._init, jax.random.key(0), tokenizer.spec)
  elif config.loss.get("perceptual_weight"):
    frozen = {"perceptual": {k: jax.ShapeDtypeStruct(shape, "float32") for k, shape in perceptual.shapes().items()}}
  else:
    frozen = {}
  state, metrics = jax.eval_shape(run._step, run.abstract, frozen, spec)
  types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert types(state) == types(run.abstract)
  return run, metrics


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizer_at_full_size(name):
  run, metrics = abstract_run(load(name))
  assert metrics["loss/total"].shape == ()
  assert ("loss/discriminator" in metrics) == (run.config.disc is not None)


@pytest.mark.parametrize("name", PRIORS)
def test_prior_at_full_size(name, tmp_path):
  config = load(name)
  tokenizer = load(pathlib.Path(config.tokenizer).name)
  configuration.save(tokenizer, tmp_path)
  configuration.save_spec(spec_of(tokenizer), tmp_path)
  config.tokenizer = str(tmp_path)
  _, metrics = abstract_run(config)
  assert metrics["loss/codes"].shape == ()


@pytest.mark.parametrize("name, published", [
    ("llamagen", 111), ("llamagen:l", 343), ("llamagen:xl", 775), ("llamagen:xxl", 1_411), ("llamagen:3b", 3_097),
    ("vqgan_prior_imagenet", 1_400)])
def test_millions_of_parameters_are_those_published(name, published):
  model = build.build("priors", load(name).model, vocab_size=16_384 + 1_000, out_size=16_384, grid=(16, 16), causal=True)
  ids, prefix = jax.ShapeDtypeStruct((1, 256), "int32"), jax.ShapeDtypeStruct((1, 1), "int32")
  params = jax.eval_shape(lambda i, p: model.init(jax.random.key(0), i, p, train=False), ids, prefix)["params"]
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) / 1e6 == pytest.approx(published, rel=0.03)


def test_llamagen_names_the_near_miss():
  with pytest.raises(UserError, match="Did you mean 'xxl'"):
    load("llamagen:xxll")


@pytest.fixture(scope="session")
def debug_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
  """Trains `name:debug` once a session and returns (its workdir, its held-out figures); a prior's tokenizer comes first."""
  root = tmp_path_factory.mktemp("runs")

  @functools.cache
  def run(name: str) -> tuple[pathlib.Path, dict[str, float]]:
    config = load(f"{name}:debug")
    assert config.data["name"] == "shapes" and config.total_steps <= 4
    if config.tokenizer:
      tokenizer = pathlib.Path(config.tokenizer).name
      config.tokenizer = str(run(tokenizer.removesuffix("_debug"))[0])
    return root / name, train.train(config, root / name)

  return run


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TOKENIZERS, *PRIORS])
def test_debug_variant_trains(name, debug_run):
  workdir, figures = debug_run(name)
  assert all(math.isfinite(v) for v in figures.values()) and figures
  steps = [p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]
  assert max(map(int, steps)) == load(f"{name}:debug").total_steps
  assert list((workdir / "previews").iterdir()) and (workdir / "metrics.jsonl").stat().st_size
