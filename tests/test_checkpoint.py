"""Checkpoints: exact round trips, damage detected and survived, the best one kept, parts of another
run.
"""

import errno
import json
import logging
import pathlib
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import checkpoint, digests, files
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
    # What came before is judged by what it was saved with.
    checkpoints.save(5, state(5), Stream(50), {"psnr": -4.0})
    checkpoints.wait()
    assert checkpoints.steps() == [1, 4, 5]
  with checkpoint.Checkpoints(tmp_path, keep=2, best="-mse") as checkpoints:
    checkpoints.save(6, state(6), Stream(60), {"mse": 2.0})
    checkpoints.save(7, state(7), Stream(70), {"mse": 3.0})
    checkpoints.save(8, state(8), Stream(80))
    checkpoints.wait()
    assert checkpoints.steps() == [6, 7, 8]


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
  np.testing.assert_array_equal(digests.of([x]), digests.of([split]))
  assert digests.of([x]) != digests.of([x.at[3, 3].add(1e-5)])
  assert digests.of([x]) != digests.of([x.T])


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
    (
      lambda s: s["params"].update(w=jax.ShapeDtypeStruct((64, 64), jnp.bfloat16)),
      r"holds float32\[64, 64\] as params/w, .* bfloat16\[64, 64\]",
    ),
    (  # of the same bits
      lambda s: s["stats"].update(n=jax.ShapeDtypeStruct((), jnp.uint32)),
      r"holds int32\[\] as stats/n, .* uint32\[\]",
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


def read(workdir):
  return checkpoint.restore_params(workdir, {"params": abstract(state(0))["params"]})["params"]


def test_steps_that_vanish_while_being_read_give_way_to_newer_ones(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(logging.getLogger("vqjax"), "propagate", True)
  filled(tmp_path, steps=(1,))
  read_part = checkpoint._read_part

  def overtaken(directory, step, target):
    if step < 4:
      filled(tmp_path, steps=(step + 1,))
      shutil.rmtree(directory / str(step), ignore_errors=True)
    return read_part(directory, step, target)

  monkeypatch.setattr(checkpoint, "_read_part", overtaken)
  jax.tree.map(np.testing.assert_array_equal, read(tmp_path), state(4)["params"])
  assert not caplog.text


def test_a_step_is_whole_though_an_older_one_vanished(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(logging.getLogger("vqjax"), "propagate", True)
  filled(tmp_path, steps=(1, 2), keep=2)
  read_part = checkpoint._read_part

  def overtaken(directory, step, target):
    if (older := directory / "1").exists():
      shutil.rmtree(older)
      raise FileNotFoundError(older)
    return read_part(directory, step, target)

  monkeypatch.setattr(checkpoint, "_read_part", overtaken)
  jax.tree.map(np.testing.assert_array_equal, read(tmp_path), state(2)["params"])
  assert not caplog.text


def test_reading_beside_a_run_that_saves_all_the_time(tmp_path):
  filled(tmp_path, steps=(1,))
  stop = threading.Event()

  def run():
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
      for step in range(2, 10_000):
        checkpoints.save(step, state(7), Stream())
        if stop.is_set():
          break

  saving = threading.Thread(target=run)
  saving.start()
  try:
    for _ in range(4):
      read(tmp_path)
  finally:
    stop.set()
    saving.join()
  jax.tree.map(np.testing.assert_array_equal, read(tmp_path), state(7)["params"])


def test_a_bucket_holds_checkpoints_as_a_folder_does(gs, tmp_path):
  filled(gs, steps=(1, 2, 3), keep=2)
  assert files.saved_steps(gs) == [2, 3]
  data = tmp_path / "bucket/runs/a/checkpoints/3/state/d"
  max(data.iterdir(), key=lambda f: f.stat().st_size).write_bytes(b"")
  jax.tree.map(np.testing.assert_array_equal, read(gs), state(2)["params"])
  with checkpoint.Checkpoints(gs, keep=2) as checkpoints:
    restored, stream, window = checkpoints.restore(abstract(state(0)), lambda step: Stream())
    assert checkpoints.steps() == [2] and stream.position == 20 and window == {"loss": [0.2]}
    checkpoints.save(3, state(3), Stream(30))
  jax.tree.map(np.testing.assert_array_equal, restored, state(2))
  jax.tree.map(np.testing.assert_array_equal, read(gs), state(3)["params"])
  assert [p.name for p in (gs / "damaged_checkpoints").iterdir()] == ["3-0"]


@pytest.fixture
def said(capfd):
  """What was printed, whoever printed it."""
  handler = logging.StreamHandler()
  logging.getLogger("absl").addHandler(handler)
  yield lambda: "".join(capfd.readouterr())
  logging.getLogger("absl").removeHandler(handler)


def test_orbax_is_quiet(tmp_path, said):
  filled(tmp_path)
  read(tmp_path)
  assert said() == ""


def large(seed):
  return state(seed) | {"opt": jax.random.normal(jax.random.key(seed), (300, 300))}


@pytest.mark.parametrize("meets", ["save", "wait", "exit"])
@pytest.mark.parametrize("steps", [(), (1,)])
def test_a_full_disk_is_one_line_and_what_is_saved_stays(disk, said, steps, meets):
  workdir = disk.path / "run"
  filled(workdir, steps=steps)
  disk.leave(150_000)
  last = "the last good step is 1" if steps else "no step had been saved"
  line = (
    rf"checkpoints/2: cannot be written \(No space left on device\): 376 kB needed, .*; {last}\."
  )
  with pytest.raises(UserError, match=line) as caught:
    with checkpoint.Checkpoints(workdir) as checkpoints:
      checkpoints.save(2, large(2), Stream())
      if meets == "wait":
        checkpoints.wait()
      if meets == "save":
        checkpoints.save(3, large(3), Stream())
  assert "\n" not in str(caught.value) and said() == ""
  assert files.saved_steps(workdir) == list(steps)
  assert not list((workdir / "checkpoints").glob("*tmp*"))
  disk.leave(900_000)
  with checkpoint.Checkpoints(workdir) as checkpoints:
    restored = checkpoints.restore(abstract(state(0)), lambda step: Stream())
    checkpoints.save(2, large(2), Stream())
  if steps:
    jax.tree.map(np.testing.assert_array_equal, restored[0], state(1))
  assert files.saved_steps(workdir) == [2]


def test_other_refusals_are_one_line_too(tmp_path, monkeypatch, said):
  filled(tmp_path, steps=(1,))

  def refused(*_, **__):
    raise OSError(errno.EROFS, "…")

  with pytest.raises(UserError, match=r"\(Read-only file system\); the last good step is 1\. Put"):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
      monkeypatch.setattr(pathlib.Path, "write_text", refused)  # the data position's file
      checkpoints.save(2, state(2), Stream())
  monkeypatch.undo()
  assert files.saved_steps(tmp_path) == [1] and said() == ""


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
