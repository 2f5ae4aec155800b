"""bench, its suites and compile on tiny runs: the tables they print, and that what they compare is
alike.
"""

import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from jax.experimental import topologies

from vqjax import bench, build, compile as compile_, config as configuration, data, tokenize, train
from vqjax.errors import UserError
from vqjax.nn import codebook, target
from vqjax.suites import _classifier

RUN = dict(
  data=dict(name="shapes", size=16, num_train=24, num_eval=10),
  ops=dict(size=16, channels=3),
  batch_size=8,
  total_steps=2,
  save_every=2,
  eval_examples=8,
  preview=0,
)
TOKENIZER = RUN | dict(
  model=dict(
    name="vqvae",
    hidden=8,
    residual_hidden=8,
    residual_blocks=1,
    quantizer=dict(name="ema", codebook_size=8, dim=4),
  )
)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
  file = tmp_path_factory.mktemp("config") / "tokenizer.py"
  file.write_text(f"def get_config():\n  return {TOKENIZER!r}\n")
  return file


def test_bench_a_config(config_file, capsys, printed):
  bench.main([f"--config={config_file}", "--repeats=2", "--config.batch_size=4"])
  rows = printed(capsys.readouterr().out)
  assert rows["batch size"] == ["4"]
  run = train.Run(
    configuration.complete(TOKENIZER), {"image": jax.ShapeDtypeStruct((1, 16, 16, 3), "uint8")}
  )
  parameters = run.abstract.params["model"]
  assert rows["parameters, model"] == [f"{sum(x.size for x in jax.tree.leaves(parameters)):,}"]
  assert float(rows["FLOPs of a step"][0]) > 0
  assert rows["step time"][0].endswith("2 repeats)")
  assert rows["step"][0].endswith("examples/s") and rows["input pipeline"][0].endswith("examples/s")
  with pytest.raises(UserError, match="--repeats: 0 is no whole number"):
    bench.main([f"--config={config_file}", "--repeats=0"])
  with pytest.raises(UserError, match="suites: unknown name 'decodin'.*decoding"):
    bench.main(["--suite", "decodin"])


def test_bench_decoding_draws_the_same_codes_with_every_cache(capsys, monkeypatch):
  drawn = {}

  def time_calls(calls, repeats):
    drawn.update({name: np.asarray(fn()) for name, fn in calls.items()})
    return {name: [0.5] * repeats for name in calls}

  monkeypatch.setattr(bench, "time_calls", time_calls)
  bench.main(
    ["--suite=decoding", "--layers=1", "--width=16", "--grid=3", "--batch=2", "--repeats=1"]
  )
  assert list(drawn) == ["none", "fused", "heads", "keys_last"] and drawn["none"].shape == (2, 9)
  for name, ids in drawn.items():
    np.testing.assert_array_equal(ids, drawn["none"], err_msg=name)
  assert (
    len(
      [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| 2 ") and " 36 " in line
      ]
    )
    == 4
  )


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
  """Labelled pictures in a file, easily told apart: a class is a brightness."""
  file = tmp_path_factory.mktemp("arrays") / "pictures.npz"
  label = np.arange(200) % 8
  noise = np.random.default_rng(0).integers(0, 8, (200, 16, 16, 3))
  np.savez(
    file,
    images=(label[:, None, None, None] * 30 + noise).astype(np.uint8),
    labels=label,
    test=np.arange(200) >= 160,
  )
  return str(file)


def test_bench_quantizers(arrays, tmp_path, capsys, monkeypatch, printed):
  suite = build.module("suites", "quantizers")
  config_of = suite.config_of

  def small(*args):
    config = config_of(*args)
    config.model.update(hidden=8, residual_hidden=8, residual_blocks=1)
    config.ops.size, config.batch_size = 16, 8
    return config

  monkeypatch.setattr(suite, "config_of", small)
  speed, speeds = suite._speed, []

  def once(loaded):  # it compiles a step of its own
    speeds.append(speeds[0] if speeds else speed(loaded))
    return speeds[-1]

  monkeypatch.setattr(suite, "_speed", once)
  command = [
    "--suite=quantizers",
    f"--workdir={tmp_path}",
    f"--data={arrays}",
    "--steps=2",
    "--only",
    "identity",
    "fsq",
  ]
  bench.main(command)
  rows = printed(capsys.readouterr().out)
  assert set(rows) == {"quantizer", "identity", "fsq"} and len(rows["fsq"]) == 7
  assert rows["identity"][3:6] == ["", "", ""] and rows["fsq"][5] == f"{16 * np.log2(1000):.0f}"
  began = []
  monkeypatch.setattr(train, "train", lambda *run: began.append(run))
  bench.main(command)
  assert printed(capsys.readouterr().out) == rows
  assert not began  # finished rows are read, not trained again
  bench.main(["--steps=3" if a == "--steps=2" else a for a in command[:-2]] + ["fsq"])
  assert [config.total_steps for config, _ in began] == [3]  # unless more steps are asked for
  bench.main(command)
  assert len(began) == 2  # and what was measured since is no row of fewer


def test_the_classifier_of_bench_priors_is_judged_on_held_out_pictures(arrays):
  judge = _classifier.train(
    data.Dataset(dict(name="arrays", path=arrays)), 8, steps=2, batch_size=16
  )
  images, labels = (np.load(arrays)[name][160:] for name in ("images", "labels"))
  found, features = map(np.asarray, judge.predict(images))
  assert judge.accuracy == pytest.approx((found == labels).mean())
  np.testing.assert_allclose(judge.real, features, atol=1e-5)


def test_the_frechet_distance_of_normal_features():
  rng = np.random.default_rng(0)
  a = rng.normal(size=(50_000, 3)) * [1, 2, 3] + [0, 0, 1]
  b = rng.normal(size=(50_000, 3)) * [2, 2, 1]
  assert _classifier.frechet(a, b) == pytest.approx(1 + 0 + 4 + 1, rel=0.03)  # by hand
  assert _classifier.frechet(a, a) == pytest.approx(0, abs=1e-9)


@pytest.fixture(scope="module")
def prior(tmp_path_factory, random_run):
  """The config of a prior over the cached codes of a tokenizer."""
  folder = tmp_path_factory.mktemp("prior")
  random_run(folder / "tokenizer", TOKENIZER)
  tokenize.main(
    ["--workdir", str(folder / "tokenizer"), "--output", str(folder / "codes"), "--batch_size=8"]
  )
  return RUN | dict(
    task="prior",
    tokenizer=str(folder / "tokenizer"),
    data=dict(name="codes", path=str(folder / "codes")),
    model=dict(name="transformer", layers=1, width=16, heads=2),
    scheme=dict(name="autoregressive"),
    condition=dict(label=dict(classes=10)),
  )


def test_bench_priors(arrays, prior, tmp_path, capsys, monkeypatch, printed):
  suite = build.module("suites", "priors")
  codes = prior["data"]["path"]
  for name in suite.PRIORS:
    config = suite.prior_config(name, prior["tokenizer"], codes, 10)
    assert config.tokenizer == prior["tokenizer"] and config.data.to_dict() == dict(
      name="codes", path=codes
    )
  monkeypatch.setattr(suite, "prior_config", lambda *_: configuration.complete(prior))
  # A classifier that knows the classes that were asked for, but calls every odd one 0.
  judged = np.repeat(np.arange(8) * (np.arange(8) % 2 == 0), 4)
  features = np.random.default_rng(0).normal(size=(len(judged), 2))
  predict = lambda images: (judged[: len(images)], features[: len(images)])
  monkeypatch.setattr(
    _classifier, "train", lambda dataset, classes: _classifier.Judge(predict, 0.75, features)
  )
  monkeypatch.setattr(suite, "EACH", 4)
  bench.main(
    [
      "--suite=priors",
      f"--tokenizer={prior['tokenizer']}",
      f"--codes={codes}",
      f"--data={arrays}",
      f"--workdir={tmp_path}",
      "--seconds=0",
      "--only",
      "autoregressive",
      "--draw",
      "temperature=0.5",
      "top_k=2,temperature=0.8",
    ]
  )
  out = capsys.readouterr().out
  assert "right on 75.0% of the real" in out
  table = printed(out)
  names = ["real, held out", "the same, decoded", "autoregressive"]
  names += ["autoregressive, temperature=0.5", "autoregressive, top_k=2,temperature=0.8"]
  for name in names:
    assert table[name][0] == "50.0%" and table[name][2:] == ["100%", "0%"] * 4
    assert float(table[name][1]) == pytest.approx(0, abs=0.01)  # of features with themselves
  saved = json.loads((tmp_path / "autoregressive" / "comparison.json").read_text())
  assert list(saved["pictures"]) == names[2:]
  steps, nats, ms = map(float, printed(out.partition("| pictures")[0])["autoregressive"])
  assert steps == 100 and ms > 0 and 0 < nats < 1.1 * np.log(8)
  assert nats == pytest.approx(saved["nats"], abs=1e-3)
  images, labels = suite.held_out(data.Dataset(data.resolve(arrays)), 8)
  assert labels.tolist() == np.repeat(np.arange(8), 4).tolist()
  np.testing.assert_allclose(images.mean((1, 2, 3)), 30 * labels + 3.5, atol=1)
  with pytest.raises(UserError, match="--draw: 'warm' is not like"):
    suite.options_of("warm")


def test_compile_names_an_unknown_topology():
  with pytest.raises(UserError, match="--topology=v0:1x1: cannot be described") as e:
    compile_.main(["--config=absent.py", "--topology=v0:1x1"])
  assert "\n" not in str(e.value)


def test_a_chip_of_v4_is_described_as_one_device(monkeypatch):
  asked = []
  describe = lambda **given: asked.append(given) or types.SimpleNamespace(devices=[])
  monkeypatch.setattr(topologies, "get_topology_desc", describe)
  for topology in ("v4:2x2x1", "v5e:2x2"):
    compile_.describe(topology)
  assert [given.get("chip_config_name") for given in asked] == ["megacore", None]


def test_compile_prints_what_a_step_takes(prior, tmp_path, capsys, monkeypatch, printed):
  # Two devices of this machine stand for the topology.
  monkeypatch.setattr(
    topologies, "get_topology_desc", lambda **_: types.SimpleNamespace(devices=jax.devices()[:2])
  )
  steps, traced_for = codebook._steps, set()
  monkeypatch.setattr(
    codebook, "_steps", lambda *args: traced_for.add(target.device_count()) or steps(*args)
  )
  (tmp_path / "prior.py").write_text(f"def get_config():\n  return {prior!r}\n")
  compile_.main([f"--config={tmp_path / 'prior.py'}"])
  rows = printed(capsys.readouterr().out)
  assert (
    rows["chips"] == ["2 cpu"]
    and traced_for == {2}
    and float(rows["FLOPs per chip and step"][0]) > 0
  )
  assert int(rows["all-reduce"][0].partition(",")[0]) > 0  # the gradients' mean over the devices
  with pytest.raises(UserError, match="config.ops.size: is not set"):
    compile_.main([f"--config={tmp_path / 'prior.py'}", "--config.ops.size=none"])


def test_pytorch_is_compared_turn_by_turn(capsys, monkeypatch):
  suite = build.module("suites", "torch")
  seconds = {"ours": [1.0, 2.0, 9.0], "theirs": [2.0, 2.0, 3.0]}
  monkeypatch.setattr(bench, "time_calls", lambda calls, repeats: seconds)
  made = suite.Pair(dict(step=None), dict(step=None), (1, 1))
  assert suite.ratios(made, 3) == [["step", "2000.0", "2000.0", "1.00 (0.50 to 3.00)"]]
  for argument, message in (
    ("--only=transformers", "'transformers' is none of transformer, resnet, dac"),
    ("--repeats=0", "--repeats: 0 is no whole number from 1 up"),
    ("--threads=0", "--threads: 0 is no whole number from 1 up"),
  ):
    with pytest.raises(UserError, match=message):
      suite.main([argument])


def test_what_does_not_end_in_time_is_killed():
  suite = build.module("suites", "kills")
  sleep = lambda seconds: subprocess.Popen(
    [sys.executable, "-c", f"import time; time.sleep({seconds})"]
  )
  process = sleep(60)
  assert suite.wait_or_kill(process, 0.1) and process.returncode == -9
  assert not suite.wait_or_kill(sleep(0), 30)
