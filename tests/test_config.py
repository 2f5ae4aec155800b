"""Configs: overrides, near misses, comparison with a checkpoint's, and every config file of the
repository.
"""

import dataclasses
import itertools
import json

import pytest
from ml_collections import ConfigDict

from vqjax import config as configuration, optim
from vqjax.build import build, names
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
    ({"batch_size": 0}, "config.batch_size: 0 is not positive"),
    ({"preview": 0}, "config.preview: 0 is not positive"),
    ({"eval_examples": 0}, "config.eval_examples: 0 is not positive"),
    ({"ema_decay": 1.5}, "config.ema_decay: 1.5 is outside"),
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
  with pytest.raises(UserError, match=message) as e:
    configuration.complete(make(**values))
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
