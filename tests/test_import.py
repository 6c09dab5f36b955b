"""Importing must work with little: no compiled module, no Triton, no GPU; and must not start CUDA."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fastbert_kernels
from helpers import programs

ROOT = Path(__file__).resolve().parent.parent

LEAN = """
import sys
for name in ("triton", "transformers"):
    sys.modules[name] = None
import torch, fastbert_kernels
assert not torch.cuda.is_initialized()
backends = fastbert_kernels.info()["backends"]
assert (backends["reference"], backends["cpu"]) == ("available", "available"), backends
"""

NOT_COMPILED = """
import importlib.metadata, sys, warnings
sys.modules["fastbert_kernels._C"] = None
importlib.metadata.distributions = lambda **where: []
import torch, fastbert_kernels
from helpers.op_inputs import cast_attentive_head_inputs, attentive_head_inputs
inputs = cast_attentive_head_inputs(attentive_head_inputs([3, 2]), torch.float32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        fastbert_kernels.ops.attentive_head(*inputs)
said = [str(w.message) for w in caught if "falls back" in str(w.message)]
assert len(said) == 1 and "pip install ." in said[0], said
assert "pip install ." in fastbert_kernels.info()["backends"]["cpu"]
try:
    fastbert_kernels.ops.attentive_head(*inputs, backend="cpu")
except RuntimeError as error:
    assert "pip install ." in str(error)
else:
    raise AssertionError("a backend named explicitly must not fall back")
"""


def test_import_initialises_no_cuda_and_needs_neither_triton_nor_transformers():
    """Started in the root, where the sources lie, Python finds the compiled module all the same."""
    run = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr


def test_without_the_compiled_module_auto_falls_back_once_and_says_what_to_do():
    programs.succeed(NOT_COMPILED)


def test_info_is_plain_data():
    information = json.loads(json.dumps(fastbert_kernels.info()))
    assert information["version"] == fastbert_kernels.__version__
    assert information["backends"].keys() == {"cuda", "triton", "cpu", "reference"}
    sets = information["cpu_instruction_sets"]
    assert list(sets) == ["amx", "avx512_bf16", "avx512", "avx2", "portable"]
    assert [name for name, state in sets.items() if state == "in use"] == [information["cpu_instruction_set"]]
    assert (information["cpu_tile_rows"] is None) == (information["cpu_instruction_set"] != "amx")


def test_versions_agree():
    assert f'version = "{fastbert_kernels.__version__}"' in (ROOT / "pyproject.toml").read_text()
