#!/usr/bin/env bash
# Google Kubernetes Engine: trains on a TPU slice as a JobSet, one pod on each host.
#
#   IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/vqjax launch/gke.sh build    once, and after edits
#   IMAGE=… NAME=vq TOPOLOGY=4x4 launch/gke.sh start --config=configs/vqgan_tpu.py --workdir=gs://BUCKET/vqgan
#   NAME=vq launch/gke.sh follow    the first host's log; Ctrl-C leaves the run alone
#   NAME=vq launch/gke.sh stop      the pods save and leave; start continues
#   NAME=vq launch/gke.sh delete    removes the JobSet; the bucket keeps the run
#
# The same line again continues: a JobSet that stopped, failed or ended starts anew from its newest
# checkpoint, one that runs is left alone. --dry_run prints the commands and runs none.
# Needs kubectl on a cluster with JobSet (jobset.sigs.k8s.io) and a node pool of these TPUs; the
# service account must be allowed to write to the bucket (Workload Identity).
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

# Parameters:
NAME=${NAME:-vqjax}                                 # of the JobSet and its service
IMAGE=${IMAGE:-}                                    # where build puts the container and start finds it
ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice}    # tpu-v4-podslice, tpu-v5p-slice, tpu-v6e-slice
TOPOLOGY=${TOPOLOGY:-4x4}                           # of the slice, in chips
CHIPS=${CHIPS:-4}                                   # on each host
SPOT=${SPOT:-}                                      # 1: nodes that may be taken away at any time
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default}         # of Kubernetes
HOSTS=$((${TOPOLOGY//x/*} / CHIPS))

# The words as items of a YAML list, at the indentation of ${ARGUMENTS}.
items() {
  local word separator=
  for word in "$@"; do
    word=${word//\\/\\\\}
    printf '%s- "%s"' "$separator" "${word//\"/\\\"}"
    separator=$'\n                    '
  done
}

manifest() {
  local text name ARGUMENTS
  text=$(<launch/gke.yaml)
  # shellcheck disable=SC2034  # read as ${!name}
  ARGUMENTS=$(items "$@")
  for name in NAME IMAGE ACCELERATOR TOPOLOGY CHIPS HOSTS SERVICE_ACCOUNT ARGUMENTS; do
    text=${text//"\${$name}"/"${!name}"}
  done
  if [[ $SPOT ]]; then text=${text//'#spot '/}; fi
  printf '%s\n' "$text"
}

build() {
  pack "${TMPDIR:-/tmp}/$NAME.tar.gz"
  run bash -c "docker build --tag $(quoted "$IMAGE") --file launch/Dockerfile - <$(quoted "${TMPDIR:-/tmp}/$NAME.tar.gz")"
  run docker push "$IMAGE"
}

start() {
  ((HOSTS > 0 && HOSTS * CHIPS == ${TOPOLOGY//x/*})) ||
    die "CHIPS=$CHIPS: does not divide TOPOLOGY=$TOPOLOGY; give the chips of one host, 1, 4 or 8."
  [[ " $* " == *" --workdir="* ]] || die "--workdir: is missing; give --workdir=gs://BUCKET/NAME."
  local ended=
  if [[ ! $dry_run ]]; then
    ended=$(kubectl get jobset "$NAME" --ignore-not-found --output=jsonpath='{.status.terminalState}')
  fi
  note 'where it has ended or failed:'
  if [[ $dry_run || $ended ]]; then run kubectl delete jobset "$NAME"; fi
  if [[ $dry_run ]]; then
    echo "kubectl apply --filename=- <<'---'"
    manifest "$@"
    echo ---
  else
    manifest "$@" | kubectl apply --filename=-
  fi
  echo "# the same with follow, stop or delete in place of start: $(quoted env NAME="$NAME" launch/gke.sh follow)"
}

action=${1:-help}
if (($#)); then shift; fi
if [[ $action == build || $action == start ]]; then
  [[ $IMAGE ]] || die "IMAGE: is not set; give the container's address, e.g. REGION-docker.pkg.dev/PROJECT/REPOSITORY/vqjax."
fi
first="jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
case $action in
  build) build ;;
  start) start "$@" ;;
  follow) run kubectl logs --follow --tail=20 --selector="$first" ;;
  stop) run kubectl patch jobset "$NAME" --type=merge --patch='{"spec": {"suspend": true}}' ;;
  delete) run kubectl delete jobset "$NAME" --ignore-not-found ;;
  *) usage ;;
esac
