"""Measures over a split: rows gathered in order without padding, any prediction asked for, noise
that is the same at every evaluation; on one device as on four.
"""

import dataclasses
import types
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import measure, sharding
from vqjax.errors import UserError

ONE, FOUR = 1, 4


@dataclasses.dataclass(frozen=True)
class Rows:
  """Gathers what the prediction `needs` says of each example, and shows it as figures."""

  needs: str
  of: str

  reduction: ClassVar[str] = "gather"
  protocol: ClassVar[str] = "every row"

  def frozen(self):
    return {"scale": np.float32(2)}

  def update(self, frozen, batch, out, mask):
    rows = out[self.of].astype(jnp.float32)
    return {"rows": frozen["scale"] * rows.reshape(len(rows), -1), "number": batch["number"]}

  def result(self, gathered):
    rows = {f"rows/{n}": value for n, value in enumerate(gathered["rows"].mean(-1))}
    order = {f"order/{n}": value for n, value in enumerate(gathered["number"])}
    return rows | order | {"count": len(gathered["rows"])}


@dataclasses.dataclass(frozen=True)
class Total:
  """2^24 from the first batch and 1 from each later one, which float32 cannot add up."""

  needs: ClassVar[str] = "echo"
  reduction: ClassVar[str] = "sum"

  def frozen(self):
    return ()

  def update(self, frozen, batch, out, mask):
    number = batch["number"]
    return {"total": jnp.where(number == 0, 2.0**24, (number > 0) & (number % 4 == 0)).sum()}

  def result(self, sums):
    return {"total": sums["total"]}


def echo(weights, batch, key):
  return {"values": weights * batch["number"].astype(jnp.float32)}


def noise(weights, batch, key):
  return {"values": jax.random.normal(key, batch["number"].shape)}


def mesh_of(devices):
  return sharding.make_mesh(devices=jax.devices()[:devices])


def batches(count=10, size=4):
  """`count` examples in batches of `size`; junk fills the last one."""
  for start in range(0, count, size):
    number = np.arange(start, start + size, dtype=np.int32)
    kept = number < count
    yield {"number": np.where(kept, number, -99)}, kept.astype(np.float32)


def taken(devices, *made):
  """The figures of measures over the batches, taken twice."""
  predict = {"echo": echo, "noise": noise}
  made = {str(i): m for i, m in enumerate(made)}
  measurement = measure.Measurement(made, predict, mesh_of(devices))
  figures = measurement.over(batches(), jnp.float32(3))
  assert figures == measurement.over(batches(), jnp.float32(3))
  return figures


@pytest.mark.parametrize("devices", [ONE, FOUR])
def test_rows_keep_their_order_and_lose_the_padding(devices):
  figures = taken(devices, Rows("echo", "values"), Total())
  expected = {f"rows/{n}": 6.0 * n for n in range(10)} | {f"order/{n}": n for n in range(10)}
  assert figures == expected | {"count": 10, "total": 2**24 + 2}


def test_noise_differs_from_batch_to_batch_alike_on_any_number_of_devices():
  one, four = (taken(devices, Rows("noise", "values")) for devices in (ONE, FOUR))
  assert one == four
  drawn = [figure for name, figure in one.items() if name.startswith("rows/")]
  assert len(set(drawn)) == len(drawn) == 10


TOKENIZER = dict(
  model=dict(
    name="vqvae",
    hidden=8,
    residual_hidden=8,
    residual_blocks=1,
    quantizer=dict(name="ema", codebook_size=8, dim=4),
  )
)
PRIOR = dict(
  model=dict(name="transformer", layers=1, width=16, heads=2),
  scheme=dict(name="masked"),
  condition=dict(label=dict(classes=8)),
  batch_size=4,
  preview=4,
)


def of_samples(run, made):
  """The run with measures that no config can name, which also need a number of each example."""
  prepare = run.task.prepare
  run.task = run.task._replace(
    prepare=lambda batch: prepare(batch) | {"number": batch["attributes"][:, 0, 0]}
  )
  run.measurement = measure.Measurement(made, run.task.predict, run.mesh)
  return run


def test_a_measure_of_samples_over_a_split(untrained):
  loaded = untrained(TOKENIZER, PRIOR)
  run, weights, dataset = loaded.run, loaded.weights, loaded.dataset()
  run = of_samples(run, {"samples": Rows("sample", "image")})
  figures = measure.evaluate_split(run, dataset, weights)
  sample, expected = jax.jit(run.task.predict["sample"]), []
  for index, (batch, mask) in enumerate(dataset.batches(4)):
    key = jax.random.fold_in(jax.random.key(0), index)
    images = sample(weights, run.task.prepare(batch), key)["image"]
    expected += [2 * float(image.mean()) for image in np.asarray(images)[mask != 0]]
  found = [figures[f"rows/{n}"] for n in range(len(expected))]
  assert figures["count"] == dataset.size() == len(expected) == 10
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert len({round(value, 4) for value in found}) > 5
  assert measure.evaluate_split(run, dataset, weights, limit=6)["count"] == 6


def test_what_would_end_a_run_at_its_first_save_ends_it_before(untrained):
  loaded = untrained(TOKENIZER, PRIOR)
  run, weights, dataset = loaded.run, loaded.weights, loaded.dataset()
  held_out = lambda: measure.HeldOut(run, dataset, weights)
  held_out()
  run.config["best"] = "-nats_per_cod"
  with pytest.raises(
    UserError, match="config.best: .*'nats_per_cod'. Did you mean 'nats_per_code'"
  ):
    held_out()
  run.config["best"] = "count"
  of_samples(run, {"samples": Rows("sample", "image")})
  held_out()  # rows are gathered of shapes alone, too
  dataset = types.SimpleNamespace(size=lambda split: 0)
  with pytest.raises(UserError, match="config.data: has no held-out examples"):
    held_out()


def test_measures_that_cannot_be_taken_are_named(untrained):
  loaded = untrained(TOKENIZER, PRIOR)
  for given, message in [
    (["distortion"], "config.evaluators: 'distortion' needs the prediction 'reconstruct'"),
    (["likelihood", "likelihood"], r"config.evaluators\[1\]: 'likelihood' is given twice"),
  ]:
    config = loaded.run.config.copy_and_resolve_references()
    config.evaluators = given
    with pytest.raises(UserError, match=message):
      measure.of_run(config, loaded.run.task, loaded.run.mesh)
