"""One holder of a workdir: fights, deaths, other machines, buckets."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from vqjax import holder
from vqjax.errors import UserError

# Waits for a line, tries to take the folder, says what came of it, and keeps it.
WORKER = """
import pathlib, sys
from vqjax import holder
assert not {"jax", "numpy"} & sys.modules.keys()
for line in sys.stdin:
  held = holder.Holder(pathlib.Path(line.strip()))
  try:
    held.__enter__()
    print("held", flush=True)
  except ValueError as e:
    print(e, flush=True)
"""


def start():
  return subprocess.Popen(
    [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )


def ask(process, workdir):
  process.stdin.write(f"{workdir}\n")
  process.stdin.flush()


def test_of_two_processes_one_wins_and_death_frees_at_once(tmp_path):
  rivals = [start(), start()]
  try:
    for fight in range(20):
      for rival in rivals:
        ask(rival, tmp_path)
      said = [rival.stdout.readline().strip() for rival in rivals]
      assert sorted(s == "held" for s in said) == [False, True], said
      winner = rivals[said.index("held")]
      loss = next(s for s in said if s != "held")
      assert loss.startswith(f"--workdir={tmp_path}: is being trained by ")
      record = json.loads((tmp_path / ".holder").read_text())
      assert record["pid"] == winner.pid
      rivals.append(start())
      winner.send_signal(signal.SIGKILL)
      winner.wait()
      rivals.remove(winner)
      if fight % 2:  # the next fight is for what the dead one left
        continue
      began = time.monotonic()
      with holder.Holder(tmp_path):
        assert time.monotonic() - began < 1
        ask(rivals[0], tmp_path)
        assert f"by process {os.getpid()} on " in (line := rivals[0].stdout.readline())
        assert line.endswith("; wait for it, or stop it.\n") and " since 20" in line
      assert not (tmp_path / ".holder").exists()
  finally:
    for rival in rivals:
      rival.kill()
      rival.communicate()


FORKS = """
import os, pathlib, sys, time
from vqjax import holder
held = holder.Holder(pathlib.Path(sys.argv[1])).__enter__()
if not os.fork():  # it has let go of what it inherited when fork returns in it
  print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_forked_child_keeps_nothing(tmp_path):
  parent = subprocess.Popen(
    [sys.executable, "-c", FORKS, str(tmp_path)], stdout=subprocess.PIPE, text=True
  )
  child = int(parent.stdout.readline())
  try:
    with pytest.raises(UserError):
      holder.Holder(tmp_path).__enter__()
    parent.kill()
    parent.wait()
    with holder.Holder(tmp_path):
      pass
  finally:
    os.kill(child, signal.SIGKILL)


@pytest.fixture
def quick(monkeypatch):
  for name, value in (("BEAT", 0.05), ("ABANDONED", 0.5), ("SETTLE", 0.2)):
    monkeypatch.setattr(holder, f"{name}_SECONDS", value)


@pytest.fixture(params=["folder", "bucket"])
def workdir(request, tmp_path):
  if request.param == "folder":
    return tmp_path
  return request.getfixturevalue("gs")


def elsewhere(workdir, monkeypatch):
  """A holder that this machine's kernel knows nothing of."""
  with monkeypatch.context() as patched:
    patched.setattr(holder, "_kernel", lambda: "another")
    patched.setattr(holder.Holder, "_lock", lambda self: None)
    return holder.Holder(workdir)


def test_a_beat_from_another_machine_refuses(workdir, monkeypatch, quick):
  other = elsewhere(workdir, monkeypatch)
  with monkeypatch.context() as patched:
    patched.setattr(holder.Holder, "_lock", lambda self: None)
    other.__enter__()
  with pytest.raises(UserError, match="is being trained by process"):
    holder.Holder(workdir).__enter__()
  other.release()
  with holder.Holder(workdir) as held:
    held.check()


def test_no_beat_is_abandoned(workdir, monkeypatch, quick):
  other = elsewhere(workdir, monkeypatch)
  other._record["pid"] = 1
  other._write()
  began = time.monotonic()
  with holder.Holder(workdir) as held:
    assert 0.5 < time.monotonic() - began < 5
    other._write()  # it was suspended only, and now writes over ours
    time.sleep(0.3)
    with pytest.raises(UserError, match="is being trained by process 1 on"):
      held.check()
  assert other._mine(other._read())  # what is another's stays


def test_a_dead_process_of_this_machine_is_known_without_locks(workdir, monkeypatch, quick):
  monkeypatch.setattr(holder, "ABANDONED_SECONDS", 60.0)
  monkeypatch.setattr(holder.Holder, "_lock", lambda self: None)
  dead = holder.Holder(workdir)
  child = subprocess.Popen([sys.executable, "-c", ""])
  child.wait()
  dead._record["pid"] = child.pid
  dead._write()
  began = time.monotonic()
  with holder.Holder(workdir):
    assert time.monotonic() - began < 5


def test_only_the_first_process_of_a_pod_takes_it(tmp_path, monkeypatch):
  monkeypatch.setattr(holder, "_from_first", lambda text: text)
  with holder.Holder(tmp_path, 0, 2), holder.Holder(tmp_path, 1, 2) as second:
    second.check()
  monkeypatch.setattr(holder, "_from_first", lambda text: "refused")
  with pytest.raises(UserError, match="refused"):
    holder.Holder(tmp_path, 1, 2).__enter__()
