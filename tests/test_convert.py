"""The convert command: published files to workdirs that behave like the originals, and back."""

import numpy as np
import pytest

import vqjax
from vqjax import convert
from vqjax.errors import UserError


@pytest.fixture(autouse=True)
def _needs_torch():
  pytest.importorskip("torch")


def close(a, b):
  np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_vqgan_there_and_back(golden, tmp_path):
  import torch

  file, values = golden / "taming_vqmodel.ckpt", np.load(golden / "taming_vqmodel.npz")
  convert.main(
    [
      "--source=taming_vqgan",
      f"--checkpoint={file}",
      f"--workdir={tmp_path / 'run'}",
      "--option",
      "resolution=32",
    ]
  )
  model = vqjax.load(tmp_path / "run")
  np.testing.assert_array_equal(
    np.asarray(model.encode(values["x"])).reshape(-1), values["indices"].reshape(-1)
  )
  recon = model.predict("reconstruct", image=values["x"])["image"]
  close(np.asarray(recon), np.clip(values["recon"], -1, 1))
  convert.main(
    [
      "--target=taming_vqgan",
      f"--workdir={tmp_path / 'run'}",
      f"--checkpoint={tmp_path / 'back.ckpt'}",
    ]
  )
  before = torch.load(file, weights_only=True)
  before = before.get("state_dict", before)
  after = torch.load(tmp_path / "back.ckpt", weights_only=True)["state_dict"]
  assert before.keys() == after.keys()
  for name, tensor in before.items():
    np.testing.assert_array_equal(tensor.numpy(), after[name].numpy(), err_msg=name)


def test_gumbel(golden, tmp_path):
  values = np.load(golden / "taming_gumbelvq.npz")
  convert.main(
    [
      "--source=taming_vqgan",
      f"--checkpoint={golden / 'taming_gumbelvq.ckpt'}",
      f"--workdir={tmp_path}",
      "--option=resolution=32",
    ]
  )
  ids = np.asarray(vqjax.load(tmp_path).encode(values["x"]))
  np.testing.assert_array_equal(
    ids.reshape(-1), values[next(k for k in values.files if "ind" in k)].reshape(-1)
  )


def test_openai_dvae(golden, tmp_path):
  values = np.load(golden / "openai_dvae.npz")
  files = [f"--checkpoint={golden / f'openai_dvae_{part}.pt'}" for part in ("decoder", "encoder")]
  convert.main(["--source=openai_dvae", *files, f"--workdir={tmp_path}"])
  model = vqjax.load(tmp_path)
  ids = np.asarray(model.encode(2 * values["x01"] - 1))
  np.testing.assert_array_equal(
    ids.reshape(-1), values[next(k for k in values.files if "ind" in k)].reshape(-1)
  )


def test_a_transformer_with_both_stages(golden, tmp_path):
  """Net2Net's layout: the golden first stage under its prefix, and a small random minGPT over its
  16 x 16 codes.
  """
  import torch

  from vqjax.importers import mingpt

  first = torch.load(golden / "taming_vqmodel.ckpt", weights_only=True)
  state = {f"first_stage_model.{k}": v for k, v in first.get("state_dict", first).items()}
  rng = np.random.default_rng(0)
  shapes = mingpt._shapes(vocabulary=70, width=16, hidden=32, layers=1, block_size=256)
  state |= {
    f"transformer.{k}": torch.from_numpy(rng.normal(0, 0.3, s).astype(np.float32))
    for k, s in shapes.items()
  }
  torch.save({"state_dict": state}, tmp_path / "both.ckpt")
  command = [
    "--source=taming_transformer",
    f"--checkpoint={tmp_path / 'both.ckpt'}",
    f"--workdir={tmp_path / 'run'}",
    "--option=resolution=32",
  ]
  with pytest.raises(UserError, match="--option heads"):
    convert.main(command)
  convert.main([*command, "--option=heads=2", "--option=labels=5"])
  model = vqjax.load(tmp_path / "run")
  assert model.sample(1, label=4).shape == (1, 32, 32, 3)
  ids = np.load(golden / "taming_vqmodel.npz")["indices"].reshape(2, 16, 16)
  # Condition 4 is row 4 of their one table.
  config, params = mingpt.read({k: v.numpy() for k, v in state.items()}, heads=2, codes=64)
  np.testing.assert_array_equal(
    model.state[0]["model"]["embed"]["table"][64 + 4], params["embed"]["table"][4]
  )
  assert np.isfinite(model.log_prob(ids, label=4)).all()


@pytest.mark.parametrize(
  "arguments, message",
  [
    (
      ["--source=openai_dvae", "--checkpoint=a", "--workdir=b"],
      r"--checkpoint: openai_dvae takes 2 file\(s\), not 1",
    ),
    (
      ["--source=taming_vqgan", "--checkpoint=missing.ckpt", "--workdir=b"],
      "no file 'missing.ckpt'",
    ),
    (["--source=taming_vqgan", "--checkpoint=a"], "--workdir: is not set"),
    (
      ["--source=taming_vqgan", "--checkpoint=a", "--workdir=b", "--option", "x"],
      "write NAME=VALUE",
    ),
  ],
)
def test_bad_arguments_are_one_line(arguments, message):
  with pytest.raises(UserError, match=message) as e:
    convert.main(arguments)
  assert "\n" not in str(e.value)
