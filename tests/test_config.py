"""Configs: overrides, near misses, comparison with a checkpoint's, and every config file of the repository."""

import json

import pytest
from ml_collections import ConfigDict

from vqjax import config as configuration
from vqjax.build import build, names
from vqjax.errors import UserError


def make(**values) -> ConfigDict:
  return ConfigDict({"model": {"name": "vqvae", "quantizer": {"name": "vq", "codebook_size": 8}}, **values})


def test_overrides_parse_literals_and_reach_new_fields():
  config = make()
  configuration.override(config, ["total_steps=7", "model.quantizer.codebook_size=16", "optim.lr=1e-4", "loss.reconstruction=l1", "disc=none"])
  config = configuration.complete(config)
  assert (config.total_steps, config.model.quantizer.codebook_size, config.optim.lr) == (7, 16, 1e-4)
  assert config.loss.reconstruction == "l1" and config.disc is None


def test_a_new_name_drops_the_old_fields():
  config = make()
  configuration.override(config, ["model.quantizer.name=fsq", "model.quantizer.levels=(8,5,5)"])
  assert config.model.quantizer.to_dict() == {"name": "fsq", "levels": (8, 5, 5)}


@pytest.mark.parametrize("assignment, message", [
    ("batchsize=3", "Did you mean 'batch_size'"),
    ("modle.name=vqvae", "Did you mean 'model'"),
    ("model.quantizer", "FIELD=VALUE"),
])
def test_bad_overrides_are_one_line(assignment, message):
  with pytest.raises(UserError, match=message) as e:
    configuration.override(make(), [assignment])
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("values, message", [
    ({"batch_size": "many"}, "config.batch_size: 'many' is a str"),
    ({"batch_size": 0}, "config.batch_size: 0 is not positive"),
    ({"sede": 1}, "config.sede: unknown field. Did you mean 'seed'"),
])
def test_bad_top_level_values(values, message):
  with pytest.raises(UserError, match=message):
    configuration.complete(make(**values))


@pytest.mark.parametrize("config, message", [
    ({"name": "residul"}, "Did you mean 'residual'"),
    ({"name": "fsq", "lvels": (8,)}, r"config\(fsq\).lvels: unknown field. Did you mean 'levels'"),
    ({"name": "vq", "codebook_size": 2.5}, "2.5 is a float, not int"),
    ({}, "has no 'name'"),
])
def test_build_names_the_field_and_the_near_miss(config, message):
  with pytest.raises(UserError, match=message) as e:
    build("quantizers", config)
  assert "\n" not in str(e.value)


def test_saved_config_equals_itself(tmp_path):
  config = configuration.complete(make(sharding=[["a", ["data", None]]], ops={"size": 32}))
  configuration.save(config, tmp_path)
  configuration.check_same(configuration.of_run(tmp_path), config)
  assert json.loads((tmp_path / "config.json").read_text())["ops"] == {"size": 32}


def test_continuing_with_another_model_names_the_field():
  old, new = configuration.complete(make()), configuration.complete(make())
  new.total_steps = 5
  configuration.check_same(old, new)
  new.model.quantizer.codebook_size = 9
  with pytest.raises(UserError, match="config.model.quantizer.codebook_size: this workdir was trained with 8, the config says 9"):
    configuration.check_same(old, new)


def test_split_arguments():
  rest, overrides = configuration.split_arguments(["--config=a.py", "--config.seed=3", "--workdir", "w", "--config.optim.lr", "1"])
  assert rest == ["--config=a.py", "--workdir", "w"] and overrides == ["seed=3", "optim.lr=1"]


def test_families_list_their_files():
  assert {"vq", "ema", "fsq"} <= set(names("quantizers"))
  assert not any(n.startswith("_") for n in names("evaluators"))
