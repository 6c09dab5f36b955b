#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one command of under nine minutes: builds without network, runs the GPU tests,
# compute-sanitizer on a short selection, and the benchmarks of the ops. Writes JSON and text into one folder.
#   scripts/gpu_check.sh [folder]        default: gpu-check-out
# Uses the Python on the PATH (PYTHON=... for another), which must have torch with CUDA, pytest, setuptools, pybind11.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-check-out}
python=${PYTHON:-python3}
mkdir -p "$out"

if ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" 2> /dev/null; then
  echo "gpu_check: $python has no torch that sees a CUDA device; nothing was checked" | tee "$out/summary.txt"
  exit 2
fi

status=0
step() {  # step NAME SECONDS command...: output into NAME.txt, one line into summary.txt
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  timeout --kill-after=10 "$limit" "$@" > "$out/$name.txt" 2>&1
  local code=$?
  [ $code -eq 0 ] || status=1
  echo "$name: exit $code, $((SECONDS - began)) s; $(tail -n 1 "$out/$name.txt" | cut -c1-200)" | tee -a "$out/summary.txt"
}

: > "$out/summary.txt"
capability=$("$python" -c "import torch; print('%d%d' % torch.cuda.get_device_capability())")
nvidia-smi > "$out/nvidia-smi.txt" 2>&1
step install 120 env FASTBERT_CUDA=ON FASTBERT_CUDA_ARCHS="$capability-real" \
  "$python" -m pip install --no-build-isolation --no-deps --force-reinstall .
step info 30 "$python" -c "import fastbert_kernels, json; print(json.dumps(fastbert_kernels.info(), indent=2))"
step gpu_tests 200 "$python" -m pytest -q -m gpu tests/gpu
step bench_exit_head 100 "$python" benchmarks/exit_head.py --device cuda --out "$out"
step bench_compaction 40 "$python" benchmarks/compaction.py --device cuda --out "$out"
if command -v compute-sanitizer > /dev/null; then
  selection="test_exit_head and 384 or test_compact and 0.5"
  step memcheck 70 compute-sanitizer --tool memcheck --error-exitcode 9 \
    "$python" -m pytest -q -m gpu tests/gpu/test_ops_on_gpu.py -k "$selection" -x
  step racecheck 70 compute-sanitizer --tool racecheck --error-exitcode 9 \
    "$python" -m pytest -q -m gpu tests/gpu/test_ops_on_gpu.py -k "test_exit_head and 384 and bfloat16" -x
else
  echo "sanitizer: compute-sanitizer is not on the PATH; not run" | tee -a "$out/summary.txt"
fi
# Last, and only with what is left: it needs transformers, and compiles.
if [ $SECONDS -lt 400 ] && "$python" -c "import transformers" 2> /dev/null; then
  step comparison 130 "$python" benchmarks/comparison.py --device cuda --minutes 1 --shapes BERT-base \
    --batches 1 32 128 --lengths mixed --only eager plain ours --out "$out"
fi
echo "gpu_check: $([ $status -eq 0 ] && echo passed || echo FAILED), $SECONDS s, results in $out" | tee -a "$out/summary.txt"
exit $status
