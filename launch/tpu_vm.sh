#!/usr/bin/env bash
# A Cloud TPU slice: asks for it, copies this checkout to its hosts and trains on all of them.
#
#   NAME=vq TYPE=v5litepod-16 ZONE=us-west4-a launch/tpu_vm.sh start \
#     --config=configs/vqgan_tpu.py --workdir=gs://BUCKET/vqgan
#   NAME=vq ZONE=us-west4-a launch/tpu_vm.sh follow    the first host's log; Ctrl-C leaves the run alone
#   NAME=vq ZONE=us-west4-a launch/tpu_vm.sh stop      every host saves and leaves; the slice stays
#   NAME=vq ZONE=us-west4-a launch/tpu_vm.sh delete    gives the slice back; the bucket keeps the run
#
# The run outlives the ssh connection. The same line again continues: it asks for a new slice where
# the old one was taken away, and starts the run from its newest checkpoint where it does not run.
# --dry_run prints the commands and runs none. Needs gcloud, logged in, and TPU quota in the zone.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

# Parameters:
NAME=${NAME:-vqjax}          # of the queued resource, of its node and of the log
TYPE=${TYPE:-v5litepod-16}   # v2-8, v3-32, v4-32, v5litepod-16, v5p-32, v6e-16, …
ZONE=${ZONE:-us-west4-a}     # one that has this type: gcloud compute tpus locations list
PROJECT=${PROJECT:-}         # empty: gcloud's own
SPOT=${SPOT:-}               # 1: cheaper, and may be taken away at any time
IMAGE=${IMAGE:-}             # the VM's; empty: the one that belongs to the type

where=(--zone="$ZONE")
if [[ $PROJECT ]]; then where+=(--project="$PROJECT"); fi
host="NAME=$(quoted "$NAME") bash vqjax/launch/host.sh"

image() {
  case $TYPE in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

on() {
  run gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker="$1" --command="$2"
}

# ACTIVE, WAITING_FOR_RESOURCES, …; nothing where there is none.
state() {
  gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)' \
    2>/dev/null || true
}

delete() {
  run gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
}

allocate() {
  local now=
  if [[ ! $dry_run ]]; then now=$(state); fi
  note 'where the slice was taken away, or never came:'
  if [[ $dry_run || $now == SUSPENDED || $now == FAILED ]]; then delete; now=; fi
  note 'where there is none:'
  if [[ ! $now ]]; then
    run gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" "${where[@]}" \
      --accelerator-type="$TYPE" --runtime-version="${IMAGE:-$(image)}" ${SPOT:+--spot}
  fi
  note 'every 30 seconds, until it says ACTIVE:'
  if [[ $dry_run ]]; then
    run gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)'
    return
  fi
  until now=$(state); [[ $now == ACTIVE ]]; do
    case $now in FAILED | SUSPENDING | SUSPENDED) die "$NAME is $now; run the same line again." ;; esac
    echo "$NAME is ${now:-unknown}, waiting"
    sleep 30
  done
}

start() {
  [[ " $*" == *" --workdir=gs://"* || " $*" == *" --workdir=/"* ]] ||
    die "--workdir: the hosts of a slice share no folder; give --workdir=gs://BUCKET/NAME, or a mounted path."
  allocate
  note 'unless the run is under way on every host:'
  if [[ $dry_run ]] || ! on all "test -e vqjax && $host running"; then
    local archive=${TMPDIR:-/tmp}/$NAME.tar.gz
    pack "$archive"
    run gcloud compute tpus tpu-vm scp "$archive" "$NAME:vqjax.tar.gz" "${where[@]}" --worker=all
    on all "mkdir -p vqjax && tar xzf vqjax.tar.gz -C vqjax"
    # Every host runs the same program; jax.distributed finds the others by the TPU's metadata.
    on all "VQJAX_DISTRIBUTED=1 ACCELERATOR=tpu $host start $(quoted "$@")"
    if [[ $dry_run ]]; then
      note 'which on each host is:'
      ACCELERATOR=tpu bash launch/host.sh --dry_run start "$@" | sed 's/^[^#]/  &/'
    fi
  fi
  echo "# the same with follow, stop or delete in place of start: $(quoted env NAME="$NAME" ZONE="$ZONE" ${PROJECT:+PROJECT="$PROJECT"} launch/tpu_vm.sh follow)"
}

action=${1:-help}
if (($#)); then shift; fi
case $action in
  start) start "$@" ;;
  follow) on 0 "$host follow" ;;
  stop) on all "$host stop" ;;
  delete) delete ;;
  *) usage ;;
esac
