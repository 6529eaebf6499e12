#!/usr/bin/env bash
# Makes crab-mini from nothing: renders its world, builds the shards, trains the six stages, scores it on clips that no
# stage has seen, and writes the folder that ships. docs/mini.md says what came out.
#
#   bash launch/train_mini.sh [--runs DIR] [--scale N] [--seed S] [--jobs J] [--ship DIR]
#
#   --runs   everything is written below it (default runs/mini); run it again to go on after any interrupt
#   --scale  so many times as many optimizer steps as the config says (default 1)
#   --seed   of the world (default 11)
#   --jobs   processes that render and build (default 1)
#   --ship   the folder for the weights (default RUNS/weights); what the repository has lies in crab_jax/assets/mini
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RUNS=runs/mini SCALE=1 SEED=11 JOBS=1 SHIP=
while [ $# -gt 0 ]; do
  case "$1" in
    --runs) RUNS=$2 ;; --scale) SCALE=$2 ;; --seed) SEED=$2 ;; --jobs) JOBS=$2 ;; --ship) SHIP=$2 ;;
    *) echo "train_mini: unknown option $1; see the head of launch/train_mini.sh" >&2; exit 2 ;;
  esac
  [ $# -ge 2 ] || { echo "train_mini: $1 needs a value" >&2; exit 2; }
  shift 2
done
SHIP=${SHIP:-$RUNS/weights}
source launch/environment.sh
environment ""
export PATH="$VENV/bin:$PATH"

say() { printf '\n== %s  (%s)\n' "$1" "$(date -u +%H:%M:%S)"; }

# Every task looks at whole seconds, so one picture per second is enough, and renders several times as fast.
world() { # CLIPS SHARE TASK…
  crab world --out "$RUNS/world" --seed "$SEED" --size 160x120 --fps 1 --jobs "$JOBS" \
    --clips "$1" --held-out "$2" --tasks "${@:3}"
}
say "rendering"
world 12000 0.01 pretrain-image
world 3000 0.01 pretrain-seg
world 4000 0.01 pretrain-audio
world 1500 0.07 s4
world 1200 0.05 arig
world 1000 0.08 ave avvp ms3
world 800 0.1 avcap
world 800 0.05 ref-avs
world 600 0.1 avss
world 400 0.15 avqa

say "building shards"
crab data build pretrain-image pretrain-seg pretrain-audio avqa ave avvp arig s4 ms3 avss ref-avs avcap \
  --root "$RUNS/world" --out "$RUNS/shards" --size 112 --jobs "$JOBS"

for stage in visual_pretrain seg_pretrain audio_pretrain finetune finetune_avs finetune_avss; do
  say "stage $stage"
  code=75
  while [ "$code" -eq 75 ]; do # 75: stopped and saved, go on
    code=0
    python -m launch.train --config "configs/train_mini.py:$stage,runs=$RUNS,scale=$SCALE" \
      --workdir "$RUNS/$stage" --config.data.shards="$RUNS/shards" || code=$?
  done
  [ "$code" -eq 0 ] || exit "$code"
done

say "weights"
crab convert "$RUNS/finetune" --avs "$RUNS/finetune_avs" --avss "$RUNS/finetune_avss" \
  --dtype float16 --single-file --out "$SHIP" --overwrite

say "what one can guess without a model"
crab world --baselines "$RUNS/world" | tee "$RUNS/baselines.txt"
say "scores on the test splits"
crab eval --task all --shards "$RUNS/shards" --weights "$SHIP" --out "$RUNS/eval" --batch 16
