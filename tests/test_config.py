"""Configs: overrides, near misses, comparison with a checkpoint's, and every config file of the
repository.
"""

import dataclasses
import itertools
import json

import pytest
from ml_collections import ConfigDict

from vqjax import config as configuration, optim
from vqjax.build import build, essential, filled, names
from vqjax.errors import UserError


def make(**values) -> ConfigDict:
  return ConfigDict(
    {"model": {"name": "vqvae", "quantizer": {"name": "vq", "codebook_size": 8}}, **values}
  )


def test_overrides_parse_literals_and_reach_new_fields():
  config = make()
  configuration.override(
    config,
    [
      "total_steps=7",
      "model.quantizer.codebook_size=16",
      "optim.lr=1e-4",
      "loss.reconstruction=l1",
      "disc=none",
    ],
  )
  config = configuration.complete(config)
  assert (config.total_steps, config.model.quantizer.codebook_size, config.optim.lr) == (
    7,
    16,
    1e-4,
  )
  assert config.loss.reconstruction == "l1" and config.disc is None


def test_none_is_a_name_where_the_field_has_it_and_no_value():
  config = make(disc={"name": "patchgan"}, ops={"size": 32})
  fields = ["ops.crop", "model.quantizer.normalize", "disc.norm", "loss.adaptive"]
  configuration.override(config, [f"{field}=none" for field in [*fields, "ops.size", "init_from"]])
  config = configuration.complete(config)
  chosen = (config.ops.crop, config.model.quantizer.normalize, config.disc.norm)
  assert (*chosen, config.loss.adaptive) == ("none",) * 4
  assert (config.ops.size, config.init_from) == (None, None)
  with pytest.raises(UserError, match="config.optim.schedule: None is none of constant"):
    configuration.complete(make(optim={"schedule": None}))


def test_a_new_name_drops_the_old_fields():
  config = make()
  configuration.override(config, ["model.quantizer.name=fsq", "model.quantizer.levels=(8,5,5)"])
  assert config.model.quantizer.to_dict() == {"name": "fsq", "levels": (8, 5, 5)}


@pytest.mark.parametrize(
  "order",
  [
    *itertools.permutations(
      ["model.quantizer.dim=18", "model.quantizer.name=lfq", "model.name=resnet"]
    )
  ],
)
def test_names_come_first_whatever_the_order(order):
  config = make()
  configuration.override(config, order)
  assert config.model.to_dict() == {"name": "resnet", "quantizer": {"name": "lfq", "dim": 18}}


def test_the_last_assignment_wins():
  config = make()
  configuration.override(
    config,
    ["disc.name=patchgan", "disc=none", "seed=1", "seed=2", "mesh={'data': 2}", "mesh.data=1"],
  )
  assert (config.disc, config.seed, config.mesh.data) == (None, 2, 1)


@pytest.mark.parametrize(
  "assignment, message",
  [
    ("batchsize=3", "Did you mean 'batch_size'"),
    ("modle.name=vqvae", "Did you mean 'model'"),
    ("model.quantizer", "FIELD=VALUE"),
    ("model.quantizer.name.dim=3", "config.model.quantizer.name is 'vq', which has no fields"),
  ],
)
def test_bad_overrides_are_one_line(assignment, message):
  with pytest.raises(UserError, match=message) as e:
    configuration.override(make(), [assignment])
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  "values, message",
  [
    ({"batch_size": "many"}, "config.batch_size: 'many' is a str"),
    *(
      ({name: 0}, f"config: {name}: 0 is out of range; give a number at least 1")
      for name in ("batch_size", "total_steps", "log_every", "save_every", "eval_examples")
    ),
    *(({name: 0}, f"config: {name}: 0 is out of") for name in ("accumulate", "keep")),
    *(({"ema_decay": value}, "config: ema_decay: .* is out of range") for value in (1.5, -0.1)),
    ({"seed": -1}, "config: seed: -1 is out of range; give a number at least 0 and below"),
    ({"seed": 2**32}, "config: seed: 4294967296 is out of range"),
    *(
      ({part: {name: value}}, f"config.{part}: {name}: .* is out of range; give a number")
      for part in ("optim", "optim_disc")
      for name, value in [
        ("lr", 0.0),
        ("lr", -1e-3),
        ("lr", float("inf")),
        ("lr", float("nan")),
        ("warmup", -1),
        ("end_lr", -1.0),
        ("b1", 1.0),
        ("b1", -0.1),
        ("b2", 1),
        ("eps", 0.0),
        ("clip", -1.0),
        ("weight_decay", -0.1),
      ]
    ),
    *(
      ({"loss": {name: value}}, f"config.loss: {name}: .* is out of range; give a number")
      for name in ("reconstruction_weight", "perceptual_weight", "adversarial_weight", "r1_weight")
      for value in (-1.0, float("inf"))
    ),
    ({"loss": {"adversarial_start": -1}}, "config.loss: adversarial_start: -1 is out of range"),
    (
      {"loss": {"r1_every": 0}},
      "config.loss: r1_every: 0 is out of range; give a number at least 1",
    ),
    ({"ops": {"size": 0}}, "config.ops: size: 0 is out of range"),
    ({"ops": {"min_area": 0.0}}, "config.ops: min_area: 0.0 is out of range"),
    ({"ops": {"channels": 2}}, "config.ops: channels: 2 is not supported"),
    ({"mesh": {"data": 1.5}}, "config.mesh.data: 1.5 is a float, not int"),
    ({3: 1}, "config: 3 is no name of a field"),
    ({"model": {"name": "vqvae", "a.b": 1}}, "config.model: 'a.b' is no name of a field"),
    (
      {"task": "prior", "disc": {"name": "patchgan"}},
      "config.disc: is nothing that a run of task 'prior' reads",
    ),
    ({"sede": 1}, "config.sede: unknown field. Did you mean 'seed'"),
    ({"task": "autoencod"}, "tasks: unknown name 'autoencod'. Did you mean 'autoencode'"),
    (
      {"disc": "patchgan"},
      "config.disc: 'patchgan' is a str, not a sub-dict; write config.disc.name=patchgan",
    ),
    ({"model": "vqvae"}, "write config.model.name=vqvae"),
    (
      {"model": {"name": "vqvae", "quantizer": "fsq"}},
      "'fsq' is a str, not a sub-dict; write config.model.quantizer.name=fsq",
    ),
    (
      {"model": {"name": "vqvae", "dtype": "bf16"}},
      "dtype: 'bf16' is none of bfloat16, float16, float32",
    ),
    (
      {"model": {"name": "vqvae", "quantizer": {"name": "vq", "dmi": 3}}},
      r"config.model.quantizer\(vq\).dmi: unknown .* 'dim'",
    ),
    ({"loss": "l1"}, "config.loss: 'l1' is a str, not a sub-dict; write config.loss.FIELD=VALUE"),
    ({"disc": {}}, "config.disc: has no 'name'"),
    ({"data": "shapes"}, "write config.data.name=shapes"),
    ({"data": {"size": 32}}, "config.data: has no 'name'"),
    ({"optim": "adam"}, "write config.optim.name=adam"),
    (
      {"optim": {"schedule": "cosinus"}},
      "config.optim.schedule: 'cosinus' is none of constant, cosine, linear",
    ),
    ({"loss": {"reconstruction": 1}}, "config.loss.reconstruction: 1 is a int, not str"),
    ({"mesh": {"fdsp": 2}}, "config.mesh.fdsp: unknown field. Did you mean 'fsdp'"),
    (
      {"sharding": "fsdp"},
      r"config.sharding: 'fsdp' is a str, not a list; for example \(\('\.\*', 'fsdp'\),\)",
    ),
    (
      {"evaluators": "ssim"},
      r"config.evaluators: 'ssim' is a str, not a list; for example \('ssim',\)",
    ),
    ({"evaluators": [{"nam": "ssim"}]}, r"config.evaluators\[0\]: has no 'name'"),
    ({"evaluators": ["simm"]}, "evaluators: unknown name 'simm'. Did you mean 'ssim'"),
    ({"evaluators": [3]}, r"config.evaluators\[0\]: 3 is a int, not a sub-dict"),
  ],
)
def test_bad_top_level_values(values, message):
  base = {"model": {"name": "vqvae", "quantizer": {"name": "vq", "codebook_size": 8}}}
  with pytest.raises(UserError, match=message) as e:
    configuration.complete(base | values)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  "config, message",
  [
    ({"name": "residul"}, "Did you mean 'residual'"),
    ({"name": "fsq", "lvels": (8,)}, r"config\(fsq\).lvels: unknown field. Did you mean 'levels'"),
    ({"name": "vq", "codebook_size": 2.5}, "2.5 is a float, not int"),
    ({}, "has no 'name'"),
    ({"name": "residual", "quantizer": "vq"}, "write config.quantizer.name=vq"),
    *(
      ({"name": name, field: 0}, f"{field}: 0 ")
      for name in ("vq", "ema", "ibq", "simvq", "gumbel")
      for field in ("dim", "codebook_size")
    ),
    *(({"name": name, "dim": 0}, "dim: 0 ") for name in ("lfq", "bsq", "gaussian", "identity")),
  ],
)
def test_build_names_the_field_and_the_near_miss(config, message):
  with pytest.raises(UserError, match=message) as e:
    build("quantizers", config)
  assert "\n" not in str(e.value)


def test_saved_config_equals_itself(tmp_path):
  config = configuration.complete(make(sharding=[["a", ["data", None]]], ops={"size": 32}))
  configuration.save(config, tmp_path)
  configuration.check_same(configuration.of_run(tmp_path), config)
  assert json.loads((tmp_path / "config.json").read_text())["ops"]["size"] == 32


def test_a_completed_config_holds_the_defaults_of_every_sub_dict():
  quantizer = {"name": "residual", "quantizer": {"name": "fsq"}}
  config = configuration.complete(
    make(
      model={"name": "vqvae", "hidden": 8, "quantizer": quantizer},
      disc={"name": "patchgan"},
      evaluators=["ssim"],
    )
  )
  model = config.model.to_dict()
  assert model["quantizer"] == {
    "name": "residual",
    "depth": 4,
    "codebooks": "separate",
    "dropout": 0.0,
    "quantizer": {"name": "fsq", "levels": (8, 5, 5, 5)},
  }
  assert (model["hidden"], model["dtype"]) == (8, "float32") and not {
    "channels",
    "out_channels",
    "parent",
  } & model.keys()
  assert config.optim.to_dict() == dataclasses.asdict(optim.Optimizer())
  assert (config.data.num_train, config.ops.crop, config.disc.norm, config.loss.r1_every) == (
    50_000,
    "center",
    "batch",
    16,
  )
  assert configuration.complete(config) == config and "scheme" not in config
  prior = configuration.complete(
    dict(
      task="prior",
      model={"name": "transformer"},
      scheme={"name": "masked"},
      condition={"label": {"classes": 3}},
    )
  )
  assert (prior.model.layers, prior.scheme.schedule, prior.condition.to_dict(), prior.level) == (
    12,
    "cosine",
    {"label": {"classes": 3}, "drop": 0.1},
    0,
  )
  assert "loss" not in prior and "disc" not in prior
  assert not {"vocab_size", "causal", "max_prefix", "modulation", "num_codes"} & {
    *prior.model.keys(),
    *prior.scheme.keys(),
  }


def test_a_default_is_what_it_was_trained_with(tmp_path):
  """Also where the saved config, an older one, does not hold it."""
  partial = {"model": {"name": "vqvae", "quantizer": {"name": "vq"}}}
  (tmp_path / "config.json").write_text(json.dumps(partial))
  saved = configuration.of_run(tmp_path)
  new = configuration.complete(partial)
  configuration.override(
    new, ["model.dtype=float32", "model.quantizer.dim=64", "loss.reconstruction=l2"]
  )
  configuration.check_same(saved, new)
  configuration.check_same(configuration.ConfigDict(partial), new)
  new.loss.reconstruction = "l1"
  with pytest.raises(
    UserError,
    match="config.loss.reconstruction: this workdir was trained with 'l2', the config says 'l1'",
  ):
    configuration.check_same(saved, new)
  configuration.override(new, ["model.quantizer.name=ema", "loss.reconstruction=l2"])
  with pytest.raises(
    UserError, match="config.model.quantizer.name: .* 'vq', the config says 'ema'"
  ):
    configuration.check_same(saved, new)


@pytest.mark.parametrize(
  "body, argument, message",
  [
    (
      "():\n  return dict(debug=dict(seed=1))",
      "debugg",
      "takes no argument 'debugg'. Did you mean 'debug'",
    ),
    ("():\n  return dict(seed=1)", "debug", "takes no argument 'debug'. It takes none"),
    ("(size=None):\n  return dict(seed=1)", "debug", "takes no argument 'debug'"),
  ],
)
def test_an_argument_that_a_config_does_not_take(tmp_path, body, argument, message):
  (tmp_path / "run.py").write_text("def get_config" + body + "\n")
  with pytest.raises(UserError, match=message):
    configuration.load(f"{tmp_path / 'run.py'}:{argument}")
  assert configuration.load(str(tmp_path / "run.py"))


@pytest.mark.parametrize(
  "body, message",
  [
    ("x = (1\n", "run.py, line 1: SyntaxError: '\\(' was never closed"),
    ("\nimport absent_module\n", "run.py, line 2: ModuleNotFoundError: No module named"),
    ("def get_config():\n  return {}[0]\n", "run.py, line 2: KeyError: 0"),
    (
      "import json\ndef get_config():\n\n  return json.loads('')\n",
      "run.py, line 4: JSONDecodeError: Expecting value",
    ),
    ("def get_config():\n  raise ValueError('a\\nb')\n", "run.py, line 2: ValueError: a\\."),
    ("def get_config():\n  assert False\n", "run.py, line 2: AssertionError\\."),
    ("def get_config(a, b):\n  return {}\n", "run.py: TypeError"),
    ("def get_config():\n  return [1]\n", "returns a list, not a dict of fields"),
    ("def get_config():\n  pass\n", "returns a NoneType, not a dict of fields"),
    ("def get_config():\n  return {1: 2}\n", "config: 1 is no name of a field"),
    ("def get_config():\n  return dict(debug=3)\n", "debug is 3, not a dict of fields"),
    ("get_config = 3\n", "defines no get_config"),
  ],
)
def test_mistakes_in_a_config_file_are_one_line(tmp_path, body, message):
  (tmp_path / "run.py").write_text(body)
  with pytest.raises(UserError, match=message) as e:
    configuration.load(str(tmp_path / "run.py"))
  assert "\n" not in str(e.value)


def test_no_config_file(tmp_path):
  for path, message in [(tmp_path, "is a folder"), (tmp_path / "x.py", "no file"), ("", "no file")]:
    with pytest.raises(UserError, match=message):
      configuration.load(str(path))


def test_continuing_with_another_model_names_the_field():
  old, new = configuration.complete(make()), configuration.complete(make())
  new.total_steps = 5
  configuration.check_same(old, new)
  new.model.quantizer.codebook_size = 9
  with pytest.raises(
    UserError,
    match="config.model.quantizer.codebook_size: this workdir was trained with 8, the config",
  ):
    configuration.check_same(old, new)


def test_split_arguments():
  rest, overrides = configuration.split_arguments(
    ["--config=a.py", "--config.seed=3", "--workdir", "w", "--config.optim.lr", "1"]
  )
  assert rest == ["--config=a.py", "--workdir", "w"] and overrides == ["seed=3", "optim.lr=1"]


def test_families_list_their_files():
  assert {"vq", "ema", "fsq"} <= set(names("quantizers"))
  assert not any(n.startswith("_") for n in names("evaluators"))


def test_a_hash_of_a_config_is_of_what_differs_from_the_defaults():
  """So that a version with more fields does not disown the runs of the one before."""
  short = dict(name="vqvae", hidden=8, quantizer=dict(name="residual", quantizer=dict(name="fsq")))
  whole = filled("autoencoders", short | dict(dtype="float32"))
  assert essential("autoencoders", whole) == short
  whole["quantizer"]["quantizer"]["levels"] = (3, 3)
  changed = essential("autoencoders", whole)["quantizer"]["quantizer"]
  assert changed == dict(name="fsq", levels=(3, 3))
