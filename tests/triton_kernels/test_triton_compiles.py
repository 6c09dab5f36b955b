"""The Triton kernels compiled ahead of time for sm_80, sm_90 and sm_100, which needs no GPU: every configuration of the
table must fit the machine and not spill (tier 3).

Compiled in a process of its own (this file, run as a script, prints one line of JSON per kernel), so that neither the
interpreter nor a kernel cache of the user's plays a part.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("triton.language", reason="triton is not installed")

ARCHITECTURES = (80, 90, 100)
MATRIX_INSTRUCTION = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a program can have
SHARED_LIMIT_OF_SMALLER_GPUS = 99 * 1024  # 8.6, 8.9 and 12.0, which use the entries of sm_80
REGISTERS = 65_536  # of a multiprocessor


@pytest.fixture(scope="module", params=ARCHITECTURES)
def kernels(request, tmp_path_factory):
    """What every kernel and configuration became on one architecture."""
    cache = str(tmp_path_factory.mktemp("triton"))
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    root = str(Path(__file__).parents[2])
    environment |= {"TRITON_CACHE_DIR": cache, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, __file__, str(request.param)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-8000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_every_configuration_is_there(kernels):
    from fastbert_kernels.triton import configs

    wanted = sum(len(set(tiles)) for tiles in configs.EXIT_HEAD[kernels[0]["architecture"]].values())
    assert len({kernel["name"] for kernel in kernels}) == len(kernels)
    assert sum("exit_head" in kernel["name"] for kernel in kernels) >= wanted


def test_nothing_spills(kernels):
    for kernel in kernels:
        assert kernel["stack"] == 0 and kernel["local"] == 0, kernel
        assert 0 < kernel["registers"] <= 255 and kernel["registers"] * 32 * kernel["num_warps"] <= REGISTERS, kernel


def test_shared_memory_fits(kernels):
    for kernel in kernels:
        assert kernel["shared"] <= SHARED_LIMIT[kernel["architecture"]], kernel
        assert kernel["architecture"] != 80 or kernel["shared"] <= SHARED_LIMIT_OF_SMALLER_GPUS, kernel


def test_16_bit_heads_use_the_tensor_cores_and_float32_does_not(kernels):
    for kernel in kernels:
        if "exit_head" in kernel["name"]:
            assert kernel["matrix_instruction"] == (" fp32 H" not in kernel["name"]), kernel


def test_rows_are_copied_16_bytes_at_a_time(kernels):
    (move,) = [kernel for kernel in kernels if kernel["name"] == "compact_move"]
    assert move["wide_accesses"], move


def test_a_tracer_sees_the_kernels():
    """What torch.compile needs to inline them: kernels in the graph instead of opaque calls."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("interpreted kernels cannot be traced")
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    from fastbert_kernels.triton.compact import compact
    from fastbert_kernels.triton.exit_head import exit_head
    from support import cast_exit_head_inputs, exit_head_inputs

    inputs = cast_exit_head_inputs(exit_head_inputs([4, 3, 100]), torch.bfloat16)
    results = [torch.zeros(3, 5), torch.zeros(3), torch.zeros(3, dtype=torch.int64)]

    def step(*inputs):
        logits, uncertainty, history, keep = exit_head(*inputs, wrap=torch.library.wrap_triton)
        index = torch.arange(3, dtype=torch.int32)
        arguments = (inputs[0], inputs[1], keep, index, inputs[2], history, logits, uncertainty, 4, *results)
        return compact(*arguments, wrap=torch.library.wrap_triton)

    graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs).graph
    assert [str(node.target) for node in graph.nodes].count("triton_kernel_wrapper_mutation") == 3


def compile_for(architecture: int) -> None:
    from fastbert_kernels.criteria import Criterion
    from fastbert_kernels.triton import configs
    from fastbert_kernels.triton.compact import _move_kernel, _place_kernel
    from fastbert_kernels.triton.exit_head import _exit_head_kernel, constants
    from fastbert_kernels.triton.pooled_exit_head import _pooled_exit_head_kernel

    def head(config, narrow, dtype, hidden_size=768, labels=2, fold="fp32", criterion=Criterion.ENTROPY):
        name = f"exit_head C {narrow} {dtype} H {hidden_size} N {labels} fold {fold} {criterion.value} {config}"
        types = dict.fromkeys(("cu_seqlens_ptr", "history_ptr", "new_history_ptr"), "*i32")
        types |= dict.fromkeys(("hidden_ptr", "projection_weight_ptr"), f"*{dtype}")
        types |= {"query_ptr": f"*{fold}", "value_ptr": f"*{fold}", "keep_ptr": "*i1", "log_classes": "fp32"}
        types |= dict.fromkeys(("pooled_size", "num_labels", "top_k", "patience"), "i32")
        values = {
            **constants(config, hidden_size, narrow, labels),
            **{"NARROW_TANH": True, "MLP_TANH": True, "CRITERION": criterion.code, "HAS_HISTORY": True, "WIDEN": False},
        }
        resources(architecture, name, _exit_head_kernel, types, "*fp32", values, config.num_warps, config.num_stages)

    table = configs.EXIT_HEAD[architecture]
    for (half, narrow), tiles in table.items():
        for config in dict.fromkeys(tiles):
            head(config, narrow, "bf16" if half else "fp32")
    for config in dict.fromkeys(table[True, 128]):
        head(config, 128, "fp16", labels=1000, fold="fp16", criterion=Criterion.TOP_K_ENTROPY)
    head(table[True, 128][1], 128, "bf16", hidden_size=136, fold="bf16", criterion=Criterion.PATIENCE)
    head(table[False, 128][1], 128, "fp32", hidden_size=1024, labels=1000, criterion=Criterion.CONFIDENCE)

    pooled = configs.POOLED_EXIT_HEAD
    for layers, pooling in ((1, 0), (2, 1), (3, 2)):
        types = {
            **dict.fromkeys(("hidden_ptr", "weight_0_ptr", "weight_1_ptr", "weight_2_ptr"), "*bf16"),
            **dict.fromkeys(("cu_seqlens_ptr", "history_ptr", "new_history_ptr"), "*i32"),
            **dict.fromkeys(("hidden_size", "size_1", "size_2", "num_labels", "scratch_size"), "i32"),
            **{"keep_ptr": "*i1", "log_classes": "fp32", "top_k": "i32", "patience": "i32"},
        }
        values = {
            **{
                "NUM_LAYERS": layers,
                "POOLING": pooling,
                "ACTIVATION": layers,
                "CRITERION": layers,
                "HAS_HISTORY": True,
            },
            **{"ALL_LABELS": 8, "BLOCK_TOKENS": pooled.block_tokens, "BLOCK_COLUMNS": pooled.block_columns},
            "BLOCK": pooled.block,
        }
        name = f"pooled {layers} layers"
        resources(architecture, name, _pooled_exit_head_kernel, types, "*fp32", values, pooled.num_warps)

    compact = configs.COMPACT
    types = {"keep_ptr": "*i1", "speed_ptr": "*fp32", "new_speed_ptr": "*fp32", "batch": "i32"}
    values = {"BLOCK_SAMPLES": compact.block_samples}
    resources(architecture, "compact_place", _place_kernel, types, "*i32", values, compact.num_warps)
    floats = ("logits_ptr", "uncertainty_ptr", "new_speed_ptr", "out_logits_ptr", "out_uncertainty_ptr")
    types = {**dict.fromkeys(floats, "*fp32"), "out_exit_layer_ptr": "*i64", "num_labels": "i32", "layer": "i32"}
    values = {"ROW_WORDS": 384, "BLOCK_WORDS": compact.block_words, "BLOCK_LABELS": 2}
    resources(architecture, "compact_move", _move_kernel, types, "*i32", values, compact.num_warps)


def resources(architecture, name, kernel, types, other_pointers, constants, num_warps, num_stages=3) -> None:
    """Compiles `kernel` as a launch with 16-byte aligned tensors would, and prints what it takes."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {n: "constexpr" if n in constants else types.get(n, other_pointers) for n in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if n.endswith("_ptr")}
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": num_warps, "num_stages": num_stages},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = subprocess.check_output([knobs.nvidia.cuobjdump.path, "-res-usage", cubin.name], text=True)
    used = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    ptx = compiled.asm["ptx"]
    line = {
        "architecture": architecture,
        "name": name,
        "num_warps": num_warps,
        "registers": used["REG"],
        "stack": used["STACK"],
        "local": used["LOCAL"],
        "shared": compiled.metadata.shared,
        "matrix_instruction": MATRIX_INSTRUCTION[architecture] in ptx,
        "wide_accesses": "ld.global.v4" in ptx and "st.global.v4" in ptx,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    compile_for(int(sys.argv[1]))
