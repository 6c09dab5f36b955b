#!/usr/bin/env bash
# The Triton kernels under the oldest version that is promised (pyproject.toml: 3.6.0, which torch 2.11 brings): compiled for
# every GPU, and interpreted.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${VENV:-.venv}/bin/python
folder=build/triton-3.6.0
if [ ! -d "$folder/triton" ] || [ ! -d "$folder/numpy" ]; then
  # Its interpreter takes arrays of one element for numbers, which NumPy allows no longer.
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder.partial" triton==3.6.0 "numpy<2.4"
  rm -rf "$folder"
  mv "$folder.partial" "$folder"
fi
export PYTHONPATH=$PWD/$folder OMP_NUM_THREADS=1
"$python" -c 'import triton; assert triton.__version__ == "3.6.0", triton.__version__'
"$python" -m pytest -n logical --dist worksteal tests/triton_kernels
