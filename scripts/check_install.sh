#!/usr/bin/env bash
# The ways to install the package, each in an environment of its own: isolated build where no torch is (into a wheel), isolated
# build beside torch, editable, without build isolation, and from the source distribution. After each: the compiled module is found from a foreign folder and
# from the root of the sources, and patches a model. Takes about two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A clean copy: what is built in the work tree must not stand in for what the install builds.
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work" 2>/dev/null
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1 MAX_JOBS=2

# Only what an op needs to run; a second torch would cost minutes, so the one of .venv is lent through a .pth file.
borrowed=$("$root/${VENV:-.venv}/bin/python" -c "import torch, pathlib; print(pathlib.Path(torch.__file__).parent.parent)")
make_env() {
  python3 -m venv "$work/$1"
  [ "${2:-}" = no-torch ] || echo "$borrowed" > "$("$work/$1/bin/python" -c "import site; print(site.getsitepackages()[0])")/borrowed.pth"
}
check() {
  for folder in / "$2"; do
    (cd "$folder" && "$work/$1/bin/python" -c "
import fastbert_hf, fastbert_kernels, importlib.metadata, torch
assert fastbert_kernels.info()['backends']['cpu'] == 'available', fastbert_kernels.info()
from transformers import BertConfig
config = fastbert_hf.FastBertConfig(BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64))
model = fastbert_kernels.patch(fastbert_hf.FastBertForSequenceClassification(config).eval(), backend='cpu')
with torch.inference_mode():
    assert model(torch.ones(2, 5, dtype=torch.int64), speed=0.5).logits.shape == (2, 2)
")
  done
  "$work/$1/bin/fastbert" --help > "$work/help"
  grep -q demo "$work/help"
  echo "check_install: $1 ok"
}

make_env wheel no-torch
"$work/wheel/bin/python" -c "import torch" 2>/dev/null && { echo "check_install: torch is there already" >&2; exit 1; }
# Where there is an nvcc, the CUDA kernels are built here and only here, and a warning is an error.
NVCC_APPEND_FLAGS="-Werror all-warnings" "$work/wheel/bin/pip" wheel --no-deps --wheel-dir "$work/dist" "$work"
make_env isolated-without-torch
"$work/isolated-without-torch/bin/pip" install --no-deps "$work"/dist/*.whl
check isolated-without-torch "$work"

export FASTBERT_CUDA=OFF
make_env isolated-beside-torch
"$work/isolated-beside-torch/bin/pip" install --no-deps "$work"
check isolated-beside-torch "$work"

make_env no-build-isolation
"$work/no-build-isolation/bin/pip" install --upgrade "setuptools>=70.1" pybind11 ninja cmake
(cd "$work" && PATH="$work/no-build-isolation/bin:$PATH" "$work/no-build-isolation/bin/pip" install --no-build-isolation --no-deps .)
check no-build-isolation "$work"

# The source distribution, as python -m build and a bare machine see it; the CUDA kernels were built above.
"$work/no-build-isolation/bin/pip" install build
"$work/no-build-isolation/bin/python" -m build --sdist --outdir "$work/sdist" "$work" > "$work/sdist.log" || { cat "$work/sdist.log"; exit 1; }
make_env from-sdist
FASTBERT_CUDA=OFF "$work/from-sdist/bin/pip" install --no-deps "$work"/sdist/*.tar.gz
check from-sdist /
tar -tzf "$work"/sdist/*.tar.gz > "$work/sdist.names"
for name in LICENSE csrc/cpu CMakeLists.txt tests/conftest.py tests/helpers; do
  grep -q "^[^/]*/$name" "$work/sdist.names" || { echo "check_install: no $name in the sdist" >&2; exit 1; }
done
# From a folder of its own: where sources were built in place, their egg-info would be read instead.
(cd / && "$work/from-sdist/bin/python" -c "
import importlib.metadata
names = {str(path) for path in importlib.metadata.files('fastbert-kernels')}
for package in ('fastbert_kernels', 'fastbert_hf', 'fastbert_cli', 'fastbert_serving', 'fastbert_ray'):
    assert f'{package}/py.typed' in names, package
assert any(name.endswith('/LICENSE') for name in names)
")

make_env editable
"$work/editable/bin/pip" install --no-deps --editable "$work"
check editable "$work"
