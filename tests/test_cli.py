"""What every command shares: errors of the user's as one line, others with their traceback."""

import pytest

from vqjax import cli
from vqjax.errors import UserError


@pytest.fixture(autouse=True)
def _no_setup(monkeypatch):
  monkeypatch.setattr(cli, "setup", lambda: None)


def test_paths_that_the_system_refuses_are_one_line(tmp_path, capsys):
  (tmp_path / "file").write_text("")
  for path in (tmp_path, tmp_path / "none" / "x", tmp_path / "file" / "x", tmp_path / ("x" * 999)):
    with pytest.raises(SystemExit) as e:
      cli.run(lambda argv, path=path: path.write_text(""))
    out, err = capsys.readouterr()
    assert (
      e.value.code == 1
      and not out
      and err.startswith("error: ")
      and str(path) in err
      and err.count("\n") == 1
    )


@pytest.mark.parametrize(
  "error", [TypeError("a bug"), OSError("a library's word"), ValueError("no UserError")]
)
def test_other_errors_keep_their_traceback(error):
  def main(argv):
    raise error

  with pytest.raises(type(error), match=str(error)):
    cli.run(main)


def test_one_of_several_processes_leaves_at_once(monkeypatch, capsys):
  """Its last barrier would wait for the one that is gone."""
  import jax

  class Left(BaseException):
    pass

  def leave(status):
    raise Left(status)

  def lost(argv):
    raise jax.errors.JaxRuntimeError("Gloo: reset by peer\nand forty lines")

  monkeypatch.setattr(cli.os, "_exit", leave)
  with pytest.raises(jax.errors.JaxRuntimeError):
    cli.run(lost)  # alone: somebody else's error
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(Left, match="1"):
    cli.run(lost)
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: another process of this run is gone (Gloo: reset by peer)")


@pytest.mark.parametrize(
  "argv, line",
  [
    (["--nun=3"], "--nun: is no flag of this command. Did you mean '--num'?"),
    (["--num=0"], "--num: 0 is no whole number from 1 up; see --help."),
    (["--num=-3"], "--num: -3 is no whole number from 1 up; see --help."),
    (["--num=1e9"], "--num: 1e9 is no whole number from 1 up; see --help."),
    (["--kind=c"], "--kind: invalid choice: 'c' (choose from"),
    (["--num"], "--num: expected one argument; see --help."),
    (["there"], "unrecognized arguments: there; see --help."),
  ],
)
def test_flags_that_are_wrong_are_one_line(argv, line):
  parser = cli.parser("What it does.")
  parser.add_argument("--num", type=cli.count, default=1)
  parser.add_argument("--kind", choices=("a", "b"))
  assert parser.parse_args(["--num=12"]).num == 12
  with pytest.raises(UserError) as e:
    parser.parse_args(argv)
  assert str(e.value).startswith(line) and "\n" not in str(e.value)
