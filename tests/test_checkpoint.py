"""Checkpoints: exact round trips, damage detected and survived, the best one kept, parts of another
run.
"""

import json
import logging

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

  def close(self):
    pass


def state(seed):
  key = jax.random.key(seed)
  return {
    "params": {"w": jax.random.normal(key, (64, 64)), "b": jnp.arange(3, dtype=jnp.bfloat16)},
    "stats": {"n": jnp.int32(seed), "flag": jnp.array(True)},
  }


def abstract(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def filled(path, steps=(1, 2, 3), **options):
  with checkpoint.Checkpoints(path, **options) as checkpoints:
    for step in steps:
      checkpoints.save(
        step,
        state(step),
        Stream(10 * step),
        {"psnr": float(-abs(step - 1))},
        {"loss": [0.1 * step]},
      )


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
  files = sorted(
    (
      f
      for f in (tmp_path / "checkpoints" / "3" / "state").rglob("*")
      if f.is_file() and "/d/" in str(f)
    ),
    key=lambda f: f.stat().st_size,
  )
  content = files[-1].read_bytes()
  if damage == "cut":
    files[-1].write_bytes(content[: len(content) // 2])
  elif damage == "flip":
    middle = len(content) // 2
    files[-1].write_bytes(
      content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]
    )
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
  with (
    checkpoint.Checkpoints(tmp_path) as checkpoints,
    pytest.raises(UserError, match="none of the checkpoints"),
  ):
    checkpoints.restore(abstract(state(0)), lambda step: Stream())


def test_fingerprint_ignores_sharding_and_sees_a_bit():
  x = jnp.arange(64.0).reshape(8, 8)
  mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  split = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
  np.testing.assert_array_equal(checkpoint.fingerprint([x]), checkpoint.fingerprint([split]))
  assert checkpoint.fingerprint([x]) != checkpoint.fingerprint([x.at[3, 3].add(1e-5)])
  assert checkpoint.fingerprint([x]) != checkpoint.fingerprint([x.T])


def test_part_of_another_run(tmp_path):
  filled(tmp_path)
  part = checkpoint.restore_params(tmp_path, {"params": abstract(state(0))["params"]})
  jax.tree.map(np.testing.assert_array_equal, part, {"params": state(3)["params"]})
  with pytest.raises(UserError, match="holds no checkpoint"):
    checkpoint.restore_params(tmp_path / "empty", {})


@pytest.mark.parametrize(
  "change, named",
  [
    (
      lambda s: s["params"].update(w=jax.ShapeDtypeStruct((64, 32), jnp.float32)),
      r"holds float32\[64, 64\] as params/w, .* float32\[64, 32\]",
    ),
    (lambda s: s["params"].update(new=s["params"]["w"]), r"holds nothing as params/new"),
    (lambda s: s["stats"].pop("n"), r"holds int32\[\] as stats/n, the config makes it nothing"),
  ],
)
def test_a_state_of_another_shape_is_named_and_nothing_is_moved(tmp_path, change, named):
  filled(tmp_path, keep=3)
  wanted = abstract(state(0))
  change(wanted)
  with checkpoint.Checkpoints(tmp_path, keep=3) as checkpoints:
    with pytest.raises(UserError, match=named):
      checkpoints.restore(wanted, lambda step: Stream())
    assert checkpoints.steps() == [1, 2, 3]
  assert not (tmp_path / "damaged_checkpoints").exists()
  if "nothing" not in named.split("as")[1]:  # a part may leave out what the checkpoint has besides
    with pytest.raises(UserError, match=named):
      checkpoint.restore_params(tmp_path, wanted)


@pytest.mark.parametrize(
  "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")]
)
def test_lack_of_memory_is_no_damage(tmp_path, monkeypatch, error):
  def out_of_memory(*_):
    raise error

  filled(tmp_path)
  monkeypatch.setattr(checkpoint, "_check_contents", out_of_memory)
  with checkpoint.Checkpoints(tmp_path) as checkpoints, pytest.raises(type(error)):
    checkpoints.restore(abstract(state(0)), lambda step: Stream())
  with pytest.raises(type(error)):
    checkpoint.restore_params(tmp_path, abstract(state(0)))
  assert (tmp_path / "checkpoints" / "3").is_dir()


def test_step_0_is_weights_alone(tmp_path):
  filled(tmp_path, steps=(0,))
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(
      {"quite": "another"}, lambda step: Stream()
    ) is None and checkpoints.steps() == [0]
  jax.tree.map(
    np.testing.assert_array_equal, checkpoint.restore_params(tmp_path, abstract(state(9))), state(0)
  )


@pytest.mark.parametrize(
  "file", ["state/_METADATA", "state/manifest.ocdbt", "check/metadata", "state/d"]
)
def test_parts_come_from_the_newest_readable_step(tmp_path, file, caplog, monkeypatch):
  monkeypatch.setattr(logging.getLogger("vqjax"), "propagate", True)
  filled(tmp_path, keep=3)
  step = tmp_path / "checkpoints" / "3"
  for path in (
    [step / file]
    if file != "state/d"
    else [f for f in (step / "state").rglob("d/*") if f.is_file()]
  ):
    path.write_bytes(path.read_bytes()[:50])
  part = {"params": abstract(state(0))["params"]}
  jax.tree.map(
    np.testing.assert_array_equal,
    checkpoint.restore_params(tmp_path, part),
    {"params": state(2)["params"]},
  )
  assert "checkpoint 3 in" in caplog.text and step.is_dir()


def test_parts_are_checked_leaf_by_leaf(tmp_path):
  filled(tmp_path, steps=(1,))
  file = tmp_path / "checkpoints" / "1" / "check" / "metadata"
  saved, part = json.loads(file.read_text()), {"params": abstract(state(0))["params"]}
  assert list(saved["fingerprint"]) == ["params/b", "params/w", "stats/flag", "stats/n"]

  def write(fingerprint):
    file.write_text(json.dumps(saved | {"fingerprint": fingerprint}))

  write(saved["fingerprint"] | {"stats/n": 7})
  checkpoint.restore_params(tmp_path, part)
  with pytest.raises(UserError, match="none of its checkpoints can be read"):
    checkpoint.restore_params(tmp_path, abstract(state(0)))
  write(saved["fingerprint"] | {"params/w": 7})
  with pytest.raises(UserError, match="none of its checkpoints can be read"):
    checkpoint.restore_params(tmp_path, part)
  # Fingerprints were once written in order, without paths.
  write(list(saved["fingerprint"].values()))
  checkpoint.restore_params(tmp_path, part)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(abstract(state(0)), lambda step: Stream()) is not None
  write([7, *list(saved["fingerprint"].values())[1:]])
  with (
    checkpoint.Checkpoints(tmp_path) as checkpoints,
    pytest.raises(UserError, match="none of the checkpoints"),
  ):
    checkpoints.restore(abstract(state(0)), lambda step: Stream())
