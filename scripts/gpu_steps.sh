# What gpu_first.sh and gpu_second.sh share; they set: out, work, total, python.
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2 TORCHINDUCTOR_COMPILE_THREADS=4

# Everything so far in one archive, so that a machine that is taken away costs the step under way only.
pack() {
  tar -C "$(dirname "$work")" -czf "$out/.all.tgz" "$(basename "$work")" && mv "$out/.all.tgz" "$out/all.tgz"
  cp "$work/summary.txt" "$out/"
}

note() { echo "$SECONDS s: $*" | tee -a "$work/summary.txt"; }

# step NAME SECONDS command...: output into NAME.txt, a line into the summary. Interrupted rather than killed, so that
# pytest and the benchmarks tell what they have.
step() {
  local name=$1 limit=$2 began=$SECONDS code
  shift 2
  [ "$limit" -le $((total - began)) ] || limit=$((total - began))
  if [ "$limit" -lt 10 ]; then
    note "$name: no time left"
    return
  fi
  timeout --signal=INT --kill-after=8 "$limit" "$@" > "$work/$name.txt" 2>&1
  code=$?
  note "$name: exit $code, $((SECONDS - began)) s; $(tail -n 1 "$work/$name.txt" | cut -c1-160)"
  pack
}

# Items of gpu_smoke.py; once more from the next one wherever a process had to end.
smoke() {
  local try code
  for try in 1 2 3 4 5 6; do
    [ $((total - SECONDS)) -gt 15 ] || break
    timeout $((total - SECONDS)) "$python" scripts/gpu_smoke.py --log "$work/smoke.jsonl" --device "$device" "$@" \
      >> "$work/smoke.txt" 2>&1
    code=$?
    [ $code -gt 1 ] || break
  done
  pack
}

# Every requirement lies on the machine already; only this package is built.
build() {
  timeout 150 env FASTBERT_CUDA=ON FASTBERT_CUDA_ARCHS="$capability-real" MAX_JOBS=16 \
    "$python" -m pip install --no-build-isolation --no-deps --force-reinstall . > "$work/install.txt" 2>&1
  note "install: exit $?"
}

begin() {
  mkdir -p "$work" "$out"
  : > "$work/summary.txt"
  if [ "$device" = cuda ] && ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" 2> /dev/null; then
    note "$python has no torch that sees a CUDA device; nothing was tried"
    pack
    exit 2
  fi
  capability=$("$python" -c "import torch; print('%d%d' % torch.cuda.get_device_capability())" 2> /dev/null)
  nvidia-smi > "$work/nvidia-smi.txt" 2>&1
  trap pack EXIT
}
