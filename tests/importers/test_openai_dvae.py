"""OpenAI's dVAE against the values of the original package, and its files."""

import jax
import numpy as np
import pytest

from vqjax.build import build
from vqjax.errors import UserError
from vqjax.importers import openai_dvae, torch_file
from vqjax.nn import losses

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def files(golden):
  return [torch_file.load(golden / f"openai_dvae_{part}.pt") for part in ("encoder", "decoder")]


def close(ours, theirs):
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_values(golden, files):
  expected = dict(np.load(golden / "openai_dvae.npz"))
  config, variables = openai_dvae.read(openai_dvae.join(*files), {})
  assert (config["hidden"], config["groups"], config["blocks_per_group"]) == (64, 4, 1)
  model = build("autoencoders", config)
  x = 2 * expected["x01"] - 1

  @jax.jit
  def run(variables, x):
    return model.apply(variables, x, method="encode"), model.apply(variables, x, train=False)

  logits, (stats, quantized) = run(variables, x)
  close(logits, expected["logits"])
  np.testing.assert_array_equal(quantized.ids, expected["indices"])
  close(stats, expected["stats"])
  close((losses.to_image("logit_laplace", stats) + 1) / 2, expected["recon"])


def test_either_order_of_files(files):
  one, other = openai_dvae.join(*files), openai_dvae.join(*files[::-1])
  assert one.keys() == other.keys() and all(one[k] is other[k] for k in one)
  with pytest.raises(UserError, match="encoder file and one decoder"):
    openai_dvae.join(files[0], files[0])


def test_sizes_are_read_from_the_tensors():
  config = dict(
    name="dvae",
    hidden=8,
    groups=3,
    blocks_per_group=2,
    channels=1,
    out_channels=2,
    quantizer=dict(name="gumbel", codebook_size=10, dim=6, projection="none"),
  )
  model = build("autoencoders", config)
  shapes = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), np.zeros((1, 8, 8, 1), np.float32)
  )
  state = {"decoder.blocks.input.w": np.zeros((6, 10, 1, 1), np.float32)}
  for path, leaf in jax.tree.leaves_with_path(shapes["params"]):
    keys = tuple(p.key for p in path)
    if keys != ("quantizer", "codebook"):
      shape = leaf.shape if leaf.ndim == 1 else (leaf.shape[3], leaf.shape[2], *leaf.shape[:2])
      state[openai_dvae._name(keys)] = np.zeros(shape, np.float32)
  read, _ = openai_dvae.read(state, {})
  assert {k: v for k, v in read.items() if k != "quantizer"} == {
    k: v for k, v in config.items() if k != "quantizer"
  }
  assert (read["quantizer"]["codebook_size"], read["quantizer"]["dim"]) == (10, 6)


def test_faults_are_named(files):
  state = openai_dvae.join(*files)
  name = "decoder.blocks.group_2.block_1.res_path.conv_3.w"
  with pytest.raises(UserError, match=f"missing: '{name}'; unexpected: 'encoder.more'"):
    openai_dvae.read(
      {k: v for k, v in state.items() if k != name} | {"encoder.more": np.zeros(1)}, {}
    )
  with pytest.raises(UserError, match=f"misshapen: '{name}'"):
    openai_dvae.read(state | {name: state[name][1:]}, {})
