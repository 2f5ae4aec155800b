#!/usr/bin/env bash
# One machine with GPUs, a TPU or neither: brings a Python along and trains in the background.
#
#   launch/host.sh start --config=configs/vqgan_shapes64.py --workdir=runs/vqgan
#   launch/host.sh follow     the log; Ctrl-C leaves the run alone
#   launch/host.sh stop       the run saves and leaves
#   launch/host.sh delete     stops, and removes the Python environment and the log; runs stay
#
# The run outlives the terminal, and uses all of the machine's devices. The same line again installs
# what is missing and continues the run. --dry_run prints the commands and runs none.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

# Parameters: NAME=first launch/host.sh …
NAME=${NAME:-vqjax}           # of the log and the process file; one per run on this machine
PYTHON=${PYTHON:-3.12}        # Ubuntu 22.04 and the TPU VM images have 3.10, too old for vqjax
ACCELERATOR=${ACCELERATOR:-}  # cuda12, cuda13, tpu or cpu; empty: what the machine has

log=runs/$NAME.log
process=runs/$NAME.pid
export PATH=$HOME/.local/bin:$PATH  # where uv's installer puts it

jax() {
  local found=$ACCELERATOR
  if [[ ! $found ]]; then
    if command -v nvidia-smi >/dev/null; then found=cuda12
    elif compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then found=tpu
    else found=cpu; fi
  fi
  case $found in
    cpu) echo jax ;;
    cuda*) echo "jax[$found]!=0.10.2,!=0.11.0" ;;  # which add slowly on GPUs
    *) echo "jax[$found]" ;;
  esac
}

# After a reboot another process may have the number: its command tells.
running() {
  [[ ! $dry_run && -f $process ]] && [[ $(ps -p "$(<"$process")" -o args=) == *vqjax.main* ]]
}

install() {
  command -v uv >/dev/null && [[ ! $dry_run ]] ||
    run bash -c 'curl -LsSf https://astral.sh/uv/install.sh | sh'
  [[ -x .venv/bin/python && ! $dry_run ]] || run uv venv --python "$PYTHON" .venv
  run uv pip install --quiet --python .venv/bin/python -r requirements.txt gcsfs "$(jax)"
}

start() {
  if running; then
    echo "$NAME runs already, as process $(<"$process"); launch/host.sh follow shows its log."
    return
  fi
  install
  run mkdir -p runs
  # setsid and nohup: neither Ctrl-C nor the end of an ssh connection reaches the run.
  run bash -c "setsid nohup .venv/bin/python -m vqjax.main $(quoted "$@") >>$log 2>&1 </dev/null & echo \$! >$process"
  echo "# log: launch/host.sh follow; save and leave: launch/host.sh stop"
}

stop() {
  if [[ $dry_run ]]; then
    run bash -c "kill -TERM \$(<$process)"
  elif running; then
    kill -TERM "$(<"$process")"
    while running; do sleep 1; done
  else
    echo "$NAME does not run."
  fi
}

action=${1:-help}
if (($#)); then shift; fi
case $action in
  start) start "$@" ;;
  running) running ;;
  follow) run tail -n 20 -F "$log" ;;
  stop) stop ;;
  delete) stop; run rm -rf .venv "$log" "$process" ;;
  *) usage ;;
esac
