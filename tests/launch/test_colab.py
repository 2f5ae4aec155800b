"""The notebook: its cells run in one process with small settings, and what they show is looked at;
the choice of packages that its first cell installs.
"""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / "launch/colab.ipynb").read_text())

# Runs cells as a notebook does: a last expression is shown. matplotlib is the machine's, and may be
# absent here: a stand-in keeps the curves.
KERNEL = """
import ast, json, sys, types, pathlib
from PIL import Image

out, curves = pathlib.Path(sys.argv[1]), {}
plt = types.ModuleType("pyplot")
plt.semilogy = lambda x, y, label: curves.update({label: [x, y]})
plt.xlabel = plt.ylabel = lambda text: None
plt.legend = lambda: None
sys.modules |= {"matplotlib": types.ModuleType("matplotlib"), "matplotlib.pyplot": plt}
sys.modules["matplotlib"].pyplot = plt
names, shown = {"__name__": "__main__"}, []
for number, cell in enumerate(json.load(sys.stdin)):
  tree = ast.parse(cell)
  last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
  exec(compile(tree, f"cell {number}", "exec"), names)
  if last is not None and not cell.rstrip().endswith(";"):
    value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
    if isinstance(value, Image.Image):
      value.save(out / f"shown_{len(shown)}.png")
    shown.append("picture" if isinstance(value, Image.Image) else value)
(out / "shown.json").write_text(json.dumps([shown, curves], default=str))
"""


def cells(**parameters):
  """The sources of the notebook's code cells, without installation, with other parameters."""
  for cell in NOTEBOOK["cells"]:
    tags = cell["metadata"].get("tags", ())
    if cell["cell_type"] == "code" and "install" not in tags:
      source = "".join(cell["source"])
      yield (
        "\n".join(f"{k} = {v!r}" for k, v in parameters.items()) if "parameters" in tags else source
      )


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
  """(values that the cells show, curves, the folder with the pictures)."""
  out = tmp_path_factory.mktemp("colab")
  pictures = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
  np.savez(out / "mine.npz", image=pictures)
  cheap = {
    "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    "VQJAX_CACHE": "",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "XLA_FLAGS": re.sub(r"(device_count)=\d+", r"\1=1", os.environ["XLA_FLAGS"]),
  }
  done = subprocess.run(
    [sys.executable, "-c", KERNEL, out],
    input=json.dumps(list(cells(OUT=str(out), SIZE=":debug", IMAGES=str(out / "mine.npz")))),
    cwd=ROOT,
    env=os.environ | cheap,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-4000:]
  return *json.loads((out / "shown.json").read_text()), out


def tiles(path, rows, columns, size, gap=2):
  """The pictures of a sheet, [rows, columns, size, size, 3]."""
  sheet = np.asarray(Image.open(path).convert("RGB"), np.int32)
  assert sheet.shape == (rows * (size + gap) - gap, columns * (size + gap) - gap, 3)
  sheet = np.pad(sheet, ((0, gap), (0, gap), (0, 0)))
  sheet = sheet.reshape(rows, size + gap, columns, size + gap, 3).swapaxes(1, 2)
  return sheet[:, :, :size, :size]


@pytest.mark.slow
def test_notebook_trains_both_runs_in_its_own_process(shown):
  values, curves, out = shown
  _, tokenizer, _, prior, _, _, mine = values  # print, train, preview, train, sample, complete, own
  assert all(np.isfinite(v) for v in [*tokenizer.values(), *prior.values()])
  assert "psnr" in tokenizer and mine == "picture"
  assert set(curves) == {f"{out}/tokenizer", f"{out}/prior"}
  for steps, losses in curves.values():
    assert steps == [1, 2] and np.isfinite(losses).all()
  config = json.loads((out / "mine/config.json").read_text())
  assert config["data"]["path"] == str(out / "mine.npz")


@pytest.mark.slow
def test_notebook_shows_previews_samples_and_completions(shown):
  values, _, out = shown
  pictures = [i for i, value in enumerate(values) if value == "picture"]
  assert len(pictures) == 4
  preview, samples, completions, mine = (out / f"shown_{i}.png" for i in pictures)
  originals, reconstructions = tiles(preview, 2, 4, 64)
  assert originals.std() > 10 and not np.array_equal(originals, reconstructions)
  assert tiles(samples, 8, 8, 64).std() > 0
  images, decoded, completed = tiles(completions, 3, 8, 64)
  assert images.std() > 10
  # Half of the codes are kept; the decoder sees a few rows beyond them, and batches of
  # other sizes round otherwise.
  np.testing.assert_allclose(completed[:, :16], decoded[:, :16], atol=3)
  assert tiles(mine, 2, 4, 64).std() > 0


@pytest.fixture(scope="module")
def install():
  spec = importlib.util.spec_from_file_location("install", ROOT / "launch/install.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize(
  "extra, machine, jax_asked, others",
  [
    ("tpu", {}, "jax[tpu]<0.13,>=0.10", ["numpy>=1.26", "tensorflow-cpu>=2.20"]),
    (
      "tpu",
      {"jax": "0.7.2", "numpy": "2.0.2", "tensorflow": "2.19.0"},
      "jax[tpu]<0.13,>=0.10",
      ["numpy==2.0.2"],
    ),
    ("cuda12", {"jax": "0.10.1", "tensorflow": "2.19.0"}, "jax[cuda12]==0.10.1", ["numpy>=1.26"]),
    (None, {"jax": "0.12.0.1", "tensorflow-cpu": "2.21"}, "jax==0.12.0.1", ["numpy>=1.26"]),
  ],
)
def test_a_jax_that_fits_is_kept(install, extra, machine, jax_asked, others):
  lines = ["jax>=0.10,<0.13", "numpy>=1.26", 'tensorflow-cpu>=2.20; sys_platform == "linux"']
  lines.append('tensorflow>=2.20; sys_platform == "plan9"')
  if sys.platform != "linux":
    others = [line for line in others if "tensorflow" not in line]
  assert install.wanted(lines, extra, machine.get) == [jax_asked, *others]


def test_the_requirements_are_read_as_they_stand(install):
  lines = (ROOT / "requirements.txt").read_text().splitlines()
  everything = install.wanted(lines, "tpu", lambda name: None)
  assert everything[0].startswith("jax[tpu]") and not any(";" in line for line in everything)
  assert len(everything) == len(lines) - 1  # of the two TensorFlows one
