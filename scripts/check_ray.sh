#!/usr/bin/env bash
# The deployment and the jobs on Ray (tests/on_ray), with two nodes on this machine. Ray and what it needs lie in a folder of
# their own, which other tests do not see.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${VENV:-.venv}/bin/python
folder=build/ray-2.60.0
if [ ! -d "$folder/ray" ]; then
  "$python" -m pip install --quiet --disable-pip-version-check --target "$folder.partial" "ray[data,serve]==2.60.0"
  rm -rf "$folder"
  mv "$folder.partial" "$folder"
fi
export PYTHONPATH=$PWD/$folder OMP_NUM_THREADS=1
"$python" -c 'import ray; assert ray.__version__ == "2.60.0", ray.__version__'
"$python" -m pytest tests/on_ray
