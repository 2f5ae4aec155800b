"""The modes of networks: files in integers are the same bytes whatever computes them, files in
floats are refused where they might differ.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from vqjax import api
from vqjax.api.codec import Codec
from vqjax.codec import Source, digest, integer, prior
from vqjax.errors import UserError

SMALL = dict(name="vqvae", hidden=4, residual_hidden=4, residual_blocks=0)
TOKENIZERS = {
  "plain": SMALL | dict(quantizer=dict(name="ema", codebook_size=9, dim=4)),
  "books": SMALL
  | dict(quantizer=dict(name="residual", depth=2, quantizer=dict(name="vq", codebook_size=5))),
  "levels": SMALL | dict(name="vqvae2", downsamples=1, quantizer=dict(name="vq", codebook_size=7)),
}
NETWORKS = {
  "integer": dict(name="integer", layers=1, width=8, kernel=3),
  "prior": dict(name="transformer", layers=1, width=8, heads=2),
}
SIZES = [(16, 16), (20, 36), (9, 13)]


@pytest.fixture
def codec(untrained):
  """codec(tokenizer, mode) -> a Codec over the priors of all of its levels, untrained."""

  def make(kind, mode, **more):
    config = dict(model=NETWORKS[mode], scheme=dict(name="autoregressive"))
    first = untrained(dict(model=TOKENIZERS[kind]), config | more)
    made = [api.Prior(first)]
    if kind == "levels":
      finer = dict(level=1, condition=dict(coarser=dict(prior="none")))
      made.append(api.Prior(untrained(dict(model=TOKENIZERS[kind]), config | finer)))
    tokenizer = made[0].tokenizer
    priors = tuple(p.sampler for p in made)
    source = Source("run", tokenizer.info.levels, None, priors, digest(b"weights"))
    return Codec(tokenizer, source)

  return make


def drawn(codec):
  """Codes of three pictures: of the training size, larger and smaller."""
  rng, info = np.random.default_rng(0), codec.tokenizer.info
  from vqjax.api._archive import grids_of

  return [
    tuple(
      rng.integers(c.size, size=g).astype(np.int32) for g, c in zip(grids_of(info, s), info.levels)
    )
    for s in SIZES
  ]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_integer_files_do_not_depend_on_how_rows_are_batched(codec, kind, monkeypatch):
  made = codec(kind, "integer")
  examples = drawn(made)
  (data,) = made.pack_codes(examples, SIZES, "integer")
  archive = made.open(data)
  for i, example in enumerate(examples):
    assert all(map(np.array_equal, archive.codes(i), example))
  assert archive.payload * 8 <= made.bits(examples, "integer") + 8
  monkeypatch.setattr(integer, "_LOGITS", 1)  # one row at a time
  again = Codec(made.tokenizer, made.source)
  assert again.pack_codes(examples, SIZES, "integer") == [data]
  # Stepwise, as the decoder has it, the encoder writes the same.
  networks = [n._replace(whole=None) for n in again.mode("integer").networks]
  object.__setattr__(again.mode("integer"), "networks", networks)
  assert again.pack_codes(examples, SIZES, "integer") == [data]


def test_a_prior_that_must_be_told_serves_no_file(codec):
  made = codec("plain", "prior", condition=dict(label=dict(classes=10), drop=0.0))
  with pytest.raises(
    UserError, match="never drew without its label, .* config.condition.drop above 0"
  ):
    made.mode("prior")
  assert made.best() == "context"


def test_floats_come_back_or_are_not_written_and_are_refused_elsewhere(codec, monkeypatch):
  made = codec("plain", "prior")
  examples = drawn(made)
  (data,) = made.pack_codes(examples, SIZES, "prior")
  archive = made.open(data)
  for i, example in enumerate(examples):
    assert all(map(np.array_equal, archive.codes(i), example))
  assert jax.devices()[0].device_kind in prior.environment()
  with pytest.raises(UserError, match="computes in floats, which differ between machines"):
    made.pack_codes(examples, SIZES, "integer")
  decode = prior.Mode.decode
  changed = lambda *a: [tuple(ids ^ 1 for ids in example) for example in decode(*a)]
  with monkeypatch.context() as patch:
    patch.setattr(prior.Mode, "decode", changed)
    with pytest.raises(UserError, match="does not give the codes back on this machine"):
      made.pack_codes(examples, SIZES, "prior")
  monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"] + " --xla_cpu_max_isa=SSE4_2")
  elsewhere = Codec(made.tokenizer, made.source)
  with pytest.raises(UserError, match="a.vqjc: .* can be read there alone; here is") as e:
    elsewhere.open(data, "a.vqjc")
  assert "\n" not in str(e.value)


@pytest.mark.slow
@pytest.mark.parametrize("mode", NETWORKS)
def test_damage_is_one_line_and_never_another_picture(codec, mode):
  path = pathlib.Path(__file__).with_name("test_files.py")
  spec = importlib.util.spec_from_file_location("codec_files", path)
  files = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(files)
  made = codec("plain", mode)
  examples = drawn(made)
  names = ["a.png", "b.png", "c.png"]
  sets = [(examples, SIZES), (examples[::-1], SIZES[::-1])]
  packed = [made.pack_codes(*each, mode, names, 2)[0] for each in sets]
  right = [[*codes, tuple(names), tuple(sizes)] for codes, sizes in sets]
  said = files.fuzz(made, packed, right, cases=files.CASES // 6)
  print(mode, said)
  assert said["refused"] > 0.8 * (files.CASES // 6)


@pytest.mark.parametrize("length, resolution", [(1, 32), (7, 16)])
def test_weights_are_the_softmax_of_the_logits(length, resolution):
  rng = np.random.default_rng(0)
  logits = rng.integers(-900, 900, (length, 50)) / resolution
  found = integer.weights(logits.astype(np.float32), resolution)
  exact = np.exp(logits - logits.max(-1, keepdims=True)) * 2**24
  assert np.abs(found - exact).max() <= 0.5 + 1e-6 and found.max(-1).tolist() == [2**24] * length


PROGRAM = """
import jax, numpy as np, hashlib
from vqjax.latents import Codes
from vqjax.priors import integer as network
from vqjax.codec import integer
latent = Codes((3, 4), 11)
model = network.Model(latent, 11, layers=1, width=8, kernel=3)
ids = np.random.default_rng(0).integers(11, size=(4, 12)).astype(np.int32)
shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, train=False))
rng = np.random.default_rng(1)
params = jax.tree.map(lambda x: (0.4 * rng.standard_normal(x.shape)).astype(x.dtype), shapes)
logits = jax.jit(lambda p, i: model.apply(p, i, train=False))(params, ids)
print(hashlib.sha256(integer.weights(logits, model.resolution).tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_processes_devices_and_instruction_sets_find_the_same():
  """Of one and four faked devices, with and without the newer instructions."""
  root, found = pathlib.Path(__file__).parents[2], set()
  for flags in ("", "--xla_force_host_platform_device_count=4 --xla_cpu_max_isa=SSE4_2"):
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
      [sys.executable, "-c", PROGRAM], env=env, cwd=root, check=True, capture_output=True, text=True
    )
    found.add(done.stdout)
  assert len(found) == 1
