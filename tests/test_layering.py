"""Who may import whom: the layering of the architecture, held by reading the import statements."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "vqjax").rglob("*.py"))

# What a folder (or, at the top, a file) may import from vqjax. Leaves may be imported by all.
LEAVES = {
  "checks", "errors", "fields", "files", "packed", "pictures", "sounds", "tensors", "videos",
}  # fmt: skip
ALLOWED = {
  "checks": set(),
  "errors": set(),
  "fields": set(),
  "files": set(),
  "packed": set(),
  "pictures": set(),
  "sounds": set(),
  "tensors": set(),
  "videos": set(),
  "build": set(),
  "nn": {"nn"},
  "orders": set(),
  "latents": {"orders"},
  "signals": {"nn", "signals"},
  "conditions": {"latents", "conditions", "data"},  # how captions are written in ids
  "quantizers": {"nn", "quantizers"},
  "autoencoders": {"nn", "autoencoders", "quantizers"},  # the record Quantized alone, see below
  "discriminators": {"nn", "discriminators"},
  "embedders": {"nn", "embedders"},
  "priors": {"nn", "latents", "priors"},
  "schemes": {"nn", "latents", "schemes"},
  "evaluators": {"nn", "latents", "evaluators"},
  "importers": {"importers", "nn", "build"},
  "data": {"data", "build", "sharding"},
  "sharding": set(),
  "checkpoint": {"digests"},
  "digests": {"sharding"},
  "places": {"build"},
  "config": {"build", "config_file", "places"},
  "config_file": set(),
  "optim": {"build"},
  # Families by name, but for the records that cross their borders.
  "tasks": {
    "tasks", "build", "checkpoint", "conditions", "config", "data", "digests", "latents", "lineage",
    "nn", "orders", "schemes", "signals",
  },
  "measure": {"build", "sharding", "evaluators"},
  "writers": set(),
  "journal": {"writers"},
  "preemption": set(),
  "holder": set(),
  "lineage": {"places"},
  "goodput": set(),
  "trace": set(),
  "costs": {"chips", "hlo", "writers"},
  "hlo": set(),
  "chips": set(),
  "train": {
    "build", "checkpoint", "config", "data", "goodput", "holder", "journal", "lineage", "measure",
    "nn", "optim", "preemption", "sharding", "tasks", "trace",
  },
  "sampler": {"sharding", "schemes", "tasks"},
  "tiles": set(),
  "codec": {"codec", "sharding"},
  "api": {
    "api", "build", "checkpoint", "codec", "config", "data", "digests", "lineage", "measure",
    "places", "sampler", "sharding", "tasks", "tiles",
  },
}  # fmt: skip
TENSORFLOW = {"vqjax/data/pipeline.py", "vqjax/data/sources/tfds.py"}


def imported(file: pathlib.Path) -> set[str]:
  """Full dotted names that a file imports, anywhere in it."""
  names = set()
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


def part_of(file: pathlib.Path) -> str:
  relative = file.relative_to(ROOT / "vqjax")
  return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports(file: pathlib.Path):
  part, names = part_of(file), imported(file)
  inside = {n.split(".")[1] for n in names if n.startswith("vqjax.")} - LEAVES
  if part in ALLOWED:
    assert inside <= ALLOWED[part], f"{part} may not import {inside - ALLOWED[part]}"
  if part == "autoencoders":
    assert {n for n in names if n.startswith("vqjax.quantizers")} <= {"vqjax.quantizers.Quantized"}
  uses_tensorflow = any(n.split(".")[0] in ("tensorflow", "tensorflow_datasets") for n in names)
  assert not uses_tensorflow or str(file.relative_to(ROOT)) in TENSORFLOW
  compared = file.name == "torch.py" and part == "suites"
  assert not any(n.split(".")[0] == "torch" for n in names) or part == "importers" or compared


def test_rooms_stand_above_each_other_without_circles():
  above = {part: allowed - {part} for part, allowed in ALLOWED.items()}
  list(graphlib.TopologicalSorter(above).static_order())  # raises CycleError
  assert not any(above[leaf] for leaf in LEAVES)


def test_import_is_light_and_needs_no_tensorflow():
  code = (
    "import sys\n"
    "for name in ('tensorflow', 'tensorflow_datasets', 'torch'): sys.modules[name] = None\n"
    "import vqjax; assert 'jax' not in sys.modules\n"
    "import vqjax.main, vqjax.train, vqjax.api, vqjax.data"
  )
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
