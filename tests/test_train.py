"""The loop: continuing is bit-exact however a run ended, devices do not change losses, divergence
stops in one line.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqjax import (
  checkpoint,
  config as configuration,
  convert,
  data,
  holder,
  importers,
  pictures,
  tasks,
  train,
)
from vqjax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
GAN = dict(
  disc=dict(name="patchgan", channels=8, n_layers=1),
  optim_disc=dict(lr=1e-3),
  loss=dict(
    reconstruction="l1",
    feature_weight=1.0,
    adversarial_start=3,
    lecam_weight=0.01,
    r1_weight=0.1,
    r1_every=4,
  ),
)


def tiny(**values):
  base = dict(
    model=dict(
      name="vqvae",
      hidden=16,
      residual_hidden=8,
      residual_blocks=1,
      quantizer=dict(name="ema", codebook_size=16, dim=8),
    ),
    data=dict(name="shapes", size=16, num_train=64, num_eval=10),
    ops=dict(size=16, channels=3),
    batch_size=8,
    total_steps=12,
    log_every=3,
    save_every=4,
    eval_examples=10,
    evaluators=["distortion"],
    preview=0,
    keep=4,
    ema_decay=0.9,
    optim=dict(lr=1e-3, warmup=2, clip=1.0),
  )
  return configuration.complete(base | values)


CASES = {
  "gan, read through tf.data": GAN
  | dict(data="tfds_pictures", ops=dict(size=12, crop="random_resized", channels=3)),
  "vqvae2, saved between two updates": dict(
    accumulate=3,
    model=dict(
      name="vqvae2",
      hidden=16,
      residual_hidden=8,
      residual_blocks=1,
      quantizer=dict(name="vq", codebook_size=16, dim=8),
    ),
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_crashed_run_continues_bit_for_bit(
  case, tmp_path, crash, terminate, same_run, compiled_once, request
):
  values = dict(CASES[case])
  if "data" in values:
    values["data"] = request.getfixturevalue(values["data"])
  config = tiny(**values)
  train.train(config, tmp_path / "whole")
  with crash(7):
    train.train(config, tmp_path / "broken")
  train.train(config, tmp_path / "broken")
  same_run(tmp_path / "whole", tmp_path / "broken")
  if "two updates" in case:  # SIGTERM saves between them as well
    with terminate(5):
      train.train(config, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "checkpoints" / "12").exists()
    train.train(config, tmp_path / "stopped")
    same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_kill_9_at_any_moment(tmp_path, same_run):
  """The command itself, killed without warning once some steps are logged, then run again."""
  config = tiny(total_steps=30, save_every=6).to_dict()
  (tmp_path / "config.py").write_text(f"def get_config():\n  return {config!r}\n")
  cache = str(tmp_path / "cache")
  environment = dict(os.environ, VQJAX_CACHE=cache, JAX_DEFAULT_PRNG_IMPL="rbg")
  command = lambda name: [
    sys.executable,
    "-m",
    "vqjax.main",
    f"--config={tmp_path / 'config.py'}",
    f"--workdir={tmp_path / name}",
  ]
  subprocess.run(command("whole"), check=True, cwd=ROOT, env=environment)
  process = subprocess.Popen(command("killed"), cwd=ROOT, env=environment)
  log = tmp_path / "killed" / "metrics.jsonl"
  deadline = time.monotonic() + 300
  while (
    (not log.exists() or len(log.read_text().splitlines()) < 4)
    and process.poll() is None
    and time.monotonic() < deadline
  ):
    time.sleep(0.02)
  process.kill()
  process.wait()
  subprocess.run(command("killed"), check=True, cwd=ROOT, env=environment)
  same_run(tmp_path / "whole", tmp_path / "killed")


def test_devices_do_not_change_the_losses():
  """And nothing is compiled anew when the adversary starts."""
  config = tiny(**GAN)
  batches = [data.Dataset(config.data, config.ops).sample(8) for _ in range(5)]

  def losses(devices, *rules, **mesh):
    config.mesh, config.sharding = mesh, (*rules, (".*", "fsdp"))
    run = train.Run(config, configuration.spec_of(batches[0]), jax.devices()[:devices])
    state, frozen, found = run.init(jax.random.key(0)), run.load_frozen(), []
    for batch in batches:
      state, metrics = run.step(
        state, frozen, train.sharding.to_global(run.task.prepare(batch), run.mesh)
      )
      found.append(jax.device_get(metrics))
    scales = [each["adversarial/scale"] for each in found]
    assert scales[:3] == [0, 0, 0] and min(scales[3:]) > 0
    assert run.step._cache_size() == 1
    return found[:3]

  single = losses(1)
  split = ("codebook", (None, "tensor"))
  for other in (losses(4, replica=2, data=1, fsdp=2), losses(4, split, data=2, tensor=2)):
    for a, b in zip(single, other):
      for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=2e-4, err_msg=name)


def run_of(task, monkeypatch, **values):
  """A Run of a task that the test wrote itself."""
  module = types.SimpleNamespace(make=lambda config, spec: task)
  config = tiny(**values)
  monkeypatch.setattr(train, "module", lambda *_: module)
  return train.Run(config, configuration.spec_of({"x": np.zeros((4, 1), np.float32)}))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_average_moves_once_per_update(accumulate, monkeypatch):
  task = tasks.Task(
    init=lambda key, batch: ({"model": {"w": jnp.ones(2)}}, {}),
    loss=lambda params, stats, frozen, batch, key, step: (
      (params["model"]["w"] * batch["x"].mean(0)).sum(),
      (stats, {}),
    ),
    predict={},
    prepare=dict,
    info=None,
  )
  optimizer = dict(lr=0.1, schedule="constant")
  run = run_of(task, monkeypatch, accumulate=accumulate, ema_decay=0.5, optim=optimizer)
  state = run.init(jax.random.key(0))
  average, updates = np.ones(2), 0
  for step in range(5 * accumulate):
    before = np.asarray(state.params["model"]["w"])
    kept = np.asarray(state.ema["w"])
    state, _ = run.step(state, {}, {"x": np.full((4, 1), step + 1.0, np.float32)})
    after = np.asarray(state.params["model"]["w"])
    if (step + 1) % accumulate:
      np.testing.assert_array_equal(state.ema["w"], kept)
      np.testing.assert_array_equal(after, before)
      continue
    assert (after < before).all()
    decay = min(0.5, (1 + updates) / (10 + updates))  # the first update's is 1/10
    average, updates = decay * average + (1 - decay) * after, updates + 1
    np.testing.assert_allclose(state.ema["w"], average, rtol=1e-6)
  assert updates == 5


def test_initialisation_and_steps_never_draw_from_the_same_key(monkeypatch):
  seen = lambda key: {"key": jax.random.key_data(key)}
  task = tasks.Task(
    init=lambda key, batch: ({"model": {"w": jnp.ones(2)}}, seen(key)),
    loss=lambda params, stats, frozen, batch, key, step: (
      params["model"]["w"].sum(),
      (stats, seen(key)),
    ),
    predict={},
    prepare=dict,
    info=None,
  )
  run = run_of(task, monkeypatch, seed=3)
  state, keys = run.init(jax.random.key(3)), []
  keys.append(np.asarray(state.stats["key"]))
  for _ in range(4):
    state, metrics = run.step(state, {}, {"x": np.zeros((4, 1), np.float32)})
    keys.append(np.asarray(metrics["key"]))
  keys = [jax.random.key(3), *(jax.random.wrap_key_data(k) for k in keys)]
  # What is made of them: tasks split keys and fold small numbers in, commands fold in the seed.
  made = [k for key in keys for k in (key, *jax.random.split(key, 4))]
  assert len({tuple(np.asarray(jax.random.key_data(k))) for k in made}) == len(made)


@pytest.mark.parametrize("noise", ["threefry2x32", "rbg"])
def test_the_noise_of_steps_is_of_the_kind_that_is_named(noise, monkeypatch):
  found = set()

  def loss(params, stats, frozen, batch, key, step):
    found.add(str(jax.random.key_impl(key)))
    return params["model"]["w"].sum(), (stats, {})

  init = lambda key, batch: ({"model": {"w": jnp.ones(2)}}, {})
  task = tasks.Task(init=init, loss=loss, predict={}, prepare=dict, info=None)
  run = run_of(task, monkeypatch, noise=noise)
  jax.eval_shape(run._step, run.abstract, {}, {"x": np.zeros((4, 1), np.float32)})
  assert found == {noise}


def test_a_revived_code_is_averaged_from_the_latent_that_it_became():
  quantizer = dict(name="vq", codebook_size=16, dim=8, codebook_init="normal", revive=0.98)
  size = dict(hidden=16, residual_hidden=8, residual_blocks=1)
  config = tiny(
    model=dict(name="vqvae", quantizer=quantizer, **size),
    accumulate=2,
    optim=dict(lr=1e-2, schedule="constant"),
  )
  dataset = data.Dataset(config.data, config.ops)
  batch = dataset.sample(8)
  run = train.Run(config, configuration.spec_of(batch))
  state, frozen = run.init(jax.random.key(0)), run.load_frozen()
  placed = train.sharding.to_global(run.task.prepare(batch), run.mesh)

  def of(state):
    books = state.params["model"]["quantizer"], state.ema["quantizer"]
    return (
      *(np.asarray(b["codebook"]) for b in books),
      np.asarray(state.stats["model"]["stats"]["quantizer"]["offset"]),
    )

  base, average, offset = of(state)
  expected, late = average + offset, 0
  for step in range(8):
    begun, was, lag = base, offset, np.abs(average - base).max(-1)
    state, _ = run.step(state, frozen, placed)
    base, average, offset = of(state)
    revived = (offset != was).any(-1)
    late += (revived & (lag > 1e-4)).sum()  # where the base had left its average behind
    expected[revived] = (begun + offset)[revived]  # the latent itself
    if step % 2:
      updates = (step + 1) // 2
      decay = min(0.9, updates / (9 + updates))
      expected = decay * expected + (1 - decay) * (base + offset)
    np.testing.assert_allclose(average + offset, expected, atol=1e-5)
  assert late


def test_divergence_names_the_step_and_the_term(tmp_path):
  config = tiny(optim=dict(lr=1e25, schedule="constant"), save_every=1, log_every=1)
  with pytest.raises(
    UserError,
    match=r"step 1: (loss|eval)/\w+ is (nan|inf); no checkpoint .*optim.lr and config.optim.clip",
  ) as e:
    train.train(config, tmp_path)
  assert "\n" not in str(e.value)
  for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
    assert np.isfinite(list(json.loads(line).values())).all()


def test_what_another_process_took_over_is_written_no_more(tmp_path, monkeypatch):
  calls = iter(range(9))

  def check(self):
    if next(calls) == 2:
      raise UserError("another process trains here")

  monkeypatch.setattr(holder.Holder, "check", check)
  with pytest.raises(UserError, match="another process trains here"):
    train.train(tiny(log_every=1), tmp_path)
  # In step 3: the line of step 2 was to be written while that one ran.
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [1]


def test_nothing_has_begun_before_the_first_save(tmp_path, caplog):
  """A start that is refused leaves neither its config nor its data behind."""

  def config(number, **values):
    folder = tmp_path / f"{number} pictures"
    for i in range(number):
      pictures.save(folder / f"{i}.png", np.zeros((16, 16, 3), np.uint8))
    values = dict(total_steps=1, save_every=1, batch_size=32) | values
    return tiny(data=dict(name="folder", path=str(folder)), **values)

  workdir, bad = tmp_path / "run", config(8)
  bad.model.hidden = 0
  with pytest.raises(UserError, match="hidden: 0"):
    train.train(bad, workdir)
  assert not (workdir / "config.json").exists()
  train.train(config(9), workdir)  # other data than those of the start that failed
  assert any("a batch of 32 repeats 8 examples" in record.message for record in caplog.records)
  with pytest.raises(UserError, match="config.data: has changed since"):
    train.train(config(10, total_steps=2), workdir)
  with pytest.raises(UserError, match="lies within config.data.path"):
    train.train(config(8), tmp_path / "8 pictures" / "run")


def test_an_unwritable_workdir(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="--workdir=.*cannot be written"):
    train.train(tiny(), tmp_path / "file" / "run")


def test_starting_from_another_run(tmp_path, final_state, random_run):
  random_run(tmp_path / "first", tiny(total_steps=4, save_every=4))
  config = tiny(total_steps=4, save_every=4, init_from=str(tmp_path / "first"), seed=3)
  run = train.Run(config, configuration.read_spec(tmp_path / "first"))
  started, first = train._start(run, config.init_from), final_state(tmp_path / "first")
  jax.tree.map(np.testing.assert_array_equal, started.params, first.params)
  assert int(started.step) == 0


def test_a_conversion_is_trained_with_another_optimizer_on_other_data(tmp_path, final_state):
  source = tiny(ema_decay=0.0, optim={})
  spec = configuration.spec_of({"image": np.zeros((1, 16, 16, 3), np.uint8)})
  start = jax.device_get(train.Run(source, spec).init(jax.random.key(7)))
  shapes = {"image": ((16, 16, 3), "uint8")}
  run = importers.Imported(source.to_dict(), shapes, start.params, start.stats)
  convert.write_run(run, tmp_path)
  config = tiny(
    total_steps=1,
    accumulate=2,
    ema_decay=0.9,
    data=dict(name="shapes", size=32),
    ops=dict(size=32, channels=3),
  )
  train.train(config, tmp_path)  # the first of two gradients of an update
  assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["0", "1"]
  assert configuration.read_spec(tmp_path)["image"].shape == (1, 32, 32, 3)
  end = final_state(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, end.params, start.params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), end.ema, start.params["model"]
  )


@pytest.mark.parametrize(
  "values, message",
  [
    (dict(best="-psnrr"), "config.best: there is no held-out figure 'psnrr'. Did you mean 'psnr'"),
    (
      dict(ops=dict(size=8, channels=3), evaluators=["ssim"]),
      "SSIM needs images of at least 11 pixels",
    ),
    (dict(evaluators=["sim"]), "evaluators: unknown name 'sim'. Did you mean 'ssim'"),
  ],
)
def test_what_would_fail_at_the_first_save_fails_at_once(tmp_path, values, message):
  with pytest.raises(UserError, match=message):
    train.train(tiny(**values), tmp_path)
  assert not (tmp_path / "metrics.jsonl").exists()


def test_continuing_without_batch_json_reads_no_batch_twice(tmp_path, monkeypatch):
  config, streams, seen = tiny(total_steps=4), [], []
  spec = configuration.spec_of(data.Dataset(config.data, config.ops).sample(1))
  run = train.Run(config, spec)
  configuration.save(config, tmp_path)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(2, run.init(jax.random.key(0)), checkpoint.NoStream())

  class Stream:
    def __init__(self, step):
      self.step, self.closed = step, False
      streams.append(self)

    def __next__(self):
      return {k: np.zeros((8, *v.shape[1:]), v.dtype) for k, v in spec.items()}

    def restore(self, directory):
      pass

    def close(self):
      self.closed = True

  class Batches(train.Batches):
    def __init__(self, run, stream, first=None):
      super().__init__(run, stream, first)
      seen.append((stream.step, first))

  monkeypatch.setattr(train.data.Dataset, "train", lambda *args, step, **kwargs: Stream(step))
  monkeypatch.setattr(train, "Batches", Batches)
  config.total_steps = 2
  train.train(config, tmp_path)
  assert seen == [(2, None)] and [(s.step, s.closed) for s in streams] == [(0, True), (2, True)]


def test_a_kill_while_the_config_is_written_leaves_the_old_one(tmp_path, monkeypatch):
  def killed(*_):
    raise KeyboardInterrupt

  config = tiny()
  configuration.save(config, tmp_path)
  configuration.save_spec(
    configuration.spec_of({"image": np.zeros((1, 16, 16, 3), np.uint8)}), tmp_path
  )
  before = {f.name: f.read_text() for f in tmp_path.iterdir()}
  monkeypatch.setattr(pathlib.Path, "replace", killed)
  configuration.save(config, tmp_path)  # nothing to write
  with pytest.raises(KeyboardInterrupt):
    configuration.save(tiny(seed=3), tmp_path)
  with pytest.raises(KeyboardInterrupt):
    configuration.save_spec(
      configuration.spec_of({"image": np.zeros((1, 8, 8, 3), np.uint8)}), tmp_path
    )
  assert {f.name: f.read_text() for f in tmp_path.glob("*.json")} == before


@pytest.mark.parametrize(
  "name, read", [("config.json", configuration.of_run), ("batch.json", configuration.read_spec)]
)
def test_a_cut_off_file_is_named(tmp_path, name, read):
  (tmp_path / name).write_text('{"seed": ')
  with pytest.raises(UserError, match=f"{name}: is damaged .* remove it"):
    read(tmp_path)


@pytest.mark.parametrize(
  "platform, shape, threads, asked",
  [
    ("tpu", dict(fsdp=4, tensor=1), 1, "xla_jf_spmd_threshold_for_windowed_einsum_mib"),
    ("tpu", dict(fsdp=1, tensor=1), 1, None),
    ("tpu", dict(fsdp=4, tensor=2), 1, None),
    ("cpu", dict(fsdp=4, tensor=1), 2, None),
    ("cpu", dict(fsdp=1, tensor=1), 2, "xla_cpu_experimental_ynn_fusion_type"),
    ("cpu", dict(fsdp=1, tensor=1), 1, None),
  ],
)
def test_options_of_the_compiler(monkeypatch, platform, shape, threads, asked):
  """Products are not cut where parameters are shared, and use all threads."""
  monkeypatch.setattr(train.sharding, "threads", lambda: threads)
  device = types.SimpleNamespace(platform=platform)
  mesh = types.SimpleNamespace(shape=shape, devices=np.array([device] * math.prod(shape.values())))
  assert asked in (train._step_options(mesh) or {None: None})
