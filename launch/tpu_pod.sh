#!/usr/bin/env bash
# Runs one command on every worker of a TPU VM pod, and again after a pre-emption.
#
#   bash launch/tpu_pod.sh --name crab --zone us-west4-a [OPTIONS] -- \
#       python -m launch.train --config configs/finetune.py --workdir gs://BUCKET/runs/joint
#
#   --name NAME         of the TPU
#   --zone ZONE         where it is
#   --project PROJECT   instead of gcloud's own
#   --create TYPE       make it if it is not there, such as v5litepod-256, v5p-128, v6e-256, tpu7x-16; it is made again
#                       when it was taken away
#   --version VERSION   its software (default: the one for TYPE)
#   --spot              cheaper, and may be taken away
#   --folder FOLDER     of the copy of this tree on the workers (default: crab_jax)
#   --restarts N        at most so many (default: 100)
#   --dry-run           print every command of gcloud and do nothing
#
# Copies this tree (what git tracks of it, if it is a checkout), installs it with the extra [tpu] into .venv, and runs COMMAND there. Training ends
# with exit code 75 when it was asked to stop and has saved: the same command is started again. Any other code ends this
# script with it. Checkpoints must lie where a new machine finds them: a bucket, not a disk of the TPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

exec 3>&2 # for what is called, whatever happens to the output of the call
PREEMPTED=75
name="" zone="" project="" create="" version="" spot="" folder=crab_jax restarts=100 dry=""
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "launch/tpu_pod.sh"; }
fail() { echo "error: $*" >&2; exit 2; }
need() { [ "$#" -ge 2 ] || fail "$1 wants a value"; }
while [ "$#" -gt 0 ]; do
  case "$1" in
    --name) need "$@"; name="$2"; shift ;;
    --zone) need "$@"; zone="$2"; shift ;;
    --project) need "$@"; project="$2"; shift ;;
    --create) need "$@"; create="$2"; shift ;;
    --version) need "$@"; version="$2"; shift ;;
    --folder) need "$@"; folder="$2"; shift ;;
    --restarts) need "$@"; restarts="$2"; shift ;;
    --spot) spot=--spot ;;
    --dry-run) dry=1 ;;
    --help | -h) usage; exit 0 ;;
    --) shift; break ;;
    *) fail "unknown argument $1; see --help" ;;
  esac
  shift
done
[ -n "$name" ] || fail "--name is missing"
[ -n "$zone" ] || fail "--zone is missing"
[ "$#" -gt 0 ] || fail "no command: write it behind --"
[[ "$restarts" =~ ^[0-9]+$ ]] || fail "--restarts $restarts: expected a whole number"
[[ "$folder" =~ ^[A-Za-z0-9_./-]+$ ]] || fail "--folder $folder: expected letters, digits and . _ / -"
if [ -z "$version" ]; then
  case "$create" in
    "" ) ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    tpu7x-*) version=v2-alpha-tpu7-ubuntu2404 ;;
    *) fail "--create $create: no software is known for it; give --version" ;;
  esac
fi
[ -n "$dry" ] || command -v gcloud > /dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"

where=(--zone "$zone")
[ -z "$project" ] || where+=(--project "$project")

call() { # prints a command that can be pasted, and runs it unless this is a rehearsal
  { printf '+'; printf ' %q' "$@"; printf '\n'; } >&3
  [ -n "$dry" ] || "$@"
}
tpu() { call gcloud compute tpus tpu-vm "$@" "${where[@]}"; }
everywhere() { tpu ssh "$name" --worker=all --command "$1"; }
state() { gcloud compute tpus tpu-vm describe "$name" "${where[@]}" --format 'value(state)' 2> /dev/null || echo MISSING; }

make() {
  [ -n "$create" ] || return 0
  if [ -z "$dry" ]; then
    case "$(state)" in
      READY | CREATING | STARTING | RESTARTING) return 0 ;;
      MISSING) ;;
      *) tpu delete "$name" --quiet ;;
    esac
  fi
  tpu create "$name" --accelerator-type "$create" --version "$version" ${spot:+"$spot"}
}

install() {
  local tree
  tree="$(mktemp -d)/tree.tar.gz"
  if [ -z "$dry" ] && git rev-parse --is-inside-work-tree > /dev/null 2>&1; then
    git ls-files -z | tar --null --ignore-failed-read -czf "$tree" -T -
  elif [ -z "$dry" ]; then
    tar --exclude=./.venv -czf "$tree" .
  fi
  tpu scp "$tree" "$name:tree.tar.gz" --worker=all
  everywhere "mkdir -p $folder && tar -xzf tree.tar.gz -C $folder && cd $folder && . launch/environment.sh && environment '[tpu]'"
  rm -rf "$(dirname "$tree")"
}

# Every worker says with what its command ended; gcloud itself only says whether all went well.
command="$(printf '%q ' "$@")"
flags="${LIBTPU_INIT_ARGS:---xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000}" # see crab_jax/plan/hardware.py
remote="cd $folder && export LIBTPU_INIT_ARGS=$(printf %q "$flags") PATH=\"\$PWD/.venv/bin:\$PATH\" && { rc=0; $command|| rc=\$?; echo \"worker ended with code \$rc\"; exit \$rc; }"

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
make
install
for ((attempt = 0; ; attempt++)); do
  rc=0
  everywhere "$remote" 2>&1 | tee "$log" || rc="${PIPESTATUS[0]}"
  [ -z "$dry" ] || exit 0
  [ "$rc" -ne 0 ] || exit 0
  codes="$(sed -n 's/.*worker ended with code \([0-9]\+\).*/\1/p' "$log" | sort -un | tr '\n' ' ')"
  # Where one worker fails the others are stopped by it; what failed first is no pre-emption.
  for code in $codes; do
    case "$code" in 0 | $PREEMPTED | 137 | 143) ;; *) echo "error: a worker ended with code $code" >&2; exit "$code" ;; esac
  done
  [ "$attempt" -lt "$restarts" ] || fail "gave up after $restarts restarts"
  now="$(state)"
  case "$now" in
    READY) [[ " $codes " == *" $PREEMPTED "* ]] || { echo "error: lost the workers of $name, which is $now" >&2; exit 1; } ;;
    *)
      [ -n "$create" ] || fail "$name is $now and --create was not given, so it is not made again"
      make
      install
      ;;
  esac
  echo "== starting again ($((attempt + 1)) of at most $restarts), $name was $now, workers ended with: ${codes:-nothing}" >&2
done
