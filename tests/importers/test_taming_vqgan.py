"""taming-transformers checkpoints against the values of the original code, round trips, and
refusals.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax.build import build
from vqjax.errors import UserError
from vqjax.importers import (
  _taming_discriminator as taming_discriminator,
  _torch_file,
  complete,
  taming_vqgan,
)

pytest.importorskip("torch")


@functools.cache
def load(path):
  return _torch_file.load(path)


def values(golden, name):
  return load(golden / f"{name}.ckpt"), dict(np.load(golden / f"{name}.npz"))


def read(state, **options):
  (run,) = taming_vqgan.read([state], complete(options, taming_vqgan.OPTIONS), None)
  return run


def built(run):
  """(model, variables) of a run."""
  channels = run.config.get("signal", {}).get("classes", run.config["ops"]["channels"])
  model = build("autoencoders", run.config["model"], channels=channels)
  return model, {"params": run.params["model"], **run.stats["model"]}


def close(ours, theirs, tolerance=1e-4):
  np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


def test_vqmodel_values_and_gradients(golden):
  state, expected = values(golden, "taming_vqmodel")
  run = read(state, resolution="32")
  model = run.config["model"]
  assert (model["attn_resolutions"], model["ch_mult"], model["num_res_blocks"]) == (
    (16,),
    (1, 2),
    1,
  )
  assert run.config == dict(
    model=model,
    loss=dict(reconstruction="l1"),
    data=dict(name="shapes", size=32),
    ops=dict(size=32, channels=3),
  )
  assert run.spec == {"image": ((32, 32, 3), "uint8")}
  legacy = build("quantizers", model["quantizer"])
  # The golden loss has beta where the paper has it: not legacy.
  (model, variables), x = built(read(state, legacy="false")), expected["x"]

  @jax.jit
  def values_of(params):
    given = lambda params: variables | {"params": params}

    def loss(params):
      (recon, quantized), _ = model.apply(
        given(params), x, train=True, mutable=["stats"], rngs={"codes": jax.random.key(0)}
      )
      return jnp.abs(recon - x).mean() + quantized.loss, (recon, quantized)

    values, grads = jax.value_and_grad(loss, has_aux=True)(params)
    compared = dict(
      encoder_conv_in=grads["encoder"]["conv_in"]["kernel"],
      decoder_conv_out=grads["decoder"]["conv_out"]["kernel"],
      codebook=grads["quantizer"]["codebook"],
    )  # of all others nothing is compiled
    return values, compared, model.apply(given(params), x, method="encode")

  (loss, (recon, quantized)), grads, pre_quant = values_of(variables["params"])
  close(pre_quant, expected["pre_quant"])
  np.testing.assert_array_equal(quantized.ids, expected["indices"])
  close(quantized.z, expected["quant"])
  close(recon, expected["recon"])
  close(quantized.loss, expected["codebook_loss"])
  close(loss, expected["loss"])
  oihw = lambda kernel: np.transpose(kernel, (3, 2, 0, 1))
  close(oihw(grads["encoder_conv_in"]), expected["grad_encoder_conv_in"])
  close(oihw(grads["decoder_conv_out"]), expected["grad_decoder_conv_out"])
  close(grads["codebook"], expected["grad_codebook"])
  # Legacy, the default, weighs the two equal halves the other way round.
  own = {"params": variables["params"]["quantizer"], "stats": variables["stats"]["quantizer"]}
  close(
    legacy.apply(own, expected["pre_quant"], train=False).loss, expected["codebook_loss_legacy"]
  )
  assert legacy.codebook_weight == model.quantizer.commitment_weight == 0.25


def test_gumbelvq_values(golden):
  state, expected = values(golden, "taming_gumbelvq")
  model, variables = built(read(state))

  @jax.jit
  def run(variables, x):
    z = model.apply(variables, x, method="encode")
    return model.apply(variables, z, method=lambda m, z: m.quantizer.logits(z)), model.apply(
      variables, x, train=False
    )

  logits, (recon, quantized) = run(variables, expected["x"])
  close(logits, expected["logits"])
  np.testing.assert_array_equal(quantized.ids, expected["indices_argmax"])
  close(recon, expected["recon_argmax"])
  close(quantized.loss, expected["kl"])


def test_discriminator_values(golden):
  state, expected = values(golden, "taming_discriminator")
  config, variables = taming_discriminator.read(state)
  disc = build("discriminators", config)
  apply = jax.jit(functools.partial(disc.apply, train=True, mutable=["batch_stats"]))
  (real, _), new = apply(variables, expected["real"])
  (fake, _), new = apply(variables | new, expected["fake"])
  near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  near(real, expected["logits_real"])
  near(fake, expected["logits_fake"])
  after = taming_discriminator.write(config, variables | new)
  for name in (
    "main.3.running_mean",
    "main.3.running_var",
    "main.6.running_mean",
    "main.6.running_var",
  ):
    near(after[f"loss.discriminator.{name}"], expected[f"after/{name}"], atol=1e-6)
  (logits, _) = jax.jit(functools.partial(disc.apply, train=False))(
    variables | new, expected["real"]
  )
  near(logits, expected["logits_real_eval_after_two_train_calls"])


def written(run):
  return taming_vqgan.write(run.config, run.params, run.stats)


@pytest.mark.parametrize("name", ["taming_vqmodel", "taming_gumbelvq"])
def test_round_trip(golden, name):
  state = load(golden / f"{name}.ckpt")
  judge = load(golden / "taming_discriminator.ckpt")
  state = state | {f"loss.discriminator.{k}": x for k, x in judge.items()}
  run = read(state)
  assert run.config["disc"]["name"] == "patchgan"
  assert run.params.keys() == run.stats.keys() == {"model", "disc"}
  back = written(run)
  assert back.keys() == state.keys()
  for key in state:
    assert back[key].dtype == state[key].dtype, key
    if not key.endswith("num_batches_tracked"):
      np.testing.assert_array_equal(back[key], state[key], err_msg=key)


def test_a_discriminator_in_a_file_of_its_own(golden):
  config, variables = taming_discriminator.read(load(golden / "taming_discriminator.ckpt"))
  assert taming_discriminator.read(load(golden / "taming_vqmodel.ckpt")) is None
  assert taming_discriminator.write(config | dict(norm="group"), variables) == {}


TINY = dict(
  ch=4, ch_mult=(1,), num_res_blocks=3, attn_resolutions=(16,), resolution=16, z_channels=2,
  mid_attention=False,
)  # fmt: skip


def drawn(fields, quantizer, channels):
  """(model, params, stats) of a resnet with random values."""
  config = dict(name="resnet", quantizer=quantizer) | fields
  model = build("autoencoders", config, channels=channels)
  x = jnp.zeros((1, 32, 32, channels))
  shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
  rng = np.random.default_rng(0)
  values = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), shapes)
  return model, {"model": values.pop("params")}, {"model": values}


@pytest.mark.parametrize(
  "fields",
  [
    dict(
      ch=8,
      ch_mult=(1, 1, 3),
      num_res_blocks=2,
      attn_resolutions=(32, 8),
      resolution=32,
      z_channels=5,
      channels=1,
    ),
    dict(
      ch=12,
      ch_mult=(2, 1),
      num_res_blocks=1,
      attn_resolutions=(),
      resolution=64,
      z_channels=3,
      channels=4,
    ),
    TINY | dict(channels=3),
  ],
)
@pytest.mark.parametrize(
  "quantizer",
  [dict(name=name, codebook_size=11, dim=7) for name in ("vq", "gumbel")],
  ids=lambda q: q["name"],
)
def test_sizes_are_read_from_the_tensors(fields, quantizer):
  fields = dict(fields)
  channels = fields.pop("channels")
  model, params, stats = drawn(fields, quantizer, channels)
  stats = jax.tree.map(np.zeros_like, stats)  # a codebook that is the parameter alone
  config = dict(model=dict(name="resnet", quantizer=quantizer) | fields)
  run = read(taming_vqgan.write(config, params, stats), resolution=fields["resolution"])
  got, _ = built(run)
  for field in fields:
    assert getattr(got, field) == getattr(model, field), field
  assert run.config["ops"]["channels"] == channels
  jax.tree.map(np.testing.assert_array_equal, run.params, params)
  assert got.quantizer.codebook_size == quantizer["codebook_size"]
  assert got.quantizer.dim == quantizer["dim"]


@pytest.mark.parametrize("name", ["vq", "simvq", "ema"])
def test_codes_in_effect_are_written(name):
  """Other quantizers have them elsewhere than in one parameter."""
  quantizer = dict(name=name, codebook_size=11, dim=7)
  model, params, stats = drawn(dict(TINY), quantizer, 3)
  state = taming_vqgan.write(
    dict(model=dict(name="resnet", quantizer=quantizer) | TINY), params, stats
  )
  variables = {"params": params["model"], **stats["model"]}
  codes = model.apply(variables, np.arange(11), method=lambda m, ids: m.quantizer.embed(ids))
  np.testing.assert_array_equal(state["quantize.embedding.weight"], codes)
  book = read(state).params["model"]["quantizer"]["codebook"]
  np.testing.assert_array_equal(book, codes)


@pytest.mark.parametrize(
  "name",
  [
    "encoder.conv_in.weight",
    "encoder.down.1.block.0.conv1.weight",
    "decoder.up.1.attn.1.proj_out.bias",
    "quant_conv.bias",
    "quantize.embedding.weight",
    "post_quant_conv.weight",
    "decoder.conv_out.weight",
  ],
)
def test_missing_and_misshapen_tensors_are_named(golden, name):
  state = load(golden / "taming_vqmodel.ckpt")
  with pytest.raises(UserError, match=f"missing.*{name}"):
    read({k: v for k, v in state.items() if k != name})
  with pytest.raises(UserError, match=name):
    read(state | {name: state[name][..., None, None]})
  if state[name].shape[0] > 3 and "embedding" not in name:  # how many codes, nothing else can tell
    with pytest.raises(UserError, match=f"misshapen: '{name}'"):
      read(state | {name: state[name][:-1]})


def test_extra_tensors_are_named_and_known_ones_ignored(golden):
  state = load(golden / "taming_vqmodel.ckpt")
  with pytest.raises(UserError, match="unexpected: 'encoder.surprise', 'other'"):
    read(state | {"encoder.surprise": np.zeros(1), "other": np.zeros(1)})
  read(
    state
    | {"loss.perceptual_loss.lin0.model.1.weight": np.zeros(1), "model_ema.decay": np.zeros(())}
  )


def test_averaged_weights(golden):
  state = load(golden / "taming_vqmodel.ckpt")
  with pytest.raises(UserError, match="ema"):
    read(state, ema="true")
  averages = {
    "model_ema." + k.replace(".", ""): v + 1
    for k, v in state.items()
    if k != "quantize.embedding.weight"
  }
  _, variables = built(read(state | averages, ema="true"))
  np.testing.assert_array_equal(
    variables["params"]["quant_conv"]["bias"], state["quant_conv.bias"] + 1
  )
  np.testing.assert_array_equal(
    variables["params"]["quantizer"]["codebook"], state["quantize.embedding.weight"]
  )


def test_resolutions_below_the_levels_are_refused(golden):
  with pytest.raises(UserError, match="--option resolution: 1 is too small for 2 levels"):
    read(load(golden / "taming_vqmodel.ckpt"), resolution=1)


VQ = dict(name="vq", codebook_size=4)


@pytest.mark.parametrize(
  "config, message",
  [
    (
      dict(model=dict(name="resnet", quantizer=dict(name="fsq", levels=(3, 3)))),
      "with quantizer 'fsq'",
    ),
    (dict(model=dict(name="resnet", quantizer=VQ | dict(normalize="l2"))), "with quantizer 'vq'"),
    (dict(model=dict(name="vit", quantizer=VQ)), "'vit' with quantizer 'vq' has no counterpart"),
    (
      dict(model=dict(name="transformer", layers=2)),
      "config.model: 'transformer' has no counterpart",
    ),
    (
      dict(model=dict(name="resnet", quantizer=VQ), signal=dict(name="audio")),
      "config.signal: 'audio' has no counterpart",
    ),
  ],
)
def test_write_refuses_what_taming_cannot_hold(config, message):
  with pytest.raises(UserError, match=message) as e:
    taming_vqgan.write(config, {}, {})
  assert "\n" not in str(e.value)
