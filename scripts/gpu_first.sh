#!/usr/bin/env bash
# First minutes on a GPU: the package is built while Triton's kernels are tried, then every kernel, graphs and a layer by
# itself, the GPU tests, profiles, and the comparison end to end.
#   scripts/gpu_first.sh OUT [SECONDS]        all there is to know comes to lie in OUT/all.tgz; 270 seconds
# PYTHON names another interpreter; it needs torch with CUDA, triton, transformers, pytest, pybind11 and cmake. DEVICE=cpu is a
# rehearsal without a GPU, which builds nothing and runs no GPU test. docs/gpu.md says how to read it.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?name a folder for the results} total=${2:-270} python=${PYTHON:-python3} device=${DEVICE:-cuda}
work=$(mktemp -d)/gpu-first
. scripts/gpu_steps.sh
begin

[ "$device" = cpu ] || build & building=$!
smoke machine triton_head_bf16 triton_head_fp32 triton_linear_bf16 triton_compact triton_pooled
wait $building
note "Triton's kernels tried"
smoke cuda_head_bf16 cuda_head_fp16 cuda_head_fp32 cuda_head_c256 cuda_linear_fp32 cuda_compact cuda_compact_int8 \
  cuda_pooled graph_stages graph_chain calls_at_once
note "kernels and graphs tried: $(grep -c '"ok": true' "$work/smoke.jsonl") right, $(grep -c '"ok": false' "$work/smoke.jsonl") not"
if [ "$device" = cuda ]; then
  step gpu_tests 110 "$python" -m pytest -v -m gpu tests/gpu -n 8 -p no:cacheprovider --maxfail=60 --durations=15
fi
smoke layer_2048 layer_16384 fp8_2048 fp8_16384 profile_b1 profile_b128_mixed profile_b128_full
if [ "$device" = cuda ]; then
  step comparison 100 "$python" benchmarks/comparison.py --device cuda --minutes 0.5 --shapes BERT-base \
    --batches 1 128 --lengths mixed --only eager plain ours --out "$work"
fi
note "end"
