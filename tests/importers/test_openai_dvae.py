"""OpenAI's dVAE against the values of the original package, and its files."""

import jax
import numpy as np
import pytest

from vqjax.build import build
from vqjax.errors import UserError
from vqjax.importers import _torch_file, openai_dvae
from vqjax.nn import losses

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def files(golden):
  return [_torch_file.load(golden / f"openai_dvae_{part}.pt") for part in ("encoder", "decoder")]


def close(ours, theirs):
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def read(*states):
  """(model, variables, run)"""
  (run,) = openai_dvae.read(states, openai_dvae.OPTIONS, None)
  channels = run.config["ops"]["channels"]
  model = build("autoencoders", run.config["model"], channels=channels, out_channels=2 * channels)
  return model, {"params": run.params["model"], **run.stats["model"]}, run


def test_values(golden, files):
  expected = dict(np.load(golden / "openai_dvae.npz"))
  model, variables, run = read(*files)
  assert (model.hidden, model.groups, model.blocks_per_group) == (64, 4, 1)
  assert run.config["loss"] == dict(reconstruction="logit_laplace") and run.folder == ""
  assert run.config["ops"] == dict(size=256, channels=3)
  assert run.spec == {"image": ((256, 256, 3), "uint8")}
  x = 2 * expected["x01"] - 1

  @jax.jit
  def apply(variables, x):
    return model.apply(variables, x, method="encode"), model.apply(variables, x, train=False)

  logits, (stats, quantized) = apply(variables, x)
  close(logits, expected["logits"])
  np.testing.assert_array_equal(quantized.ids, expected["indices"])
  close(stats, expected["stats"])
  close(np.clip(losses.logit_laplace_mean(stats) / 2 + 0.5, 0, 1), expected["recon"])


def test_either_order_of_files(files):
  (_, one, _), (_, other, _) = read(*files), read(*files[::-1])
  jax.tree.map(np.testing.assert_array_equal, one, other)
  with pytest.raises(UserError, match="encoder file and one decoder"):
    read(files[0], files[0])


def split(state):
  """A state dict of both halves as the two files'."""
  part = lambda name: {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}
  return part("encoder."), part("decoder.")


def test_sizes_are_read_from_the_tensors():
  fields = dict(hidden=8, groups=3, blocks_per_group=2)
  quantizer = dict(name="gumbel", codebook_size=10, dim=6, projection="none")
  config = dict(name="dvae", quantizer=quantizer) | fields
  model = build("autoencoders", config, channels=1, out_channels=2)
  shapes = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), np.zeros((1, 8, 8, 1), np.float32)
  )
  state = {"decoder.blocks.input.w": np.zeros((6, 10, 1, 1), np.float32)}
  for path, leaf in jax.tree.leaves_with_path(shapes["params"]):
    keys = tuple(p.key for p in path)
    if keys != ("quantizer", "codebook"):
      shape = leaf.shape if leaf.ndim == 1 else (leaf.shape[3], leaf.shape[2], *leaf.shape[:2])
      state[openai_dvae._name(keys)] = np.zeros(shape, np.float32)
  got, _, run = read(*split(state))
  assert {name: getattr(got, name) for name in fields} == fields
  assert (got.quantizer.codebook_size, got.quantizer.dim) == (10, 6)
  assert run.config["ops"]["channels"] == 1


def test_faults_are_named(files):
  encoder, decoder = files
  name = "blocks.group_2.block_1.res_path.conv_3.w"
  without = {k: v for k, v in decoder.items() if k != name}
  with pytest.raises(UserError, match=f"missing: 'decoder.{name}'; unexpected: 'encoder.more'"):
    read(encoder | {"more": np.zeros(1)}, without)
  with pytest.raises(UserError, match=f"misshapen: 'decoder.{name}'"):
    read(encoder, decoder | {name: decoder[name][1:]})
