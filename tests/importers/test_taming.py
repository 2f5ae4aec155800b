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
from vqjax.importers import reader, taming, torch_file

pytest.importorskip("torch")


@functools.cache
def load(path):
  return torch_file.load(path)


def values(golden, name):
  return load(golden / f"{name}.ckpt"), dict(np.load(golden / f"{name}.npz"))


def close(ours, theirs, tolerance=1e-4):
  np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


def test_vqmodel_values_and_gradients(golden):
  state, expected = values(golden, "taming_vqmodel")
  config, variables = taming.read(state, {"resolution": "32"})
  assert (
    config["attn_resolutions"] == (16,)
    and config["ch_mult"] == (1, 2)
    and config["num_res_blocks"] == 1
  )
  # The golden loss has beta where the paper has it: not legacy.
  paper, _ = taming.read(state, {"legacy": "false"})
  model, x = build("autoencoders", paper), expected["x"]

  @jax.jit
  def run(params):
    def loss(params):
      (recon, quantized), _ = model.apply(
        variables | {"params": params},
        x,
        train=True,
        mutable=["stats"],
        rngs={"codes": jax.random.key(0)},
      )
      return jnp.abs(recon - x).mean() + quantized.loss, (recon, quantized)

    return jax.value_and_grad(loss, has_aux=True)(params), model.apply(
      variables, x, method="encode"
    )

  ((loss, (recon, quantized)), grads), pre_quant = run(variables["params"])
  close(pre_quant, expected["pre_quant"])
  np.testing.assert_array_equal(quantized.ids, expected["indices"])
  close(quantized.z, expected["quant"])
  close(recon, expected["recon"])
  close(quantized.loss, expected["codebook_loss"])
  close(loss, expected["loss"])
  oihw = lambda kernel: np.transpose(kernel, (3, 2, 0, 1))
  close(oihw(grads["encoder"]["conv_in"]["kernel"]), expected["grad_encoder_conv_in"])
  close(oihw(grads["decoder"]["conv_out"]["kernel"]), expected["grad_decoder_conv_out"])
  close(grads["quantizer"]["codebook"], expected["grad_codebook"])
  # Legacy, the default, weighs the two equal halves the other way round.
  quantizer = build("quantizers", config["quantizer"])
  stats = {"params": variables["params"]["quantizer"], "stats": variables["stats"]["quantizer"]}
  close(
    quantizer.apply(stats, expected["pre_quant"], train=False).loss,
    expected["codebook_loss_legacy"],
  )
  assert (
    config["quantizer"]["codebook_weight"] == 0.25
    and paper["quantizer"]["commitment_weight"] == 0.25
  )


def test_gumbelvq_values(golden):
  state, expected = values(golden, "taming_gumbelvq")
  config, variables = taming.read(state, {})
  model = build("autoencoders", config)

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
  config, variables = taming.read_discriminator(state)
  disc = build("discriminators", config)
  apply = jax.jit(functools.partial(disc.apply, train=True, mutable=["batch_stats"]))
  (real, _), new = apply(variables, expected["real"])
  (fake, _), new = apply(variables | new, expected["fake"])
  close(real, expected["logits_real"])
  close(fake, expected["logits_fake"])
  after = taming.write_discriminator(variables | new)
  for name in (
    "main.3.running_mean",
    "main.3.running_var",
    "main.6.running_mean",
    "main.6.running_var",
  ):
    close(after[f"loss.discriminator.{name}"], expected[f"after/{name}"])
  (logits, _) = disc.apply(variables | new, expected["real"], train=False)
  close(logits, expected["logits_real_eval_after_two_train_calls"])


@pytest.mark.parametrize("name", ["taming_vqmodel", "taming_gumbelvq"])
def test_round_trip(golden, name):
  state = load(golden / f"{name}.ckpt")
  back = taming.write(*taming.read(state, {}))
  assert back.keys() == state.keys()
  for key in state:
    assert back[key].dtype == state[key].dtype, key
    np.testing.assert_array_equal(back[key], state[key], err_msg=key)


def test_discriminator_round_trip(golden):
  state = load(golden / "taming_discriminator.ckpt")
  prefixed = {f"loss.discriminator.{name}": x for name, x in state.items()}
  back = taming.write_discriminator(taming.read_discriminator(prefixed)[1])
  assert back.keys() == prefixed.keys()
  for key in back:
    if not key.endswith("num_batches_tracked"):
      np.testing.assert_array_equal(back[key], prefixed[key], err_msg=key)
  assert taming.read_discriminator(load(golden / "taming_vqmodel.ckpt")) is None


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
      out_channels=2,
    ),
    dict(
      ch=4,
      ch_mult=(1,),
      num_res_blocks=3,
      attn_resolutions=(16,),
      resolution=16,
      z_channels=2,
      mid_attention=False,
    ),
  ],
)
@pytest.mark.parametrize(
  "quantizer",
  [dict(name="vq", codebook_size=11, dim=7), dict(name="gumbel", codebook_size=9, dim=6)],
  ids=lambda q: q["name"],
)
def test_sizes_are_read_from_the_tensors(fields, quantizer):
  config = dict(name="resnet", quantizer=quantizer) | fields
  model = build("autoencoders", config)
  x = jnp.zeros((1, 32, 32, fields.get("channels", 3)))
  shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
  rng = np.random.default_rng(0)
  variables = {
    "params": jax.tree.map(
      lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes["params"]
    )
  }
  variables["stats"] = jax.tree_util.tree_map_with_path(
    lambda path, leaf: reader.book_stats(tuple(p.key for p in path), leaf.shape).astype(leaf.dtype),
    shapes.get("stats", {}),
  )
  state = taming.write(config, variables)
  read, back = taming.read(state, {"resolution": fields["resolution"]})
  got, wanted = (build("autoencoders", c) for c in (read, config))
  for field in (*fields, "ch", "z_channels"):
    assert getattr(got, field) == getattr(wanted, field), field
  jax.tree.map(np.testing.assert_array_equal, back["params"], variables["params"])
  assert (
    got.quantizer.codebook_size == quantizer["codebook_size"]
    and got.quantizer.dim == quantizer["dim"]
  )


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
    taming.read({k: v for k, v in state.items() if k != name}, {})
  with pytest.raises(UserError, match=name):
    taming.read(state | {name: state[name][..., None, None]}, {})
  if state[name].shape[0] > 3 and "embedding" not in name:  # how many codes, nothing else can tell
    with pytest.raises(UserError, match=f"misshapen: '{name}'"):
      taming.read(state | {name: state[name][:-1]}, {})


def test_extra_tensors_are_named_and_known_ones_ignored(golden):
  state = load(golden / "taming_vqmodel.ckpt")
  with pytest.raises(UserError, match="unexpected: 'encoder.surprise', 'other'"):
    taming.read(state | {"encoder.surprise": np.zeros(1), "other": np.zeros(1)}, {})
  taming.read(
    state
    | {"loss.perceptual_loss.lin0.model.1.weight": np.zeros(1), "model_ema.decay": np.zeros(())},
    {},
  )


def test_averaged_weights(golden):
  state = load(golden / "taming_vqmodel.ckpt")
  with pytest.raises(UserError, match="ema"):
    taming.read(state, {"ema": "true"})
  averages = {
    "model_ema." + k.replace(".", ""): v + 1
    for k, v in state.items()
    if k != "quantize.embedding.weight"
  }
  _, variables = taming.read(state | averages, {"ema": "true"})
  np.testing.assert_array_equal(
    variables["params"]["quant_conv"]["bias"], state["quant_conv.bias"] + 1
  )
  np.testing.assert_array_equal(
    variables["params"]["quantizer"]["codebook"], state["quantize.embedding.weight"]
  )


@pytest.mark.parametrize(
  "options", [{"resolutoin": 32}, {"resolution": "big"}, {"legacy": "maybe"}, {"resolution": 1}]
)
def test_options_that_do_not_fit_are_named(golden, options):
  with pytest.raises(UserError, match=f"--option {next(iter(options))}"):
    taming.read(load(golden / "taming_vqmodel.ckpt"), options)


def test_write_refuses_what_taming_cannot_hold():
  with pytest.raises(UserError, match="fsq"):
    taming.write(dict(name="resnet", quantizer=dict(name="fsq", levels=(3, 3))), {})
