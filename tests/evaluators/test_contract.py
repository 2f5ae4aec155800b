"""What every evaluator promises: the fields, purity under jit, and figures that padding and
batching do not move.
"""

import functools

import jax
import numpy as np
import pytest

from vqjax import build, evaluators, measure, sharding
from vqjax.errors import UserError
from vqjax.latents import Codes
from vqjax.nn import perceptual
from vqjax.signals import audio
from vqjax.signals.layout import Signal

GIVEN = {
  "sound": {"signal": audio.Signal(4_000)},
  "codes": {"levels": (Codes((2, 3), 7),)},
  "layouts": {"signal": Signal(classes=4)},
}
RECONSTRUCTION = [
  name
  for name in build.names("evaluators")
  if build.module("evaluators", name).Measure.needs == "reconstruct"
]


@pytest.fixture(scope="module")
def lpips_path(tmp_path_factory):
  rng = np.random.default_rng(0)
  weights = {}
  for name, shape in perceptual.shapes().items():
    scale = np.sqrt(2 / np.prod(shape[:-1])) if len(shape) == 4 else 0.1
    weights[name] = (
      np.abs(rng.standard_normal(shape) * scale).astype(np.float32)
      if "linear" in name
      else (rng.standard_normal(shape) * scale).astype(np.float32)
    )
  path = tmp_path_factory.mktemp("lpips") / "weights.npz"
  np.savez(path, **weights)
  return str(path)


@functools.cache
def measure_of(name, lpips_path):
  fields = {"weights": lpips_path} if name == "lpips" else {}
  return build.build("evaluators", {"name": name, **fields}, **GIVEN.get(name, {}))


def frozen_of(measure):
  return getattr(measure, "frozen", tuple)()


@functools.cache
def update_of(measure):
  return jax.jit(measure.update)


def data(count):
  rng = np.random.default_rng(1)
  image = rng.integers(0, 256, size=(count, 16, 20, 3)).astype(np.uint8)
  recon = (image / 127.5 - 1 + 0.3 * rng.normal(size=image.shape)).astype(np.float32)
  real, guessed = rng.integers(0, 4, size=(2, count, 16, 20)).astype(np.uint8)
  ids = rng.integers(0, 7, size=(count, 2, 3)).astype(np.int32)
  film = lambda x: np.stack([x, x[:, ::-1]], 1)
  sound = 0.2 * rng.normal(size=(2, count, 300, 1)).astype(np.float32)
  batch = {"image": image, "layout": real, "video": film(image), "audio": sound[0]}
  out = {"image": recon, "layout": guessed, "ids": ids, "video": film(recon), "audio": sound[1]}
  return batch, out


def run(measure, batch, out, size):
  """The measure over batches of `size`, the last one padded with junk."""
  frozen, total = frozen_of(measure), None
  update = update_of(measure)
  count = len(batch["image"])
  for start in range(0, count, size):
    index = np.arange(start, start + size)
    take = lambda tree: {k: v[index % count] for k, v in tree.items()}
    total = evaluators.add(
      total, update(frozen, take(batch), take(out), (index < count).astype(np.float32))
    )
  return measure.result(total)


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_ragged_batches_change_nothing(name, lpips_path):
  measure = measure_of(name, lpips_path)
  batch, out = data(3)
  whole, ragged = run(measure, batch, out, 3), run(measure, batch, out, 2)
  assert whole.keys() == ragged.keys() and all(isinstance(v, float) for v in whole.values())
  for key in whole:
    np.testing.assert_allclose(ragged[key], whole[key], rtol=1e-5, err_msg=key)
  assert measure.protocol and "\n" not in measure.protocol


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_junk_in_the_padding_counts_nowhere(name, lpips_path):
  measure = measure_of(name, lpips_path)
  batch, out = data(3)
  bad = {key: value.copy() for key, value in out.items()}
  bad["image"][2:], bad["layout"][2:], bad["video"][2:] = np.nan, 255, np.nan
  mask = np.array([1, 1, 0], np.float32)
  got = measure.result(
    evaluators.add(None, update_of(measure)(frozen_of(measure), batch, bad, mask))
  )
  expected = run(measure, *jax.tree.map(lambda v: v[:2], (batch, out)), 2)
  for key in expected:
    np.testing.assert_allclose(got[key], expected[key], rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", sorted({*RECONSTRUCTION} - {"codes"}))  # of any signal
def test_another_kind_of_signal_is_one_line(name, lpips_path):
  made = measure_of(name, lpips_path)
  batch, out = data(1)
  del out[made.reads]
  predict = {"reconstruct": lambda weights, batch, key: out}
  measurement = measure.Measurement({name: made}, predict, sharding.make_mesh())
  with pytest.raises(UserError, match=f"{name!r} measures {made.reads}, and this run makes"):
    measurement.one_batch(measurement.frozen, batch, np.ones(1), 0, None)


def test_lpips_is_zero_for_identical_images_only(lpips_path):
  measure = measure_of("lpips", lpips_path)
  batch, out = data(2)
  same = out | {"image": (batch["image"] / 127.5 - 1).astype(np.float32)}
  assert abs(run(measure, batch, same, 2)["lpips"]) < 1e-9 < run(measure, batch, out, 2)["lpips"]


@pytest.mark.parametrize("name", [name for name in RECONSTRUCTION if name != "lpips"])
def test_sharded_batches_give_the_same_sums(name, lpips_path):
  measure = measure_of(name, lpips_path)
  batch, out = data(4)
  mask = np.array([1, 1, 1, 0], np.float32)
  mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  sharded = jax.device_put(
    (batch, out, mask), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  )
  update = update_of(measure)
  got, expected = update((), *sharded), update((), batch, out, mask)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, expected)
