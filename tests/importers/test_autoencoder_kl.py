"""AutoencoderKL against diffusers' values, in both layouts and back, and refusals."""

import functools
import json

import jax
import numpy as np
import pytest

import vqjax
from vqjax import convert
from vqjax.errors import UserError
from vqjax.importers import _torch_file, autoencoder_kl, complete

pytest.importorskip("torch")

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def published(golden):
  """(state, options) of the golden folder."""
  folder = golden / "autoencoder_kl"
  return _torch_file.load(folder), complete(told(folder), autoencoder_kl.OPTIONS)


def told(folder):
  return autoencoder_kl.described(_torch_file.settings(folder))


def read(state, options):
  (run,) = autoencoder_kl.read([state], options, None)
  return run


def test_values_of_diffusers(golden, tmp_path):
  workdir, expected = str(tmp_path / "run"), dict(np.load(golden / "autoencoder_kl.npz"))
  convert.main(
    ["--source=autoencoder_kl", f"--checkpoint={golden / 'autoencoder_kl'}", "--workdir", workdir]
  )
  model = vqjax.load(workdir)
  z = model.encode(expected["x"])
  assert z.dtype == np.float32
  np.testing.assert_allclose(z, expected["mean"], atol=2e-5)
  moments = jax.jit(functools.partial(model.info.modules.model.apply, method="encode"))(
    model.info.modules.variables(model.weights), expected["x"]
  )
  std = np.exp(0.5 * np.asarray(moments)[..., 4:])
  np.testing.assert_allclose(std, expected["std"], rtol=1e-4)
  recon = model.decode(expected["mean"])
  # Rounded to 8 bits: half a step, and what float32 adds.
  expected_pixels = (np.clip(expected["recon"], -1, 1) + 1) * 127.5
  assert recon.dtype == np.uint8 and np.abs(recon - expected_pixels).max() < 0.51
  with pytest.raises(UserError, match=r"latents: int64 of shape .*give floats"):
    model.decode(np.zeros((1, 8, 8, 4), int))
  with pytest.raises(UserError, match="latents: are not all finite"):
    model.decode(np.full((1, 8, 8, 4), np.nan))


def test_both_layouts_and_back(published, golden, tmp_path):
  state, options = published
  run = read(state, options)
  assert run.config["model"]["ch_mult"] == (1, 1, 2) and options["resolution"] == 32
  model = run.config["model"] | dict(norm_groups=32)
  config = dict(model=model)
  autoencoder_kl.write_folder(config, run.params, run.stats, tmp_path)
  back = _torch_file.load(tmp_path)
  assert back.keys() == state.keys()
  for name in state:
    np.testing.assert_array_equal(back[name], state[name], err_msg=name)
  said, original = (
    json.loads((folder / "config.json").read_text())
    for folder in (tmp_path, golden / "autoencoder_kl")
  )
  assert said == {k: original[k] for k in said}
  # CompVis' layout, within a whole diffusion model's file.
  compvis = autoencoder_kl.write(config, run.params, run.stats)
  assert compvis["encoder.mid.attn_1.q.weight"].ndim == 4 and "decoder.up.2.upsample.conv.bias" in {
    *compvis
  }
  whole = {f"first_stage_model.{k}": v for k, v in compvis.items()} | {"betas": np.zeros(3)}
  again = read(whole, options)
  assert again.config == run.config
  same(again.params, run.params)


def test_older_names_of_attention_and_models_without_outer_convolutions(published):
  state, options = published
  old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
  renamed = {}
  for name, x in state.items():
    for new, then in old.items():
      name = name.replace(f".{new}.", f".{then}.")
    renamed[name] = x
  same(read(renamed, options).params, read(state, options).params)
  bare = {k: v for k, v in state.items() if "quant_conv" not in k}
  params = read(bare, options).params["model"]
  np.testing.assert_array_equal(params["quant_conv"]["kernel"][0, 0], np.eye(8))
  np.testing.assert_array_equal(params["post_quant_conv"]["kernel"][0, 0], np.eye(4))


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_faults_are_named(published, tmp_path):
  state, options = published
  less = {k: v for k, v in state.items() if k != "encoder.mid_block.attentions.0.to_q.weight"}
  with pytest.raises(UserError, match="missing: 'encoder.mid_block.attentions.0.to_q.weight'"):
    read(less, options)
  with pytest.raises(UserError, match="unexpected: 'more'"):
    read(state | {"more": np.zeros(1)}, options)
  with pytest.raises(UserError, match="resolution: 2 is too small for 3 levels"):
    read(state, options | dict(resolution=2))
  with pytest.raises(UserError, match="'vqvae' with quantizer 'ema' is no AutoencoderKL"):
    autoencoder_kl.write(dict(model=dict(name="vqvae", quantizer=dict(name="ema"))), {}, {})
  with pytest.raises(UserError, match="holds no file of tensors"):
    _torch_file.load(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(UserError, match="config.json: is no JSON"):
    told(tmp_path)
