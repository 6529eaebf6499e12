#!/usr/bin/env bash
# Makes crab-mini from nothing: renders its world, builds the shards, trains its parts and the six stages, scores it on
# clips that no stage has seen, and writes the folder that ships. docs/mini.md says what came out, and how long it took.
#
#   bash launch/train_mini.sh [--runs DIR] [--scale N] [--seed S] [--jobs J] [--from FILE] [--round N] [--ship DIR]
#
#   --runs   everything is written below it (default runs/mini); run it again to go on after any interrupt
#            (some GiB, and up to 12 GiB of memory)
#   --scale  so many times as many optimizer steps, scenes and clips (default 1; 0.02 tries everything in some minutes)
#   --seed   of the world (default 11)
#   --jobs   processes that render and build (default 2)
#   --from   go on from these weights (crab_jax/assets/mini/params/base.safetensors) with other scenes: the eye is
#            taken as it is, all other parts learn on, then the stages
#   --round  with --from: which round this is (default 1); each has scenes of its own, and a --runs of its own
#   --ship   the folder for the weights (default RUNS/weights); what the repository has lies in crab_jax/assets/mini
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RUNS=runs/mini SCALE=1 SEED=11 JOBS=2 FROM= ROUND= SHIP=
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || { echo "train_mini: $1 needs a value; see the head of launch/train_mini.sh" >&2; exit 2; }
  case "$1" in
    --runs) RUNS=$2 ;; --scale) SCALE=$2 ;; --seed) SEED=$2 ;; --jobs) JOBS=$2 ;;
    --from) FROM=$2 ;; --round) ROUND=$2 ;; --ship) SHIP=$2 ;;
    *) echo "train_mini: unknown option $1; see the head of launch/train_mini.sh" >&2; exit 2 ;;
  esac
  shift 2
done
SHIP=${SHIP:-$RUNS/weights}
[ -z "$FROM" ] || [ -f "$FROM" ] || { echo "train_mini: --from $FROM: expected a safetensors file, found none" >&2; exit 2; }
[ -n "$FROM" ] || [ -z "$ROUND" ] || { echo "train_mini: --round $ROUND is for --from FILE, which is not there" >&2; exit 2; }
[[ "${ROUND:=1}" =~ ^[1-9][0-9]*$ ]] || { echo "train_mini: --round $ROUND: expected 1, 2, …" >&2; exit 2; }
LATER=${FROM:+$((10 * ROUND))} # added to the seeds of scenes and steps of a later round
source launch/environment.sh
environment ""
export PATH="$VENV/bin:$PATH"

say() { printf '\n== %s  (%s)\n' "$1" "$(date -u +%H:%M:%S)"; }

# A small program gives its memory back after every step, unless it is told not to: 15 % of the time.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=536870912

times() { python -c "import sys; print(max(int(sys.argv[2]), round(float(sys.argv[1]) * $SCALE)))" "$1" "${2:-1}"; }

# Every task looks at whole seconds, so one picture per second is enough, and renders several times as fast.
world() { # CLIPS SHARE TASK…
  crab world --out "$RUNS/world" --seed "$SEED" --size 160x120 --fps 1 --jobs "$JOBS" \
    --clips "$(times "$1" 8)" --held-out "$2" --tasks "${@:3}"
}

part() { # NAME SCENES STEPS LATER_STEPS SEED OPTIONS…
  [ -f "$RUNS/$1.safetensors" ] && return
  local steps=$3
  [ -z "$FROM" ] || steps=$4
  [ "$steps" -eq 0 ] || steps=$(times "$steps")
  python -m launch.pretrain_parts "$1" --log-every 500 --out "$RUNS/$1.safetensors" ${FROM:+--start "$FROM"} \
    --scenes "$(times "$2" 60)" --steps "$steps" --seed "$(($5 + LATER))" "${@:6}" > "$RUNS/$1.log" 2>&1
}

stage() { # NAME CORES
  local code=75
  while [ "$code" -eq 75 ]; do # 75: stopped and saved, go on
    code=0
    XLA_FLAGS="--xla_force_host_platform_device_count=$2" python -m launch.train \
      --config "configs/train_mini.py:$1,runs=$RUNS,scale=$SCALE" --workdir "$RUNS/$1" \
      --config.data.shards="$RUNS/shards" || code=$?
  done
  return "$code"
}

speech() { # NAME START STEPS SEED OPTIONS…; an interrupt starts it over
  [ -f "$RUNS/$1.safetensors" ] && return
  python -m launch.pretrain_language --out "$RUNS/$1.unfinished.safetensors" ${2:+--start "$2"} \
    --steps "$(times "$3")" --seed "$(($4 + LATER))" "${@:5}" > "$RUNS/$1.log" 2>&1 &&
    mv "$RUNS/$1.unfinished.safetensors" "$RUNS/$1.safetensors"
}

conclusions() { # from words alone: first looking names up, which is found late (earlier weights know it), then all
  local known=$FROM
  if [ -z "$FROM" ]; then
    speech among "" 900 5 --words 1 --among 0.85 --comparing 0 || return
    known=$RUNS/among.safetensors
  fi
  speech words "$known" 1800 4 --words 1 --among 0.1 --comparing 0.8
}

language() { # then with what eye, ear and projectors say, on two cores
  XLA_FLAGS=--xla_force_host_platform_device_count=2 speech language "$RUNS/words.safetensors" 14000 3 \
    --parts "$RUNS" --jobs "$JOBS" --stills "$(times 20000 60)" --videos "$(times 3200 60)" \
    --sounds "$(times 4000 60)" --music "$(times 4800 60)" --concerts "$(times 1400 20)"
}

alone() { # CORE COMMAND…: two programs that each use every core get in each other's way
  taskset -cp "$1" "$BASHPID" > /dev/null 2>&1 || true # not everywhere, and not with one core only
  "${@:2}"
}

both() { # two functions with their arguments, each in one word, on one core each
  say "$1, and at the same time $2"
  set -m # the first gets a process group of its own, so that all of it can be stopped
  alone 0 $1 & local one=$!
  set +m
  trap "kill -- -$one 2> /dev/null || true" EXIT # what is running must not outlive the script
  (alone 1 $2) || return
  wait "$one" || return
  trap - EXIT
}
trap 'exit 130' INT

mkdir -p "$RUNS"
# What is there is not done again: another beginning would get the parts and stages of this one.
BEGINNING=${FROM:+"round $ROUND from $(cksum < "$FROM")"}
BEGINNING=${BEGINNING:-from nothing}
[ -f "$RUNS/beginning" ] || echo "$BEGINNING" > "$RUNS/beginning"
[ "$(cat "$RUNS/beginning")" = "$BEGINNING" ] || {
  echo "train_mini: $RUNS was begun $(cat "$RUNS/beginning"), not $BEGINNING; choose another --runs" >&2
  exit 2
}
both "part eye 30000 6000 0 1" "part ear 15000 8000 6500 1"

say "rendering"
# What of the test splits is rendered with a share of the training split.
world 700 0.02 pretrain-image
world 400 0.02 pretrain-audio
world 300 0.05 pretrain-seg
world 250 0.4 s4
world 250 0.32 arig
world 200 0.3 ms3
world 250 0.32 ave avvp
world 200 0.375 avcap
world 150 0.3334 avss
world 200 0.3 ref-avs
world 300 0.1334 avqa
say "building shards"
crab data build pretrain-image pretrain-seg pretrain-audio avqa ave avvp arig s4 ms3 avss ref-avs avcap \
  --root "$RUNS/world" --out "$RUNS/shards" --size 112 --jobs "$JOBS"

both "part vl_projector 36000 9000 6000 2 --rows 48 --encoder $RUNS/eye.safetensors" \
  "part al_projector 9000 9000 6000 2 --rows 32 --rate 1e-3 --encoder $RUNS/ear.safetensors"
both "part decoder 12000 5000 1700 2 --rows 8 --encoder $RUNS/eye.safetensors" conclusions
say language
language
for name in visual_pretrain audio_pretrain seg_pretrain finetune; do
  say "stage $name"
  stage "$name" 2
done
both "stage finetune_avs 1" "stage finetune_avss 1"

say "weights"
crab convert "$RUNS/finetune" --avs "$RUNS/finetune_avs" --avss "$RUNS/finetune_avss" \
  --dtype float16 --single-file --out "$SHIP" --overwrite
say "what one can guess without a model"
crab world --baselines "$RUNS/world" | tee "$RUNS/baselines.md"
cp "$RUNS/world/bandstand/baselines.json" "$SHIP/baselines.json"
say "scores on the test splits, also with other clips' sounds and pictures"
crab eval --task all --shards "$RUNS/shards" --weights "$SHIP" --out "$RUNS/eval" --batch 16 --dtype float32 \
  --mode decoded --swap compare --baselines "$SHIP/baselines.json"
