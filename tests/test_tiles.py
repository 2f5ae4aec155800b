"""Tiles: exact where the model looks at a neighbourhood, without seams elsewhere."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest
import weights

from vqjax import api, config as configuration, tiles, train
from vqjax.api import tokenizer as tokenizer_module
from vqjax.build import build, names
from vqjax.tasks import Weights

TINY = {
  "dvae": dict(hidden=8, groups=2, blocks_per_group=1),
  "resnet": dict(ch=8, ch_mult=(1, 1, 1), num_res_blocks=1, attn_resolutions=(), z_channels=8),
  "vit": dict(patch=4, width=16, depth=1, heads=2, mlp_width=24),
  "vqvae": dict(hidden=8, residual_hidden=4, residual_blocks=1),
  "vqvae2": dict(hidden=8, residual_hidden=4, residual_blocks=0, downsamples=1),
}


def tokenizer(name, field="image"):
  model = dict(name=name, quantizer=dict(name="fsq", levels=(8, 8)), **TINY[name])
  more = (
    {}
    if field == "image"
    else dict(signal=dict(name="layout", classes=5), loss=dict(reconstruction="cross_entropy"))
  )
  config = configuration.complete(dict(model=model, ops=dict(size=16, channels=3), **more))
  spec = {"image": ((1, 16, 16, 3), "uint8"), "layout": ((1, 16, 16), "uint8")}
  # One or two examples are split over no devices: four would compute the same four times.
  run = train.Run(config, {k: jax.ShapeDtypeStruct(*v) for k, v in spec.items()}, jax.devices()[:1])
  rng = np.random.default_rng(0)

  def drawn(path, x):
    """Codes should differ from place to place, as a trained model's do."""
    if x.ndim > 1:
      return (rng.normal(size=x.shape) * (2 / math.prod(x.shape[:-1])) ** 0.5).astype(x.dtype)
    return np.full(x.shape, "scale" in jax.tree_util.keystr(path[-1:]), x.dtype)

  params = jax.tree_util.tree_map_with_path(drawn, run.abstract.params)
  loaded = api.Loaded("", config, run, Weights(params, {"model": {}}, {}))
  return api.Tokenizer(loaded)


@pytest.mark.parametrize(
  "cells, window, overlap", list(itertools.product((5, 8, 9, 23, 64), (5, 8), (1, 2, 4)))
)
def test_tiles_cover_everything_once(cells, window, overlap):
  window = min(window, cells)
  spans = tiles._spans(cells, window, overlap)
  assert [c for s in spans for c in range(*s.own)] == list(range(cells))
  for span in spans:
    before, behind = span.own[0] - span.start, span.start + window - span.own[1]
    assert span.start >= 0 and span.start + window <= cells
    assert span.own[0] == 0 or before >= overlap // 2
    assert span.own[1] == cells or behind >= overlap // 2
  shares = np.zeros(cells * 3, np.float32)
  for span, share in zip(spans, tiles._shares(spans, window, cells, 3)):
    shares[span.start * 3 :][: window * 3] += share
    assert share.min() > 0
  np.testing.assert_allclose(shares, 1, atol=1e-6)


@pytest.mark.parametrize("size", [(31,), (9, 20), (6, 7, 8)])
def test_a_function_of_neighbours_is_exact_on_any_number_of_axes(size):
  """Sums over a neighbourhood of one cell; two positions a cell come in, one and three go out."""
  axes = range(1, 1 + len(size))

  def fn(tree):
    x = np.add.reduceat(tree["x"], range(0, tree["x"].shape[1], 2), axis=1)
    for axis in axes:
      pad = [(0, 0)] * axis + [(1, 1)] + [(0, 0)] * (x.ndim - axis - 1)
      padded = np.pad(x, pad)
      x = sum(np.take(padded, np.arange(x.shape[axis]) + i, axis) for i in range(3))
    return {"codes": x, "values": (np.repeat(x, 3, axis=1) / 2,)}

  x = np.random.default_rng(0).integers(0, 99, (2, 2 * size[0], *size[1:], 2))
  plan = tiles.Plan(size, (6,) * len(size), (2,) * len(size), exact=True)
  whole, cut = fn({"x": x}), tiles.apply(fn, {"x": x}, plan)
  jax.tree.map(np.testing.assert_array_equal, whole, cut)


@pytest.mark.parametrize("name, field", [*((n, "image") for n in TINY), ("vqvae", "layout")])
def test_a_large_example_is_as_the_whole(name, field, monkeypatch):
  model = tokenizer(name, field)
  factor = model.info.factors[0]
  halo = model.info.modules.model.halo
  size = tuple(-(-n // factor) * factor for n in ((96, 132) if halo is None else (168, 212)))
  rng = np.random.default_rng(0)
  coarse = rng.integers(
    0, 5 if field == "layout" else 256, (2, *(n // 4 for n in size), 3), np.uint8
  )
  values = coarse.repeat(4, 1).repeat(4, 2)
  values = values[..., 0] if field == "layout" else values
  whole = model.reconstruct(values)
  codes = None if halo is None else model.encode(values)
  monkeypatch.setattr(tokenizer_module, "_WHOLE", 64**2 if halo is None else 96**2)
  monkeypatch.setattr(tokenizer_module, "_BLENDED", 64**2)
  cut = model.reconstruct(values)
  assert cut.shape == whole.shape and cut.dtype == np.uint8
  if halo is None:
    seams(whole.astype(int), cut.astype(int))
    return
  assert max(96, 4 * halo) < size[1], "the test cuts nothing"
  assert len(np.unique(jax.tree.leaves(codes)[-1])) > 8
  assert np.abs(cut.astype(int) - whole).max() <= (0 if field == "layout" else 1)
  jax.tree.map(np.testing.assert_array_equal, model.encode(values), codes)
  np.testing.assert_array_equal(model.decode(codes), cut)


def test_a_long_sound_is_as_the_whole(monkeypatch):
  """Of any length, with an LSTM in between: wide parts in tiles, the narrow one on all codes."""
  quantizer = dict(name="residual", quantizer=dict(name="fsq", levels=(8, 8)), depth=2)
  small = dict(width=4, strides=(2, 4), decoder_width=None, dilations=(1,), residual_size=3)
  model = dict(name="seanet", lstm=1, time="causal", quantizer=quantizer, **small)
  ops = dict(name="audio", rate=8_000, length=64)
  config = configuration.complete(dict(signal=dict(name="audio"), model=model, ops=ops))
  spec = {"audio": jax.ShapeDtypeStruct((1, 64, 1), "float32")}
  run = train.Run(config, spec, jax.devices()[:1])
  rng = np.random.default_rng(0)
  draw = lambda x: (rng.normal(size=x.shape) * x.size**-0.25).astype(x.dtype)
  params = jax.tree.map(draw, run.abstract.params)
  model = api.Tokenizer(api.Loaded("", config, run, Weights(params, {"model": {}}, {})))
  sound = rng.uniform(-0.5, 0.5, (1, 3_001, 1)).astype(np.float32)
  whole, codes = model.reconstruct(sound), model.encode(sound)
  assert codes.shape == (1, 376, 2) and len(np.unique(codes)) > 8
  decoded = model.decode(codes)
  monkeypatch.setattr(tokenizer_module, "_WHOLE", 512)
  np.testing.assert_array_equal(model.encode(sound), codes)
  np.testing.assert_allclose(model.reconstruct(sound), whole, atol=2e-6)
  np.testing.assert_allclose(model.decode(codes), decoded, atol=2e-6)
  assert whole.shape == sound.shape and decoded.shape == (1, 3_008, 1)


def test_every_architecture_is_cut_somewhere():
  assert {*TINY, "seanet"} == {*names("autoencoders")}


@pytest.mark.parametrize("name", TINY)
def test_a_halo_is_as_far_as_a_model_looks(name):
  """What is not a number spreads as far as the model looks, from the edge of a tile on."""
  blocks = {"vqvae": "residual_blocks", "vqvae2": "residual_blocks", "dvae": "blocks_per_group"}
  given = TINY[name] | ({blocks[name]: 2} if name in blocks else {})
  quantizer = dict(name="fsq", levels=(8, 8))
  model = build("autoencoders", dict(name=name, quantizer=quantizer, **given), axes=1)
  if model.halo is None:
    return
  factor = model.factors[0]
  edge, far = 2 * factor, -(-(model.halo + 6 * factor) // factor) * factor
  x = np.random.default_rng(0).uniform(-1, 1, (1, edge + far, 3)).astype(np.float32)
  variables = weights.initialised(model, x)
  recon, _ = jax.jit(functools.partial(model.apply, train=False))(
    variables, np.where(np.arange(x.shape[1])[:, None] < edge, np.nan, x)
  )
  wrong = np.flatnonzero(np.isnan(recon[0]).any(-1)).max() + 1 - edge
  assert model.halo - 2 * factor < wrong <= model.halo


def seams(whole, cut):
  """The error grows and falls slowly: along no line of pixels it jumps more than along others."""
  error = (cut - whole).astype(np.float32)
  for axis in (1, 2):
    others = tuple(a for a in range(error.ndim) if a != axis)
    jumps = np.sqrt(np.square(np.diff(error, axis=axis)).mean(others))
    assert jumps.max() < 3 * np.median(jumps) + 1
