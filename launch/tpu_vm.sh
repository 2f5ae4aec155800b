#!/usr/bin/env bash
# Cloud TPU VM: makes a slice (queued), installs vqjax on every host and starts the same command on all of them.
#   NAME=vq TYPE=v5litepod-16 ZONE=us-west4-a launch/tpu_vm.sh --config=configs/vqgan_tpu.py --workdir=/mnt/BUCKET/vqgan
# With BUCKET set it is mounted on every host at /mnt/$BUCKET, so that all share the workdir.
# Preempted? The same line continues the run: it waits for the slice and resumes from the newest checkpoint.
set -euo pipefail
name=${NAME:?set NAME}; type=${TYPE:?set TYPE, e.g. v5litepod-16 or v4-32}; zone=${ZONE:?set ZONE}
version=${VERSION:-tpu-ubuntu2204-base}
repository=${REPOSITORY:?set REPOSITORY to the address git clones vqjax from}
ssh=(gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command)

if ! gcloud compute tpus tpu-vm describe "$name" --zone="$zone" >/dev/null 2>&1; then
  gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" \
    --accelerator-type="$type" --runtime-version="$version"
  until gcloud compute tpus tpu-vm describe "$name" --zone="$zone" --format='value(state)' 2>/dev/null | grep -q READY; do sleep 30; done
fi
"${ssh[@]}" "test -d vqjax || git clone '$repository' vqjax"
"${ssh[@]}" "cd vqjax && git pull -q && pip install -q -r requirements.txt 'jax[tpu]'"
if [[ -n "${BUCKET:-}" ]]; then
  "${ssh[@]}" "mountpoint -q /mnt/$BUCKET || { sudo mkdir -p /mnt/$BUCKET && sudo chown \$USER /mnt/$BUCKET && gcsfuse --implicit-dirs $BUCKET /mnt/$BUCKET; }"
fi
# Every host runs the same program; jax.distributed finds the others from the TPU's metadata.
"${ssh[@]}" "cd vqjax && VQJAX_DISTRIBUTED=1 python -m vqjax.main $(printf '%q ' "$@")"
