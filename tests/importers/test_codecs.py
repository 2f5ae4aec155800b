"""DAC and EnCodec against the values of the original packages, both layouts, and back."""

import json
import re

import jax
import numpy as np
import pytest

from vqjax import convert
from vqjax.build import build
from vqjax.errors import UserError
from vqjax.importers import _codec, _torch_file, dac, encodec

pytest.importorskip("torch")
FILES = {"dac": "dac.pth", "encodec": "encodec.safetensors"}
MEMBERS = {"dac": dac, "encodec": encodec}


@pytest.fixture(scope="module", params=["dac", "encodec"])
def case(request, golden):
  """(name, tensors, expected values, run, (model, variables))."""
  name = request.param
  file = golden / FILES[name]
  state, member = _torch_file.load(file), MEMBERS[name]
  options = member.OPTIONS | member.described(_torch_file.settings(file))
  (run,) = member.read([state], options, None)
  return name, state, dict(np.load(golden / f"{name}.npz")), run, model_of(run)


def model_of(run):
  channels = run.config["ops"]["channels"]
  model = build("autoencoders", run.config["model"], channels=channels)
  return model, {"params": run.params["model"], **run.stats["model"]}


def close(ours, theirs):
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_values(case):
  name, _, expected, run, (model, variables) = case
  codes = expected["codes"].transpose(0, 2, 1)

  @jax.jit
  def apply(variables, x, codes):
    apply = lambda method, value: model.apply(variables, value, method=method)
    whole = model.apply(variables, x, train=False)
    of_two = apply("from_tokens", codes[..., :2]) if name == "dac" else None
    return apply("encode", x), whole, apply("from_tokens", codes), of_two

  z, (recon, quantized), decoded, of_two = apply(variables, expected["audio"], codes)
  close(z, expected["encoder"])
  np.testing.assert_array_equal(quantized.ids, codes)
  close(quantized.z, expected["z" if name == "dac" else "quantized"])
  close(recon, expected["recon"])
  close(decoded, expected["recon"])
  if name == "dac":
    close(of_two, expected["recon_2"])
    weights = 1.0 + 0.25  # of the codebook and commitment losses, which are equal here
    assert expected["codebook_loss"] == expected["commitment_loss"]
    close(quantized.loss, weights * expected["codebook_loss"])
  assert run.config["ops"]["rate"] == 16_000 and run.config["signal"] == {"name": "audio"}


def test_there_and_back(case):
  name, state, _, run, _ = case
  back = MEMBERS[name].write(run.config, run.params, run.stats)
  assert back.keys() == state.keys()
  for key, value in state.items():
    if "bias_hh" not in key and "bias_ih" not in key:  # one sum is kept of the two
      np.testing.assert_array_equal(back[key], value, err_msg=key)
  (again,) = MEMBERS[name].read([back], MEMBERS[name].OPTIONS | {"rate": 16_000}, None)
  same = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
  jax.tree.map(same, again.params, run.params)
  jax.tree.map(same, again.stats, run.stats)


def other_layout(name, state):
  """The tensors by the names of the other house."""
  if name == "encodec":
    subs = [
      (r"^(encoder|decoder)\.layers", r"\1.model"),
      (r"\.conv\.(\w+)$", r".conv.conv.\1"),
      (r"^quantizer\.layers", "quantizer.vq.layers"),
      (r"\.codebook\.", "._codebook."),
    ]
  else:
    stages = len(_codec.numbers(state, r"encoder\.block\.(\d+)\.block"))
    steps = {"0": "snake1", "1": "conv1", "2": "snake2", "3": "conv2"}
    unit = lambda first: (
      lambda m: f"{m[1]}.block.{int(m[2]) - 1}.res_unit{int(m[3]) + first}.{steps[m[4]]}."
    )
    part = lambda kinds: lambda m: f"{m[1]}.block.{int(m[2]) - 1}.{kinds[m[3]]}."
    ends = {"0": "conv1", str(stages + 1): "snake1", str(stages + 2): "conv2"}
    subs = [
      (r"^(encoder)\.block\.(\d+)\.block\.([012])\.block\.(\d)\.", unit(1)),
      (r"^(encoder)\.block\.(\d+)\.block\.([34])\.", part({"3": "snake1", "4": "conv1"})),
      (r"^(decoder)\.model\.(\d+)\.block\.([234])\.block\.(\d)\.", unit(-1)),
      (r"^(decoder)\.model\.(\d+)\.block\.([01])\.", part({"0": "snake1", "1": "conv_t1"})),
      (r"^(encoder|decoder)\.(?:block|model)\.(\d+)\.(?=weight|bias|alpha)",
       lambda m: f"{m[1]}.{ends[m[2]]}."),
    ]  # fmt: skip
  renamed = {}
  for key, value in state.items():
    for pattern, new in subs:
      key = re.sub(pattern, new, key)
    key = re.sub(
      r"weight_([gv])$", lambda m: f"parametrizations.weight.original{'gv'.index(m[1])}", key
    )
    renamed[key] = value
  return renamed


def test_the_other_layout_is_the_same_model(case):
  name, state, _, run, _ = case
  renamed = other_layout(name, state)
  assert not renamed.keys() & {k for k in state if "weight" in k and k.startswith("encoder")}
  (other,) = MEMBERS[name].read([renamed], MEMBERS[name].OPTIONS | {"rate": 16_000}, None)
  assert other.config == run.config
  jax.tree.map(np.testing.assert_array_equal, other.params, run.params)


def test_faults_are_named(case):
  name, state, _, _, _ = case
  key = next(k for k in state if k.endswith("bias"))
  options = MEMBERS[name].OPTIONS
  for broken, message in (
    ({k: v for k, v in state.items() if k != key}, re.escape(f"missing: '{key}'")),
    (state | {"extra.weight": np.zeros(1)}, "unexpected: 'extra.weight'"),
    (state | {key: np.zeros(77)}, "misshapen: "),
  ):
    with pytest.raises(UserError, match=message) as e:
      MEMBERS[name].read([broken], options, None)
    assert "\n" not in str(e.value)


def test_fewer_quantizers(golden):
  state = _torch_file.load(golden / FILES["encodec"])
  (run,) = encodec.read([state], encodec.OPTIONS | {"quantizers": 3}, None)
  assert run.config["model"]["quantizer"]["depth"] == 3
  with pytest.raises(UserError, match="--option quantizers: 9; the checkpoint has 8"):
    encodec.read([state], encodec.OPTIONS | {"quantizers": 9}, None)


def test_settings_beside_a_checkpoint(tmp_path, golden):
  assert _torch_file.settings(golden / "dac.pth")["sample_rate"] == 16_000
  assert dac.described({"sampling_rate": 24_000}) == {"rate": 24_000}
  said = dict(sampling_rate=8_000, use_causal_conv=False, pad_mode="constant")
  (tmp_path / "a_config.json").write_text(json.dumps(said))
  found = encodec.described(_torch_file.settings(tmp_path / "a.safetensors"))
  assert found == dict(rate=8_000, causal=False, edges="zeros")
  for bad, message in (
    ({"normalize": True}, "normalize"),
    ({"trim_right_ratio": 0.5}, "trim_right"),
  ):
    with pytest.raises(UserError, match=message):
      encodec.described(bad)
  (tmp_path / "config.json").write_text("[]")
  with pytest.raises(UserError, match="no JSON object"):
    _torch_file.settings(tmp_path / "b.safetensors")


def test_runs_without_counterpart_are_refused(case):
  name, _, _, run, _ = case
  model = run.config["model"]
  for change, message in (
    (dict(name="vqvae"), "config.model: 'vqvae' has no counterpart"),
    (dict(activation="elu" if name == "dac" else "snake"), "config.model.activation"),
    (dict(quantizer=dict(name="fsq")), "config.model.quantizer: has no counterpart"),
  ):
    with pytest.raises(UserError, match=message):
      MEMBERS[name].write(run.config | {"model": model | change}, run.params, run.stats)


def test_convert_and_load(golden, tmp_path):
  """The commands as users type them, and the API's shapes."""
  import vqjax

  expected = np.load(golden / "encodec.npz")
  file = golden / FILES["encodec"]
  convert.main(["--source=encodec", f"--checkpoint={file}", f"--workdir={tmp_path / 'run'}"])
  model = vqjax.load(tmp_path / "run")
  ids = model.encode(expected["audio"])
  assert ids.shape == (2, 50, 8) and ids.dtype == np.int32
  np.testing.assert_array_equal(np.asarray(ids).transpose(0, 2, 1), expected["codes"])
  decoded = model.decode(ids)
  assert decoded.dtype == np.float32
  close(decoded, expected["recon"])
  assert model.reconstruct(expected["audio"][:, :777]).shape == (2, 777, 1)
