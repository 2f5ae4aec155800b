"""Every published format keeps the contract of vqjax/importers, and refuses options in one line."""

import inspect

import pytest

from vqjax import build, importers
from vqjax.errors import UserError


@pytest.mark.parametrize("name", build.names("importers"))
def test_contract(name, tmp_path):
  member = build.module("importers", name)
  arguments = lambda function: list(inspect.signature(function).parameters)
  assert member.__doc__.splitlines()[0].endswith(".")  # what `convert --help` shows
  assert member.WHERE and "\n" not in member.WHERE
  assert member.FILES >= 1
  assert all(isinstance(v, (type, str, int, float)) for v in member.OPTIONS.values())
  assert hasattr(member, "read") != hasattr(member, "write_file")
  if hasattr(member, "write"):
    assert arguments(member.write) == ["config", "params", "stats"]
  options = {k: v() if isinstance(v, type) else v for k, v in member.OPTIONS.items()}
  if hasattr(member, "read"):
    function, result = member.read, tmp_path / "workdir"
    assert arguments(function) == ["states", "options", "into"]
  else:
    function, result = member.write_file, tmp_path / "file"
    assert arguments(function) == ["states", "options", "path"]
  with pytest.raises(UserError) as e:
    function([{}] * member.FILES, options, result)
  assert "\n" not in str(e.value) and not result.exists()


KNOWN = dict(heads=int, beta=0.25, legacy=True)


def test_options_are_read_as_their_type():
  options = importers.complete({"heads": "4", "legacy": "False"}, KNOWN)
  assert options == dict(heads=4, beta=0.25, legacy=False)


@pytest.mark.parametrize(
  "given, known, message",
  [
    ({"heasd": "1"}, KNOWN, "--option heasd: unknown. Did you mean 'heads'"),
    ({"heads": "many"}, KNOWN, "--option heads: 'many' is no int"),
    ({"beta": "big"}, KNOWN, "--option beta: 'big' is no float; give for example 0.25"),
    ({"legacy": "maybe"}, KNOWN, "--option legacy: 'maybe' is no bool"),
    ({}, KNOWN, "--option heads: the tensors do not tell it; give --option heads=VALUE"),
    ({"heads": 1}, {}, "--option heads: unknown. This format has none"),
  ],
)
def test_options_that_do_not_fit_are_named(given, known, message):
  with pytest.raises(UserError, match=message) as e:
    importers.complete(given, known)
  assert "\n" not in str(e.value)
