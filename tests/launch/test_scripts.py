"""The launch scripts: what --dry_run prints, and what they run, with stand-ins for the programs
that a cloud needs.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / "launch/slurm.sbatch"])
TRAIN = ("--config=configs/vqgan_tpu.py", "--workdir=gs://bucket/run", "--config.note=it's a test")


def launch(*words, root=ROOT, **environment):
  """The finished process of `bash launch/…`, with the parameters given as environment."""
  return subprocess.run(
    ["bash", *words], cwd=root, env=os.environ | environment, capture_output=True, text=True
  )


def commands(*words, root=ROOT, **environment):
  """The lines of a dry run, split as a shell would; comments are left out."""
  done = launch(*words, root=root, **environment)
  assert done.returncode == 0, done.stderr
  lines = [line.strip() for line in done.stdout.splitlines()]
  return [shlex.split(line) for line in lines if line and not line.startswith("#")]


def flags(command):
  return dict(
    re.match(r"--([\w-]+)=?(.*)", word, re.S).groups() for word in command if "--" in word
  )


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
  """Makes programs on the PATH of a copy of the checkout: `stand_ins(gcloud="a shell script")`.

  Returns the copy's root, and a function that reads the calls: every program notes its words.
  """
  root, programs, calls = tmp_path / "vqjax", tmp_path / "bin", tmp_path / "calls"
  shutil.copytree(ROOT / "launch", root / "launch")
  (root / "requirements.txt").write_text("jax\n")
  programs.mkdir()
  monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
  monkeypatch.setenv("HOME", str(tmp_path))

  def make(**bodies):
    for name, body in bodies.items():
      note = f'printf "%s\\n" "{name} $*" >>{calls}'
      (programs / name).write_text(f"#!/usr/bin/env bash\n{note}\n{body}\n")
      (programs / name).chmod(0o755)

  def read():
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return lines

  make.root, make.calls = root, read
  return make


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script):
  checker = ["shellcheck", "-x", "-P", str(ROOT)] if shutil.which("shellcheck") else ["bash", "-n"]
  done = subprocess.run([*checker, script], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", ["host.sh", "tpu_vm.sh", "gke.sh"])
def test_without_a_sub_command_the_help_names_them(script):
  said = launch(f"launch/{script}").stdout
  assert all(f"{script} {action}" in said for action in ("start", "follow", "stop", "delete"))
  assert not re.search(r"^#|set -euo", said, re.M)


def test_host_brings_a_python_along_and_outlives_the_terminal():
  uv, venv, install, folder, train = commands(
    "launch/host.sh", "start", *TRAIN, "--dry_run", ACCELERATOR="cuda12", NAME="first"
  )
  assert uv == ["bash", "-c", "curl -LsSf https://astral.sh/uv/install.sh | sh"]
  assert venv == ["uv", "venv", "--python", "3.12", ".venv"]
  jax = "jax[cuda12]!=0.10.2,!=0.11.0"
  assert install[-4:] == ["-r", "requirements.txt", "gcsfs", jax]  # workdirs may be buckets
  assert folder == ["mkdir", "-p", "runs"]
  line = shlex.split(train[2])
  assert line[:5] == ["setsid", "nohup", ".venv/bin/python", "-m", "vqjax.main"]
  assert line[5:8] == list(TRAIN)
  assert train[2].endswith(">>runs/first.log 2>&1 </dev/null & echo $! >runs/first.pid")
  only = lambda action: commands("launch/host.sh", "--dry_run", action)
  assert only("follow") == [["tail", "-n", "20", "-F", "runs/vqjax.log"]]
  assert only("stop") == [["bash", "-c", "kill -TERM $(<runs/vqjax.pid)"]]
  assert only("delete")[-1] == ["rm", "-rf", ".venv", "runs/vqjax.log", "runs/vqjax.pid"]


def test_host_starts_once_and_stops_by_sigterm(stand_ins):
  python = "trap 'echo saved; exit' TERM; echo training; while :; do sleep 0.05; done"
  interpreter = f'printf "%s\\n" "#!/usr/bin/env bash" "{python}" >.venv/bin/python'
  stand_ins(uv=f"mkdir -p .venv/bin; {interpreter}; chmod +x .venv/bin/python")
  host = lambda action: launch("launch/host.sh", action, root=stand_ins.root)
  log = stand_ins.root / "runs/vqjax.log"
  assert host("stop").stdout == "vqjax does not run.\n"
  try:
    assert host("start").returncode == 0
    assert [line.split()[1] for line in stand_ins.calls()] == ["venv", "pip"]
    assert host("running").returncode == 0
    while "training" not in log.read_text():  # only then does it know SIGTERM
      time.sleep(0.01)
    assert "runs already" in host("start").stdout and not stand_ins.calls()
  finally:
    stopped = host("stop")
  assert stopped.returncode == 0 and host("running").returncode == 1
  assert log.read_text().splitlines()[-1] == "saved"
  assert host("delete").returncode == 0 and not log.exists()


def test_tpu_vm_prints_what_it_would_run():
  done = commands(
    "launch/tpu_vm.sh", "--dry_run", "start", *TRAIN, NAME="vq", TYPE="v6e-16", ZONE="z", SPOT="1"
  )
  delete, create, describe, pack, copy, unpack, train, *on_each = done
  group = ["gcloud", "compute", "tpus", "queued-resources"]
  assert delete == [*group, "delete", "vq", "--zone=z", "--force", "--quiet"]
  assert create[:6] == [*group, "create", "vq"] and "--spot" in create
  assert flags(create)["accelerator-type"] == "v6e-16" and flags(create)["node-id"] == "vq"
  assert flags(create)["runtime-version"] == "v2-alpha-tpuv6e"
  assert describe[4:6] == ["describe", "vq"] and "git ls-files" in pack[2]
  assert copy[3:5] == ["tpu-vm", "scp"] and copy[6] == "vq:vqjax.tar.gz"
  for command in (copy, unpack, train):
    assert flags(command)["worker"] == "all" and flags(command)["zone"] == "z"
  remote = shlex.split(flags(train)["command"])
  assert remote[:3] == ["VQJAX_DISTRIBUTED=1", "ACCELERATOR=tpu", "NAME=vq"]
  assert remote[3:] == ["bash", "vqjax/launch/host.sh", "start", *TRAIN]
  assert ["jax[tpu]"] == [command[-1] for command in on_each if command[:2] == ["uv", "pip"]]
  assert all(word in on_each[-1][2] for word in ("setsid nohup", *TRAIN[:2]))


@pytest.mark.parametrize(
  "kind, image",
  [("v4-32", "tpu-ubuntu2204-base"), ("v5p-8", "v2-alpha-tpuv5")]
  + [("v5litepod-8", "v2-alpha-tpuv5-lite")],
)
def test_tpu_vm_takes_the_image_of_the_type(kind, image):
  create = commands("launch/tpu_vm.sh", "start", *TRAIN, "--dry_run", TYPE=kind)[1]
  assert flags(create)["runtime-version"] == image and "--spot" not in create


def test_tpu_vm_follows_one_host_stops_all_and_deletes():
  only = lambda action: commands("launch/tpu_vm.sh", action, "--dry_run", NAME="vq")[0]
  assert flags(only("follow"))["worker"] == "0" and "host.sh follow" in only("follow")[-1]
  assert flags(only("stop"))["worker"] == "all" and "host.sh stop" in only("stop")[-1]
  assert only("delete")[4:6] == ["delete", "vq"]


@pytest.mark.parametrize(
  "states, running, expected",
  [
    (["", "WAITING_FOR_RESOURCES", "ACTIVE"], False, ["create", "scp", "ssh", "ssh"]),
    (["SUSPENDED", "ACTIVE"], False, ["delete", "create", "scp", "ssh", "ssh"]),
    (["ACTIVE", "ACTIVE"], False, ["scp", "ssh", "ssh"]),
    (["ACTIVE", "ACTIVE"], True, []),
  ],
)
def test_tpu_vm_does_only_what_is_missing(stand_ins, states, running, expected):
  folder = stand_ins.root.parent
  (folder / "states").write_text("".join(f"{state}\n" for state in states))
  stand_ins(
    gcloud=f"""
      case "$*" in
        *describe*) head -n 1 {folder}/states; sed -i 1d {folder}/states ;;
        *"host.sh running"*) exit {0 if running else 1} ;;
      esac""",
    sleep="",
    git="printf 'requirements.txt\\0'",
  )
  done = launch("launch/tpu_vm.sh", "start", *TRAIN, root=stand_ins.root, TMPDIR=str(folder))
  assert done.returncode == 0, done.stderr
  calls = [line.split() for line in stand_ins.calls() if line.startswith("gcloud")]
  quiet = lambda words: "describe" in words or "running" in words
  assert [words[4] for words in calls if not quiet(words)] == expected


def test_hosts_that_share_no_folder_are_refused():
  done = launch("launch/tpu_vm.sh", "start", "--config=x.py", "--workdir=runs/x", "--dry_run")
  assert done.returncode == 1 and not done.stdout
  assert done.stderr.startswith("error: --workdir") and done.stderr.count("\n") == 1


def rendered(**parameters):
  """The JobSet that launch/gke.sh start would apply."""
  said = launch("launch/gke.sh", "start", *TRAIN, "--dry_run", IMAGE="host/vqjax", **parameters)
  assert said.returncode == 0, said.stderr
  return yaml.safe_load(re.search(r"<<'---'\n(.*)\n---\n", said.stdout, re.S)[1])


def test_gke_renders_one_slice():
  jobset = rendered(NAME="vq", TOPOLOGY="4x8", SERVICE_ACCOUNT="trainer")
  assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  assert jobset["metadata"]["name"] == "vq"
  assert list(jobset["metadata"]["annotations"].values()) == ["cloud.google.com/gke-nodepool"]
  spec = jobset["spec"]
  assert spec["network"]["enableDNSHostnames"] and spec["network"]["publishNotReadyAddresses"]
  assert spec["network"]["subdomain"] == "vq" and spec["suspend"] is False
  assert spec["failurePolicy"]["maxRestarts"] > 0
  (slices,) = spec["replicatedJobs"]
  job = slices["template"]["spec"]
  assert (job["completions"], job["parallelism"], job["completionMode"]) == (8, 8, "Indexed")
  assert job["backoffLimit"] == 0
  pod = job["template"]["spec"]
  assert pod["restartPolicy"] == "Never" and pod["serviceAccountName"] == "trainer"
  assert pod["terminationGracePeriodSeconds"] >= 60
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
    "cloud.google.com/gke-tpu-topology": "4x8",
  }
  (container,) = pod["containers"]
  assert container["image"] == "host/vqjax"
  assert {"name": "VQJAX_DISTRIBUTED", "value": "1"} in container["env"]
  assert container["resources"] == {k: {"google.com/tpu": 4} for k in ("requests", "limits")}
  assert container["command"][:2] == ["bash", "-c"] and container["command"][4:] == list(TRAIN)
  spot = rendered(SPOT="1", TOPOLOGY="2x2x1", ACCELERATOR="tpu-v5p-slice")["spec"]
  job = spot["replicatedJobs"][0]["template"]["spec"]
  selected = job["template"]["spec"]["nodeSelector"]
  assert job["completions"] == 1 and selected["cloud.google.com/gke-spot"] == "true"


@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize("told", [False, True])
def test_gke_pod_that_is_told_to_leave_is_not_complete(stand_ins, status, told):
  (job,) = rendered()["spec"]["replicatedJobs"]
  (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
  wait = "trap 'exit $0' TERM; echo ready; while :; do sleep 0.05; done" if told else "exit $0"
  stand_ins(python=wait.replace("$0", str(status)))
  pod = subprocess.Popen(container["command"], stdout=subprocess.PIPE, text=True)
  if told:
    assert pod.stdout.readline() == "ready\n"
    pod.terminate()
  pod.communicate(timeout=20)
  assert pod.returncode == (status or (143 if told else 0))
  assert stand_ins.calls() == [" ".join(["python -m vqjax.main", *TRAIN])]


@pytest.mark.parametrize("ended", ["", "Completed"])
def test_gke_applies_anew_what_has_ended(stand_ins, ended):
  stand_ins(kubectl=f'case $1 in get) printf "{ended}" ;; apply) cat >/dev/null ;; esac')
  done = launch("launch/gke.sh", "start", *TRAIN, root=stand_ins.root, IMAGE="host/vqjax")
  assert done.returncode == 0, done.stderr
  verbs = [line.split()[1] for line in stand_ins.calls()]
  assert verbs == ["get", *(["delete"] if ended else []), "apply"]


def test_gke_builds_follows_stops_and_deletes():
  only = lambda action: commands("launch/gke.sh", action, "--dry_run", IMAGE="i", NAME="vq")
  pack, build, push = only("build")
  assert "git ls-files" in pack[2] and "--file launch/Dockerfile" in build[2]
  assert push == ["docker", "push", "i"]
  ((*_, selector),) = only("follow")
  assert "jobset-name=vq" in selector and "job-completion-index=0" in selector
  ((*_, patch),) = only("stop")
  assert patch == '--patch={"spec": {"suspend": true}}'
  assert only("delete") == [["kubectl", "delete", "jobset", "vq", "--ignore-not-found"]]


@pytest.mark.parametrize(
  "parameters, field", [({}, "IMAGE"), ({"IMAGE": "i", "TOPOLOGY": "2x3"}, "CHIPS=4")]
)
def test_gke_names_the_parameter_that_is_wrong(parameters, field):
  done = launch("launch/gke.sh", "start", *TRAIN, "--dry_run", **parameters)
  assert done.returncode == 1 and not done.stdout
  assert done.stderr.startswith(f"error: {field}: ") and done.stderr.count("\n") == 1


def test_slurm_has_a_task_for_each_gpu():
  text = (ROOT / "launch/slurm.sbatch").read_text()
  options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.M))
  assert options["ntasks-per-node"] == options["gpus-per-node"]
  assert options["dependency"] == "singleton" and "requeue" in options
  assert options["signal"].startswith("B:USR1@")
  distributed, train, _ = commands("launch/slurm.sbatch", "--dry_run", *TRAIN)
  assert distributed == ["export", "VQJAX_DISTRIBUTED=1"]
  assert train[0] == "srun" and train[-6:] == ["python", "-m", "vqjax.main", *TRAIN]


@pytest.mark.parametrize("warned", [False, True])
def test_slurm_saves_before_the_limit_and_queues_again(stand_ins, warned):
  here = stand_ins.root.parent
  stand_ins(
    srun=f"echo ready; until [[ -e {here}/left || {int(warned)} == 0 ]]; do sleep 0.05; done",
    scancel=f"touch {here}/left",
    scontrol="",
  )
  environment = os.environ | {"SLURM_JOB_ID": "7"}
  job = subprocess.Popen(
    ["bash", "launch/slurm.sbatch", *TRAIN],
    cwd=stand_ins.root,
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert job.stdout.readline() == "ready\n"
  if warned:
    job.send_signal(10)  # SIGUSR1, which sbatch sends to the script alone
  job.communicate(timeout=20)
  srun, *after = stand_ins.calls()
  assert job.returncode == 0 and srun.endswith(" ".join(TRAIN))
  assert after == (["scancel --signal=TERM 7", "scontrol requeue 7"] if warned else [])
