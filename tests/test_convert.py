"""The convert command: published files to workdirs that behave like the originals, and back."""

import jax
import numpy as np
import pytest

import vqjax
from vqjax import build, convert, importers
from vqjax.errors import UserError
from vqjax.importers import _mingpt, _torch_file


@pytest.fixture(autouse=True)
def _needs_torch():
  pytest.importorskip("torch")


def same_weights(workdir, source, files, **options):
  """That a run holds what its importer, whose values have tests of their own, reads in files."""
  importer = build.module("importers", source)
  options = importers.complete(options, importer.OPTIONS)
  (run,) = importer.read([_torch_file.load(file) for file in files], options, workdir)
  loaded = vqjax.load(workdir).weights
  jax.tree.map(np.testing.assert_array_equal, loaded.params["model"], run.params["model"])
  jax.tree.map(np.testing.assert_array_equal, loaded.stats, run.stats)


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
  file = golden / "taming_gumbelvq.ckpt"
  options = ["--source=taming_vqgan", "--option=resolution=32"]
  convert.main([*options, f"--checkpoint={file}", f"--workdir={tmp_path}"])
  same_weights(tmp_path, "taming_vqgan", [file], resolution="32")


def test_openai_dvae(golden, tmp_path):
  files = [golden / f"openai_dvae_{part}.pt" for part in ("decoder", "encoder")]
  given = [f"--checkpoint={file}" for file in files]
  convert.main(["--source=openai_dvae", *given, f"--workdir={tmp_path}"])
  same_weights(tmp_path, "openai_dvae", files)


def test_a_transformer_with_both_stages(golden, tmp_path):
  """Net2Net's layout: the golden first stage under its prefix, and a small random minGPT over its
  16 x 16 codes.
  """
  import torch

  first = torch.load(golden / "taming_vqmodel.ckpt", weights_only=True)
  state = {f"first_stage_model.{k}": v for k, v in first.get("state_dict", first).items()}
  rng = np.random.default_rng(0)
  shapes = _mingpt._shapes(vocabulary=70, width=16, hidden=32, layers=1, block_size=256)
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
  convert.main([*command, "--option=heads=2", "--option=classes=5"])
  model = vqjax.load(tmp_path / "run")
  ids = np.load(golden / "taming_vqmodel.npz")["indices"].reshape(2, 16, 16)
  assert np.isfinite(model.log_prob(ids, label=4)).all()
  back = [f"--workdir={tmp_path / 'run'}", f"--checkpoint={tmp_path / 'back.ckpt'}"]
  with pytest.raises(UserError, match="config.model: 'transformer' has no counterpart") as e:
    convert.main(["--target=taming_vqgan", *back])
  assert "\n" not in str(e.value) and not (tmp_path / "back.ckpt").exists()
  with pytest.raises(UserError, match="already holds a run"):
    convert.main([*command, "--option=heads=2"])


def test_help_tells_of_every_format(capsys):
  with pytest.raises(SystemExit):
    convert.main(["--help"])
  text = capsys.readouterr().out
  for name in build.names("importers"):
    member = build.module("importers", name)
    assert name in text and member.__doc__.splitlines()[0] in text and member.WHERE in text
    assert all(option in text for option in member.OPTIONS)


def test_a_source_that_makes_a_file(tmp_path, monkeypatch):
  """Any format may: the command asks its file, by no name."""
  lpips = build.module("importers", "lpips")
  monkeypatch.setattr(lpips, "weights", lambda *states: states[0] | states[1])
  for name in "ab":
    np.savez(tmp_path / f"{name}.npz", **{name: np.zeros(1)})
  files = [f"--checkpoint={tmp_path / f'{name}.npz'}" for name in "ab"]
  with pytest.raises(UserError, match="--output: is not set"):
    convert.main(["--source=lpips", *files, f"--workdir={tmp_path}"])
  convert.main(["--source=lpips", *files, f"--output={tmp_path / 'new/out.npz'}"])
  assert np.load(tmp_path / "new/out.npz").files == ["a", "b"]


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
    (
      ["--source=taming_vqgan", "--checkpoint=a", "--workdir=b", "--option=resolutoin=32"],
      "--option resolutoin: unknown. Did you mean 'resolution'",
    ),
    (
      ["--source=taming_vqgan", "--checkpoint=/absent.ckpt", "--workdir=/absent"],
      "no file '/absent.ckpt'",
    ),
    (["--source=taming_vqgan", "--checkpoint=/", "--workdir=/absent"], "holds no file of tensors"),
    (["--target=taming_vqgan", "--checkpoint=a", "--workdir=/absent"], "holds no run"),
    (
      ["--target=taming_vqgan", "--checkpoint=a", "--workdir=b", "--option=ema=true"],
      "--option ema=true: belongs to --source",
    ),
  ],
)
def test_bad_arguments_are_one_line(arguments, message):
  with pytest.raises(UserError, match=message) as e:
    convert.main(arguments)
  assert "\n" not in str(e.value)
