"""What the commands import as they start: nothing that the work at hand does not need."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from vqjax import config as configuration, convert, data, importers, pictures, train

SHAPES = dict(name="shapes", size=16, num_train=16, num_eval=8)
MODEL = dict(name="vqvae", hidden=4, residual_hidden=4, residual_blocks=1)
RUN = dict(data=SHAPES, ops=dict(size=16, channels=3), batch_size=8)
NETWORK = dict(name="transformer", layers=1, width=8, heads=2)

# Training's, the pictures of writers, and what only some sources, formats and measures need.
TRAINING = ("tensorboardX", "vqjax.train", "vqjax.journal", "vqjax.holder")
NEVER = ("tensorflow", "tensorflow_datasets", "torch", "scipy", "matplotlib", "pandas", "sklearn")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Workdirs of a tokenizer and of a prior that were just initialised."""
  folder = tmp_path_factory.mktemp("runs")
  quantizer = dict(name="vq", codebook_size=8, dim=4)
  prior = dict(task="prior", tokenizer=str(folder / "tokenizer"), model=NETWORK)
  for name, values in {
    "tokenizer": dict(model=MODEL | dict(quantizer=quantizer)),
    "prior": prior | dict(scheme=dict(name="autoregressive")),
  }.items():
    config = configuration.complete(RUN | values)
    spec = configuration.spec_of(data.Dataset(config.data, config.ops).sample(1))
    abstract = train.Run(config, spec).abstract
    zeros = lambda tree: {k: _zeros(v) for k, v in tree.items()}
    shapes = {k: (v.shape[1:], v.dtype) for k, v in spec.items()}
    run = importers.Imported(
      config.to_dict(), shapes, zeros(abstract.params), zeros(abstract.stats)
    )
    convert.write_run(run, folder / name)
  pictures.save(folder / "pictures" / "a.png", np.zeros((16, 16, 3), np.uint8))
  return folder


def _zeros(tree):
  if hasattr(tree, "items"):
    return {k: _zeros(v) for k, v in tree.items()}
  return np.zeros(tree.shape, tree.dtype)


COMMANDS = {
  "reconstruct": ["--workdir={}/tokenizer", "--input={}/pictures", "--output={}/recon"],
  "evaluate": ["--workdir={}/tokenizer", "--limit=8"],
  "sample": ["--workdir={}/prior", "--num=1", "--output={}/samples.png"],
  "tokenize": ["--workdir={}/tokenizer", "--output={}/codes", "--batch_size=8"],
}


def test_commands_import_what_they_need(runs):
  """All in one process: what it has imported in the end is what any of them has."""
  said = {name: [a.format(runs) for a in arguments] for name, arguments in COMMANDS.items()}
  code = (
    "import importlib, json, sys\n"
    f"for name, arguments in {said!r}.items():\n"
    "  importlib.import_module(f'vqjax.{name}').main(arguments)\n"
    "print(json.dumps(sorted(sys.modules)))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=pathlib.Path(__file__).parents[1],
    env=os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  imported = set(json.loads(done.stdout.splitlines()[-1]))
  assert not imported & {*NEVER, *TRAINING}
