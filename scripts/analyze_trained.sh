#!/usr/bin/env bash
# Makes the pictures and figures of docs/when_it_pays.md, from models that benchmarks/training.py trained and kept:
#
#   python benchmarks/training.py --data DATA --tasks sst2 mrpc --variants distilled joint --seeds 2 --run MODELS
#   scripts/analyze_trained.sh DATA MODELS 1
#
# The models are copied, calibrated on every second line of test.tsv (their epochs were chosen by dev.tsv) and analyzed on
# the others; no text of the data goes into any output. Times are measured too, so nothing else should run.
set -euo pipefail

if [[ $# -ne 3 ]]; then
  echo "usage: $0 DATA MODELS SEED   (the head of this file says more)" >&2
  exit 2
fi
data=$(realpath "$1") models=$(realpath "$2") seed=$3
root=$(cd "$(dirname "$0")/.." && pwd)
fastbert=$root/.venv/bin/fastbert

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ln -s "$data" "$work/data"
cd "$work" # the outputs name models and data as seen from here

# analyze TASK MAX_LENGTH PICTURES [OTHER VARIANT]
analyze() {
  local task=$1 max_length=$2 pictures=$3 compare=()
  local name=$task-distilled-$seed
  cp -r "$models/$name" .
  awk 'NR == 1 || NR % 2 == 0' "data/$task/test.tsv" >"$task-calibration.tsv"
  awk 'NR == 1 || NR % 2 == 1' "data/$task/test.tsv" >"$task-test.tsv"
  "$fastbert" calibrate "$name" --data "$task-calibration.tsv" --max-length "$max_length" --max-drop 0.02
  if [[ $# -gt 3 ]]; then
    cp -r "$models/$task-$4-$seed" .
    compare=(--compare "$task-$4-$seed")
  fi
  "$fastbert" analyze "$name" --data "$task-test.tsv" --train "data/$task/train.tsv" \
    --max-length "$max_length" --no-texts \
    "${compare[@]}" --out "$task"
  mkdir -p "$root/docs/pictures"
  for picture in $pictures; do
    cp "$task/figures/$picture.png" "$root/docs/pictures/${task}_$picture.png"
  done
  cp "$task/analysis.json" "$root/benchmarks/results/analysis_${task}_cpu.json"
  cp "$name/fastbert_calibration.json" "$root/benchmarks/results/calibration_${task}_cpu.json"
}

analyze sst2 64 "accuracy_by_uncertainty uncertainty_by_layer exit_layers accuracy_and_flops accuracy_and_time changed_predictions"
analyze mrpc 128 "accuracy_and_flops accuracy_and_time" joint
