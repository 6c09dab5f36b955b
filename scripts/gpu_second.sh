#!/usr/bin/env bash
# The next minutes on a GPU, when the first were read and what they found is mended: sanitizers side by side, since they are
# slow on the host and not on the card, then what is worth a number, alone on the card.
#   scripts/gpu_second.sh OUT [SECONDS]       as gpu_first.sh
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?name a folder for the results} total=${2:-270} python=${PYTHON:-python3} device=cuda
work=$(mktemp -d)/gpu-second
. scripts/gpu_steps.sh
begin

build
if command -v compute-sanitizer > /dev/null; then
  items=(cuda_head_bf16 cuda_head_c256 cuda_head_fp32 cuda_linear_fp32 cuda_compact cuda_pooled triton_head_bf16 triton_compact)
  for tool in memcheck racecheck initcheck; do
    # Without torch's own allocator, whose blocks are larger than the tensors in them.
    step "$tool" 110 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 \
      "$python" scripts/gpu_smoke.py --log "$work/$tool.jsonl" --small --repeats 1 --limit 100 "${items[@]}" &
  done
  wait
else
  note "compute-sanitizer is not on the PATH; not run"
fi
step compaction 25 "$python" benchmarks/compaction.py --device cuda --out "$work"
step exit_head 60 "$python" benchmarks/exit_head.py --device cuda --rounds 15 --out "$work"
if command -v ncu > /dev/null; then
  step ncu 30 ncu --clock-control none --set basic -k regex:attentive_head_kernel -c 3 \
    "$python" scripts/gpu_smoke.py --log "$work/ncu.jsonl" cuda_head_bf16
fi
step comparison 120 "$python" benchmarks/comparison.py --device cuda --minutes 1 --shapes BERT-base \
  --batches 8 32 128 --lengths full mixed --only eager plain ours --out "$work"
note "end"
