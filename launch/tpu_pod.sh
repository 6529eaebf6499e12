#!/usr/bin/env bash
# Runs one command on every worker of a TPU VM pod, and again after a pre-emption.
#
#   bash launch/tpu_pod.sh --name crab --zone us-west4-a [OPTIONS] -- \
#       python -m launch.train --config configs/finetune.py --workdir /mnt/runs/joint
#
#   --name NAME         of the TPU
#   --zone ZONE         where it is
#   --project PROJECT   instead of gcloud's own
#   --create TYPE       make it if it is not there, such as v5litepod-256, v5p-128, v6e-256, tpu7x-16; it is made again
#                       when it was taken away
#   --version VERSION   its software (default: the one for TYPE)
#   --spot              cheaper, and may be taken away
#   --folder FOLDER     of the copy of this tree on the workers (default: crab_jax)
#   --setup COMMAND     run on every worker before each start, such as one that mounts a bucket
#   --restarts N        at most so many (default: 100)
#   --pause SECONDS     before another attempt to make the TPU or to install (default: 60)
#   --dry-run           print every command of gcloud and do nothing
#
# Copies this tree (what git tracks of it, if it is a checkout), installs it with the extra [tpu] into .venv (with a
# Python that uv brings, where a worker has none from 3.11 on), and runs COMMAND there. Training ends with exit code 75
# when it was asked to stop and has saved, and with 134 where another worker was lost: the same command is started again,
# as it is when the TPU was taken away. Any other code ends this script with it.
# When the TPU was taken away and cannot be made again at once, for want of capacity, each attempt counts as a restart;
# only the first time both must succeed, so that wrong arguments are seen.
#
# Data and checkpoints must lie where a new machine finds them, in a bucket or on a network disk that is mounted on every
# worker, not on a disk of the TPU; they are given as paths, not as gs://. With gcsfuse on the workers, a bucket needs
# (it does not let folders be renamed by itself, and a checkpoint is a folder that gets its name when it is complete)
#
#   --setup 'mountpoint -q /mnt/runs || { sudo install -d -o "$USER" /mnt/runs && gcsfuse --implicit-dirs --rename-dir-limit 100000 BUCKET /mnt/runs; }'
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

exec 3>&2 # for what is called, whatever happens to the output of the call
PREEMPTED=75
ALONE=134 # SIGABRT: JAX ends a process so when another one of the run is gone
name="" zone="" project="" create="" version="" spot="" folder=crab_jax setup="" restarts=100 pause=60 dry=""
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
    --setup) need "$@"; setup="$2"; shift ;;
    --restarts) need "$@"; restarts="$2"; shift ;;
    --pause) need "$@"; pause="$2"; shift ;;
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
[[ "$pause" =~ ^[0-9]+$ ]] || fail "--pause $pause: expected a whole number of seconds"
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
      *) tpu delete "$name" --quiet || return ;;
    esac
  fi
  tpu create "$name" --accelerator-type "$create" --version "$version" ${spot:+"$spot"}
}

# Without help from set -e, which does nothing in what is called as a condition.
install() {
  local tree="$scratch/tree.tar.gz"
  if [ -z "$dry" ] && git rev-parse --is-inside-work-tree > /dev/null 2>&1; then
    git ls-files -z | tar --null --ignore-failed-read -czf "$tree" -T - || return
  elif [ -z "$dry" ]; then
    tar --exclude=./.venv -czf "$tree" . || return
  fi
  tpu scp "$tree" "$name:tree.tar.gz" --worker=all || return
  everywhere "mkdir -p $folder && tar -xzf tree.tar.gz -C $folder && cd $folder && . launch/environment.sh && bring_python && environment '[tpu]'"
}

attempt=0
again() { # WHY: counts a restart
  [ "$attempt" -lt "$restarts" ] || fail "gave up after $restarts restarts"
  attempt=$((attempt + 1))
  echo "== starting again ($attempt of at most $restarts), $*" >&2
}

# Every worker says with what its command ended; gcloud itself only says whether all went well.
command="$(printf '%q ' "$@")"
flags="${LIBTPU_INIT_ARGS:---xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000}" # see crab_jax/plan/hardware.py
remote="cd $folder && export LIBTPU_INIT_ARGS=$(printf %q "$flags") PATH=\"\$PWD/.venv/bin:\$PATH\" && { rc=0; ${setup:+eval $(printf %q "$setup") && }$command|| rc=\$?; echo \"worker ended with code \$rc\"; exit \$rc; }"

scratch="$(mktemp -d)"
log="$scratch/log"
trap 'rm -rf "$scratch"' EXIT
make || fail "$name could not be made; see above"
install || fail "the workers of $name could not be set up; see above"
while true; do
  rc=0
  everywhere "$remote" 2>&1 | tee "$log" || rc="${PIPESTATUS[0]}"
  [ -z "$dry" ] || exit 0
  [ "$rc" -ne 0 ] || exit 0
  codes="$(sed -n 's/.*worker ended with code \([0-9]\+\).*/\1/p' "$log" | sort -un | tr '\n' ' ')"
  now="$(state)"
  if [ "$now" = READY ]; then
    # Where one worker fails the others are stopped by it; what failed first is no pre-emption.
    for code in $codes; do
      case "$code" in
        0 | $PREEMPTED | $ALONE | 137 | 143) ;;
        *) echo "error: a worker ended with code $code" >&2; exit "$code" ;;
      esac
    done
    case " $codes" in
      *" $PREEMPTED "* | *" $ALONE "*) ;;
      *) echo "error: lost the workers of $name, which is $now" >&2; exit 1 ;;
    esac
  else # the workers that are left may end with anything
    [ -n "$create" ] || fail "$name is $now and --create was not given, so it is not made again"
  fi
  again "$name was $now, workers ended with: ${codes:-nothing}"
  [ "$now" = READY ] || until make && install; do
    sleep "$pause"
    again "$name could not be made or set up; see above"
  done
done
