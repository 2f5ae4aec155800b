"""Random configs: whatever a field is set to, only one line comes out, before anything compiles."""

import functools
import os
import pathlib
import random
import signal

import jax
import pytest

from vqjax import build, config as configuration, optim, train
from vqjax.errors import UserError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
NAMES = sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "common")
PARTS = int(os.environ.get("VQJAX_FUZZ_PARTS", 4))  # of fifty configs each
CASES = 50
SECONDS = 10  # no case takes a tenth of it

FAMILIES = ("autoencoders", "quantizers", "discriminators", "priors", "schemes", "signals", "tasks")
WORDS = [name for family in FAMILIES for name in build.names(family)]
SMALL = (0, 1, 2, 3, 4, 8, -1, -7, True, False, 0.5, -0.5, 1.0, 0.0, None, "none", "", "word")
LARGE = (10**4, 10**9, 2**31, 2**40, -(10**9), 10**30, 1e-30, 1e30, float("nan"), float("inf"))
NESTED = (
  (), [], (0,), (2, 2), (1, 2, 3, 4), (-1,), (0.5,), ("a",), (None,), ((),), (10**9, 10**9),
  {}, {"name": None}, {"name": []}, {"name": ""}, {"x": 1}, {"name": "x", "y": {"z": ()}}, {"": 1},
  {1: 2}, {"a.b": 1},
)  # fmt: skip
STRANGE = (object(), b"bytes", {1, 2}, 1j, range(3), len, int)


@functools.cache
def debug(name):
  config = configuration.load(f"{CONFIGS / name}.py:debug")
  values = configuration.complete(config).to_dict()
  return {k: v for k, v in values.items() if k != "debug"}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
  """Workdirs, without weights, of every tokenizer's debug config."""
  folder = tmp_path_factory.mktemp("tokenizers")
  for name in NAMES:
    config = configuration.ConfigDict(debug(name))
    if config.task == "autoencode":
      (folder / name).mkdir()
      configuration.save(config, folder / name)
      configuration.save_spec(spec_of(config), folder / name)
  return folder


def spec_of(config):
  example = build.module("tasks", config["task"]).spec(config)
  return {k: jax.ShapeDtypeStruct((1, *shape), dtype) for k, (shape, dtype) in example.items()}


def drawn(rng, present):
  """(a value, whether it is small): mostly of the type of the present one."""
  kind = rng.choices([SMALL, LARGE, WORDS, NESTED, STRANGE], [12, 4, 4, 3, 1])[0]
  if isinstance(present, tuple) and present and rng.random() < 0.8:
    parts = [drawn(rng, rng.choice(present)) for _ in range(rng.randint(0, 4))]
    return tuple(value for value, _ in parts), all(modest for _, modest in parts)
  like = [v for v in (*SMALL, *LARGE, *WORDS) if type(v) is type(present)]
  if like and rng.random() < 0.8:
    value = rng.choice(like)
    return value, value not in LARGE
  return rng.choice(kind), kind in (SMALL, WORDS)


def changed(rng, values, tokenizers):
  """`values` with one to three fields set anew, and whether they are small enough to trace."""
  config, small, said = configuration.editable(values), True, []
  moved = lambda path: str(tokenizers / pathlib.Path(path).name.removesuffix("_debug"))
  if config.get("tokenizer"):
    config.tokenizer = moved(config.tokenizer)
    if "layout_codes" in config.condition:
      config.condition.layout_codes.tokenizer = moved(config.condition.layout_codes.tokenizer)
  for _ in range(rng.randint(1, 3)):
    path = rng.choice([*configuration.flatten(config)])
    keys = path.split(".")
    keys = keys[: rng.randint(1, len(keys))] if rng.random() < 0.2 else keys
    keys[-1] += rng.choice(["x", "_"]) * (rng.random() < 0.05)
    value, modest = drawn(rng, configuration.flatten(config).get(".".join(keys)))
    small &= modest
    said.append((".".join(keys), value))
    if rng.random() < 0.5:
      configuration.override(config, [f"{'.'.join(keys)}={value}"])
      continue
    node = config.to_dict()
    inner = node
    for key in keys[:-1]:
      inner = inner[key]
    inner[keys[-1]] = value
    config = configuration.editable(node)
  return config, small, said


def attempt(config, trace):
  """What a command does with a config before it opens the data."""
  config = configuration.complete(config)
  spec = spec_of(config)
  if trace:
    train.Run(config, spec)
    return
  build.module("tasks", config["task"]).make(config, spec)
  optim.make(config)


@pytest.mark.parametrize("part", range(PARTS))
def test_random_configs_are_refused_in_one_line(part, tokenizers):
  rng = random.Random(part)
  passed = 0

  def late(*_):
    raise TimeoutError("the config is neither taken nor refused")

  before = signal.signal(signal.SIGALRM, late)
  try:
    for number in range(CASES):
      name, said = rng.choice(NAMES), None
      signal.alarm(SECONDS)
      try:
        config, small, said = changed(rng, debug(name), tokenizers)
        attempt(config, trace=small and number % 5 == 0)
        passed += 1
      except UserError as e:
        assert "\n" not in str(e) and 10 < len(str(e)) < 600, (name, said, str(e))
      except Exception as e:
        raise AssertionError(f"{name}:debug with {said}: {type(e).__name__}: {e}") from e
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
  assert 0 < passed < CASES
