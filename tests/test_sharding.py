"""Rules to shardings: first match wins, moments follow their parameters, what cannot be split stays
whole.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vqjax import sharding
from vqjax.errors import UserError

TREE = {
  "params": {
    "conv": {
      "kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), jnp.float32),
      "bias": jax.ShapeDtypeStruct((128,), jnp.float32),
    },
    "codebook": jax.ShapeDtypeStruct((1024, 8), jnp.float32),
  }
}


def specs(rules, **axes):
  placed = sharding.shardings(rules, sharding.make_mesh(**axes), TREE)
  return {
    sharding.path_name(path): s.spec for path, s in jax.tree_util.tree_leaves_with_path(placed)
  }


def test_largest_axis_is_split_and_small_leaves_are_not():
  found = specs([(".*", "fsdp")], data=1, fsdp=4)
  assert found["params/conv/kernel"] == P(None, None, None, "fsdp")
  assert found["params/codebook"] == P("fsdp", None)
  assert found["params/conv/bias"] in (P(), P(None))


def test_first_rule_wins_and_tuples_align_with_the_last_axes():
  found = specs(
    [("codebook", ("tensor", None)), ("kernel", ("tensor",)), (".*", ())], data=1, tensor=4
  )
  assert found["params/codebook"] == P("tensor", None)
  assert found["params/conv/kernel"] == P(None, None, None, "tensor")
  assert found["params/conv/bias"] in (P(), P(None))


def test_unmatched_path_and_unknown_axis():
  with pytest.raises(UserError, match="no rule matches params/codebook"):
    specs([("conv", ())])
  with pytest.raises(UserError, match="'model' .* is not a mesh axis"):
    specs([(".*", "model")])
  with pytest.raises(UserError, match="names an axis twice"):
    specs([(".*", ("fsdp", "fsdp"))])


@pytest.mark.parametrize("rule", ["fsdp", (".*",), (3, "fsdp"), ("(", "fsdp"), (".*", None)])
def test_what_is_no_rule_is_shown(rule):
  with pytest.raises(UserError, match="config.sharding: .* is no rule"):
    specs([rule])


@pytest.mark.parametrize(
  "sizes",
  [
    dict(fsdp=0),
    dict(data=0),
    dict(data=1, fsdp=-1, tensor=0),
    dict(fsdp=8),
    dict(data=-1, fsdp=-1),
    dict(fsdp=-4),
  ],
)
def test_sizes_that_make_no_mesh(sizes):
  with pytest.raises(UserError, match="does not make 4 devices"):
    sharding.make_mesh(**sizes)


def test_processes_that_would_share_a_part_of_the_batch(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert sharding.local_batch_size(8, sharding.make_mesh(tensor=2)) == 4
  with pytest.raises(
    UserError,
    match=r"config.mesh: replica\*data\*fsdp=1 does not split over 2 processes; lower tensor",
  ):
    sharding.local_batch_size(8, sharding.make_mesh(tensor=4))


def test_mesh_and_batch_errors():
  with pytest.raises(UserError, match="does not make 4 devices"):
    sharding.make_mesh(data=3)
  with pytest.raises(
    UserError,
    match="config.batch_size: 6 is not divisible by the 4 devices that share it; take 4 or 8",
  ):
    sharding.local_batch_size(6, sharding.make_mesh())


def test_batches_become_global_arrays_split_by_row():
  mesh = sharding.make_mesh(data=2, fsdp=2)
  x = np.arange(8 * 3).reshape(8, 3)
  out = sharding.to_global({"x": x}, mesh)["x"]
  assert [s.data.shape for s in out.addressable_shards] == [(2, 3)] * 4
  np.testing.assert_array_equal(out, x)


def test_large_arrays_that_stay_whole_are_named(caplog):
  mesh = sharding.make_mesh(data=1, fsdp=4)
  tree = {
    "a": jax.ShapeDtypeStruct((2, 1022, 1022), "float32"),
    "b": jax.ShapeDtypeStruct((8,), "float32"),
  }
  with caplog.at_level("WARNING", "vqjax"):
    sharding.shardings([(".*", "fsdp")], mesh, {"c": jax.ShapeDtypeStruct((2048, 2048), "float32")})
    assert not caplog.text
    sharding.shardings([(".*", "fsdp")], mesh, tree)
  (record,) = caplog.records
  assert "1 arrays of 0.0 GiB have no side that 4 devices divide" in record.getMessage()
  assert record.getMessage().endswith("config.mesh.fsdp=2 splits them all")


def test_replicas_share_the_batch_and_keep_the_state_whole():
  mesh = sharding.make_mesh(replica=2, fsdp=2, data=1)
  assert sharding.ways(mesh) == sharding.local_batch_size(4, mesh) == 4
  x = np.arange(8).reshape(4, 2)
  out = sharding.to_global(x, mesh)
  assert [s.data.tolist() for s in out.addressable_shards] == [[row.tolist()] for row in x]
  kernel = jax.ShapeDtypeStruct((64, 64), "float32")
  placed = sharding.shardings([(".*", "fsdp")], mesh, {"kernel": kernel})["kernel"]
  assert placed.shard_shape((64, 64)) == (32, 64) or placed.shard_shape((64, 64)) == (64, 32)


class Chip:
  """A TPU of one of several slices."""

  platform, device_kind, process_index = "tpu", "TPU v5 lite", 0

  def __init__(self, number, per_slice=4):
    self.id, self.slice_index = number, number // per_slice
    self.coords, self.core_on_chip = (number % per_slice // 2, number % 2, 0), 0


def test_slices_are_replicas():
  chips = [Chip(i) for i in range(8)]
  mesh = sharding.make_mesh(replica=2, devices=chips)
  assert mesh.shape == {"replica": 2, "data": 4, "fsdp": 1, "tensor": 1}
  assert [{c.slice_index for c in row.flat} for row in mesh.devices] == [{0}, {1}]
  with pytest.raises(UserError, match="replica: 1, but the devices stand in 2 slices; give 2"):
    sharding.make_mesh(devices=chips)


def test_a_jaxlib_without_an_option_does_without(monkeypatch):
  monkeypatch.setattr(sharding, "threads", lambda: 2)
  assert sharding.threaded(jax.devices()[:1])
  assert not sharding._known(("xla_cpu_no_such_option", True))
