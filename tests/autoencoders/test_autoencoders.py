"""The contract of every autoencoder, with several quantizers, plus what is particular to each
architecture.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from vqjax.autoencoders import vit
from vqjax.build import build, names
from vqjax.errors import UserError
from vqjax.nn import losses

# Sizes that compile in seconds. A new architecture without an entry is tested at its defaults.
TINY = {
  "dvae": dict(hidden=8, groups=3, blocks_per_group=1),
  "seanet": dict(width=4, strides=(2, 4), decoder_width=16, dilations=(1, 3), residual_size=3),
  "resnet": dict(
    ch=8,
    ch_mult=(1, 2),
    num_res_blocks=1,
    attn_resolutions=(8,),
    resolution=16,
    z_channels=6,
    dropout=0.1,
  ),
  "vit": dict(patch=4, width=16, depth=1, heads=2, mlp_width=24),
  "vqvae": dict(hidden=8, residual_hidden=4, residual_blocks=1),
  "vqvae2": dict(hidden=8, residual_hidden=4, residual_blocks=1),
}
# Grid axes that an architecture is made for, where it is not made for all; tests take the first.
AXES = {"seanet": (1,)}
FSQ = dict(name="fsq", levels=(5, 4, 3))
# Codes of unit length before any training, and no revival: latents of a fresh model are too small
# for most quantizers.
VQ = dict(name="vq", codebook_size=16, dim=4, codebook_init="normal", revive=0.0)


def make(name, quantizer=VQ, **fields):
  fields = {"axes": axes_of(name)[0]} | fields
  given = {k: fields.pop(k) for k in ("axes", "channels", "out_channels") if k in fields}
  given = {"channels": 3} | given
  config = dict(name=name, quantizer=quantizer, **TINY.get(name, {})) | fields
  return build("autoencoders", config, **given)


def axes_of(name):
  return AXES.get(name, (2, 1, 3))


def signal(key, *size, channels=3):
  return jax.random.uniform(jax.random.key(key), (2, *size, channels), minval=-1.0)


def times(model, *codes):
  """The size of a signal whose (coarsest) grid has this shape."""
  return tuple(n * f for n, f in zip(codes, model.factors))


def shape_of(model, x, train=False):
  rngs = {name: jax.random.key(0) for name in ("params", "codes", "dropout")}
  variables = jax.eval_shape(functools.partial(model.init, train=False), rngs, x)
  return jax.eval_shape(
    lambda v: model.apply(v, x, train=train, rngs=rngs, mutable=["stats", "intermediates"])[0],
    variables,
  )


def grids(model, *size):
  grid = model.grid(*size)
  return grid if isinstance(grid[0], tuple) else (grid,)


@functools.cache
def initialised(name, dtype="float32", **fields):
  model = make(name, dtype=dtype, **fields)
  size = times(model, 2, 3)
  return model, weights.initialised(model, signal(0, *size)), signal(1, *size)


@pytest.mark.parametrize("name", names("autoencoders"))
@pytest.mark.parametrize(
  "quantizer",
  [
    VQ,
    dict(name="gaussian", dim=4),
    dict(name="residual", quantizer=dict(name="ema", codebook_size=8, dim=4), depth=2),
  ],
  ids=lambda q: q["name"],
)
def test_shapes(name, quantizer):
  model = make(name, quantizer)
  check_shapes(model, *times(model, 4, 2))


def check_shapes(model, *size):
  recon, quantized = shape_of(model, signal(0, *size, channels=model.channels), train=True)
  channels = model.out_channels or model.channels
  assert recon.shape == (2, *size, channels) and recon.dtype == jnp.float32
  zs, ids = ((v if isinstance(v, tuple) else (v,)) for v in (quantized.z, quantized.ids))
  for grid, z, codes in zip(grids(model, *size), zs, ids, strict=True):
    assert z.shape == (2, *grid, model.quantizer.width)
    if model.quantizer.codebook_size:
      assert codes.shape[: 1 + len(size)] == (2, *grid) and codes.dtype == jnp.int32


@functools.cache
def paths(name, axes):
  """Where a model has parameters."""
  model = make(name, axes=axes)
  init = functools.partial(model.init, train=False)
  variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *model.factors, 3)))
  return jax.tree.structure(variables["params"])


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("name", names("autoencoders"))
def test_axes(name, axes):
  if axes not in axes_of(name):
    pytest.skip(f"{name} is made for {axes_of(name)} axes")
  model = make(name, axes=axes, channels=1, out_channels=2)
  check_shapes(model, *times(model, *(2, 3, 1)[:axes]))
  assert model.factors == make(name).factors[:1] * axes
  # The same parameters as for images, but for the kernels' number of axes.
  assert paths(name, axes) == paths(name, axes_of(name)[0])


@pytest.mark.parametrize("name", names("autoencoders"))
def test_channels(name):
  model = make(name, channels=1, out_channels=2)
  check_shapes(model, *times(model, 1, 3))


@pytest.mark.parametrize("name", sorted(set(names("autoencoders")) - {"seanet"}))
def test_sizes_that_do_not_fit_are_named(name):
  model = make(name)
  factor = model.factors[0]
  for size, message in (
    ((factor, factor + 1), f"{factor}x{factor + 1}.*multiple of {factor}"),
    ((factor,), f"size {factor} has 1 grid axes.*made for 2"),
  ):
    for call in (lambda: model.grid(*size), lambda: shape_of(model, signal(0, *size))):
      with pytest.raises(UserError, match=message):
        call()


@functools.cache
def computed(name):
  """In float32, of two tests: the call's reconstruction and ids, the ids by `tokens`, what these
  decode to, what the call's latents do.
  """
  model, variables, x = initialised(name)

  @jax.jit
  def run(variables, x):
    ids = model.apply(variables, x, method="tokens")
    recon, quantized = model.apply(variables, x, train=False)
    decoded = model.apply(variables, ids, method="from_tokens")
    again = model.apply(variables, quantized.z, method="decode")
    return recon, quantized.ids, ids, decoded, again

  return run(variables, x)


@pytest.mark.parametrize("name", names("autoencoders"))
def test_tokens_round_trip(name):
  recon, of_call, ids, decoded, again = computed(name)
  jax.tree.map(np.testing.assert_array_equal, of_call, ids)
  np.testing.assert_allclose(decoded, recon, rtol=1e-5, atol=1e-5)
  # Decoding what encode and the quantizer gave is the same as the whole call.
  np.testing.assert_allclose(again, recon, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "name, fields",
  [*((name, {}) for name in names("autoencoders")), ("vqvae", dict(upsample="repeat"))],
)
def test_gradients_reach_every_parameter(name, fields):
  model, variables, x = initialised(name, **fields)

  @jax.jit
  def run(params):
    def loss(params):
      rngs = {"codes": jax.random.key(2), "dropout": jax.random.key(3)}
      (recon, quantized), sown = model.apply(
        variables | {"params": params},
        x,
        train=True,
        step=jnp.int32(3),
        rngs=rngs,
        mutable=["stats", "intermediates"],
      )
      return losses.l2(recon, x) + quantized.loss, (recon, sown["intermediates"])

    (_, (recon, sown)), grads = jax.value_and_grad(loss, has_aux=True)(params)
    cotangent = jax.grad(lambda recon: losses.l2(recon, x))(recon)
    return grads, cotangent, sown

  grads, cotangent, sown = run(variables["params"])
  for path, grad in jax.tree.leaves_with_path(grads):
    assert np.isfinite(grad).all(), jax.tree_util.keystr(path)
    # Softmax does not see a constant added to all keys.
    if "'k']['bias'" not in jax.tree_util.keystr(path):
      assert np.abs(grad).max() > 0, jax.tree_util.keystr(path)
  if model.last_layer is None:
    return
  # The last layer alone, from its sown input, has the gradient that the whole model gives it.
  params, grads = (
    functools.reduce(lambda t, key: t[key], model.last_layer, t)
    for t in (variables["params"], grads)
  )
  assert grads.keys() == {"kernel", "bias"}
  (h,) = sown["last_input"]
  np.testing.assert_allclose(
    losses.last_layer_gradient(h, params["kernel"], cotangent),
    grads["kernel"],
    rtol=1e-3,
    atol=1e-6,
  )


@pytest.mark.parametrize("name", names("autoencoders"))
def test_bfloat16(name):
  model, variables, _ = initialised(name, "bfloat16")
  assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype("float32")}
  jax.tree.map(np.testing.assert_array_equal, variables, initialised(name)[1])
  # With the codes given, so that a latent on the border between two codes cannot decide the test.
  _, _, ids, expected, _ = computed(name)
  recon = jax.jit(functools.partial(model.apply, method="from_tokens"))(variables, ids)
  assert recon.dtype == jnp.float32
  assert np.abs(recon - expected).max() < 0.05 * np.abs(expected).max() + 0.01
  assert np.abs(recon - expected).max() > 0, "computed in float32"


def test_vqvae2_levels():
  model = make("vqvae2", dict(name="vq", codebook_size=16, dim=4), levels=3)
  assert model.factors == (16, 16) and model.grid(32, 48) == ((2, 3), (4, 6), (8, 12))
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), signal(0, 16, 16)
  )
  books = {k for k in variables["params"] if k.startswith("quantizer")}
  assert books == {"quantizer_top", "quantizer_middle", "quantizer_bottom"}
  _, quantized = shape_of(model, signal(0, 16, 16))
  assert {k.split("/")[0] for k in quantized.metrics} == {"top", "middle", "bottom"}


def test_vqvae2_fine_codes_depend_on_coarse_ones():
  model, variables, x = initialised("vqvae2")
  top, bottom = model.apply(variables, x, method="encode")
  context = jax.tree_util.tree_map_with_path(
    lambda path, p: (
      p + 1.0 if "context_bottom" in jax.tree_util.keystr(path) and p.ndim == 1 else p
    ),
    variables,
  )
  other_top, other_bottom = model.apply(context, x, method="encode")
  np.testing.assert_array_equal(top, other_top)
  assert np.abs(bottom - other_bottom).max() > 1e-3


def test_resnet_has_attention_where_published():
  model = build(
    "autoencoders", dict(name="resnet", quantizer=dict(name="vq", codebook_size=1024, dim=256))
  )
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 256, 256, 3))
  )
  attention = {
    k for part in ("encoder", "decoder") for k in variables["params"][part] if "attn" in k
  }
  assert attention == {
    "down_4_attn_0",
    "down_4_attn_1",
    "mid_attn_1",
    "up_4_attn_0",
    "up_4_attn_1",
    "up_4_attn_2",
  }


@pytest.mark.parametrize("name,fields", [("resnet", dict(ch_mult=(1,), resolution=4)), ("vit", {})])
def test_remat_changes_no_value(name, fields):
  model, again = (
    make(name, remat=remat, quantizer=dict(name="identity", dim=2), **fields)
    for remat in (False, True)
  )
  x = signal(0, 4, 4)
  rngs = {"params": jax.random.key(0), "dropout": jax.random.key(3)}
  params = weights.initialised(model, x)

  def gradient(model):
    return jax.jit(jax.grad(lambda p: model.apply(p, x, train=True, rngs=rngs)[0].sum()))(params)

  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
    gradient(model),
    gradient(again),
  )


def test_vit_positions():
  learned = make("vit", positions="learned", resolution=16)
  x = signal(0, 16, 16)
  variables = jax.eval_shape(lambda x: learned.init(jax.random.key(0), x, train=False), x)
  assert variables["params"]["encoder"]["positions"].shape == (4, 4, 16)
  other = jax.eval_shape(
    lambda v, x: learned.apply(v, x, train=False)[0], variables, signal(0, 8, 24)
  )
  assert other.shape == (2, 8, 24, 3)


def test_vit_sincos():
  # Sines and cosines of the row's angle fill one half of the channels, of the column's the other.
  table = vit.sincos((3, 5), 16)
  assert table.shape == (3, 5, 16)
  np.testing.assert_allclose(
    table[2, 1, :4], np.sin(2 * 10_000.0 ** (-np.arange(4) / 4)), rtol=1e-6
  )
  np.testing.assert_allclose(
    table[2, 1, 12:], np.cos(1 * 10_000.0 ** (-np.arange(4) / 4)), rtol=1e-6
  )
  np.testing.assert_array_equal(vit.sincos((3,), 8), table[:, 0, :8])
  # Eight pairs on three axes are 3, 3 and 2.
  table = vit.sincos((3, 2, 4), 16)
  assert table.shape == (3, 2, 4, 16)
  for axis, channels in enumerate((slice(0, 6), slice(6, 12), slice(12, 16))):
    alone = vit.sincos(table.shape[axis : axis + 1], channels.stop - channels.start)
    np.testing.assert_array_equal(np.moveaxis(table, axis, -2)[0, 0, :, channels], alone)


@pytest.mark.parametrize(
  "name,field,value",
  [
    ("dvae", "hidden", 3),
    ("dvae", "groups", 0),
    ("resnet", "ch", 0),
    ("resnet", "ch_mult", ()),
    ("resnet", "ch_mult", (1, 0)),
    ("resnet", "num_res_blocks", -1),
    ("resnet", "dropout", 1.5),
    ("vit", "width", 7),
    ("vit", "heads", 0),
    ("vit", "patch", 0),
    ("vit", "depth", 0),
    ("vit", "decoder_width", 0),
    ("vit", "dropout", -0.1),
    ("vqvae", "downsamples", 0),
    ("vqvae", "hidden", 0),
    ("vqvae", "residual_hidden", -4),
    ("vqvae", "residual_blocks", -1),
    ("vqvae", "channels", 0),
    ("vqvae2", "levels", 4),
    ("vqvae2", "downsamples", 0),
    *((name, "axes", 4) for name in names("autoencoders")),
  ],
)
def test_impossible_fields_are_named(name, field, value):
  with pytest.raises(UserError, match=f"{name} is made for" if field == "axes" else f"{field}: "):
    make(name, **{field: value})
