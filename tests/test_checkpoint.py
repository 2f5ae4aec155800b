"""Checkpoints: exact round trips, damage detected and survived, the best one kept, parts of another run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import checkpoint
from vqjax.errors import UserError


class Stream:
  """A data stream whose position is one number."""

  def __init__(self, position=0):
    self.position = position

  def save(self, directory):
    (directory / "position").write_text(str(self.position))

  def restore(self, directory):
    self.position = int((directory / "position").read_text())


def state(seed):
  key = jax.random.key(seed)
  return {"params": {"w": jax.random.normal(key, (64, 64)), "b": jnp.arange(3, dtype=jnp.bfloat16)},
          "stats": {"n": jnp.int32(seed), "flag": jnp.array(True)}}


def abstract(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def filled(path, steps=(1, 2, 3), **options):
  with checkpoint.Checkpoints(path, **options) as checkpoints:
    for step in steps:
      checkpoints.save(step, state(step), Stream(10 * step), {"psnr": float(-abs(step - 1))}, {"loss": [0.1 * step]})


def test_round_trip_is_exact(tmp_path):
  filled(tmp_path, keep=3)
  with checkpoint.Checkpoints(tmp_path, keep=3) as checkpoints:
    restored, stream, window = checkpoints.restore(abstract(state(0)), lambda step: Stream())
  jax.tree.map(np.testing.assert_array_equal, restored, state(3))
  assert stream.position == 30 and window == {"loss": [0.1 * 3]}


def test_newest_and_best_are_kept(tmp_path):
  filled(tmp_path, steps=(1, 2, 3, 4), keep=2, best="psnr")
  with checkpoint.Checkpoints(tmp_path, keep=2, best="psnr") as checkpoints:
    assert checkpoints.steps() == [1, 3, 4]


@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage, caplog):
  filled(tmp_path, keep=3)
  files = sorted((f for f in (tmp_path / "checkpoints" / "3" / "state").rglob("*") if f.is_file() and "/d/" in str(f)),
                 key=lambda f: f.stat().st_size)
  content = files[-1].read_bytes()
  if damage == "cut":
    files[-1].write_bytes(content[: len(content) // 2])
  elif damage == "flip":
    middle = len(content) // 2
    files[-1].write_bytes(content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1:])
  else:
    files[-1].unlink()
  with checkpoint.Checkpoints(tmp_path, keep=3) as checkpoints:
    restored, stream, _ = checkpoints.restore(abstract(state(0)), lambda step: Stream())
    assert checkpoints.steps() == [1, 2]
    checkpoints.save(3, state(3), Stream(30))
  jax.tree.map(np.testing.assert_array_equal, restored, state(2))
  assert stream.position == 20
  assert (tmp_path / "damaged_checkpoints").is_dir()


def test_nothing_readable_is_an_error(tmp_path):
  filled(tmp_path, steps=(1,))
  for file in (tmp_path / "checkpoints" / "1" / "state").rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  with checkpoint.Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="none of the checkpoints"):
    checkpoints.restore(abstract(state(0)), lambda step: Stream())


def test_fingerprint_ignores_sharding_and_sees_a_bit():
  x = jnp.arange(64.0).reshape(8, 8)
  mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  split = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
  np.testing.assert_array_equal(checkpoint.fingerprint([x]), checkpoint.fingerprint([split]))
  assert (checkpoint.fingerprint([x]) != checkpoint.fingerprint([x.at[3, 3].add(1e-5)])).all()
  assert (checkpoint.fingerprint([x]) != checkpoint.fingerprint([x.T])).all()


def test_part_of_another_run(tmp_path):
  filled(tmp_path)
  part = checkpoint.restore_params(tmp_path, {"params": abstract(state(0))["params"]})
  jax.tree.map(np.testing.assert_array_equal, part, {"params": state(3)["params"]})
  with pytest.raises(UserError, match="holds no checkpoint"):
    checkpoint.restore_params(tmp_path / "empty", {})
