#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one command of at most nine minutes: builds without network, runs the GPU tests,
# compute-sanitizer on a short selection, and the benchmarks of the ops. Writes JSON and text into one folder.
#   scripts/gpu_check.sh [folder]        default: gpu-check-out
# Uses the Python on the PATH (PYTHON=... for another), which must have torch with CUDA, pytest, setuptools, pybind11,
# transformers; with pytest-xdist the tests, which compile a few hundred kernels, run side by side.
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
total=540
step() {  # step NAME SECONDS command...: output into NAME.txt, one line into summary.txt
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  [ "$limit" -le $((total - began)) ] || limit=$((total - began))
  if [ "$limit" -lt 10 ]; then
    status=1
    echo "$name: not run, of $total s $limit were left" | tee -a "$out/summary.txt"
    return
  fi
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
parallel=()
if "$python" -c "import xdist" 2> /dev/null; then parallel=(-n 6); fi
step gpu_tests 240 env OMP_NUM_THREADS=2 TORCHINDUCTOR_COMPILE_THREADS=2 \
  "$python" -m pytest -q -m gpu tests/gpu ${parallel[@]+"${parallel[@]}"}
step bench_exit_head 150 "$python" benchmarks/exit_head.py --device cuda --out "$out"
step bench_compaction 40 "$python" benchmarks/compaction.py --device cuda --out "$out"
if command -v compute-sanitizer > /dev/null; then
  # Without torch's own allocator, whose blocks are larger than the tensors in them.
  step memcheck 70 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 9 \
    "$python" -m pytest -q -m gpu tests/gpu/test_ops_on_gpu.py -x \
    -k "bfloat16 and (test_attentive_head and 384 or test_compact and 0.5)"
  step racecheck 70 compute-sanitizer --tool racecheck --error-exitcode 9 \
    "$python" -m pytest -q -m gpu tests/gpu/test_ops_on_gpu.py -x -k "bfloat16 and test_attentive_head and 384"
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
