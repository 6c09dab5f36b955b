"""The Triton kernels compiled ahead of time for sm_80, sm_90 and sm_100, which needs no GPU: every configuration of the
table must fit the machine and not spill (tier 3).

Compiled in a process of its own (this file, run as a script, prints one line of JSON per kernel), so that neither the
interpreter nor a kernel cache of the user's plays a part.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton.language", reason="triton is not installed")

ARCHITECTURES = (80, 90, 100)
MATRIX_INSTRUCTION = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
# The assembler of an older Triton keeps up to 8 registers of a thread in memory in three configurations of sm_80, which
# were chosen with the newer one.
OLDER_TRITON, SPILLED_BY_OLDER = (3, 9), 32
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a program can have
SHARED_LIMIT_OF_SMALLER_GPUS = 99 * 1024  # 8.6, 8.9 and 12.0, which use the entries of sm_80
REGISTERS = 65_536  # of a multiprocessor


def compiled(script: str, architecture: int, cache: Path) -> list[dict[str, Any]]:
    """Run a file of tests as a script, and return what every kernel and configuration became on one architecture."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    root = Path(__file__).parents[2]
    paths = [str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")]
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, script, str(architecture)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-8000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.proof
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_the_kernels_take(architecture, tmp_path):
    """Nothing spills and shared memory fits, 16-bit heads use the tensor cores and float32 does not, and rows are
    copied 16 bytes at a time."""
    kernels = compiled(__file__, architecture, tmp_path)
    assert_every_configuration_is_there(kernels, architecture)
    version = tuple(map(int, importlib.metadata.version("triton").split(".")[:2]))
    spilled = SPILLED_BY_OLDER if version < OLDER_TRITON and architecture == 80 else 0
    for kernel in kernels:
        assert kernel["stack"] <= spilled and kernel["local"] == 0, kernel
        assert 0 < kernel["registers"] <= 255 and kernel["registers"] * 32 * kernel["num_warps"] <= REGISTERS, kernel
        assert kernel["shared"] <= SHARED_LIMIT[architecture], kernel
        assert architecture != 80 or kernel["shared"] <= SHARED_LIMIT_OF_SMALLER_GPUS, kernel
        if "attentive_head" in kernel["name"]:
            # The kernel that projects takes the newest instruction; the other has 16 rows, which may be too few for it.
            linear, half = kernel["name"].startswith("linear"), " fp32 H" not in kernel["name"]
            taken = {MATRIX_INSTRUCTION[architecture], *([MATRIX_INSTRUCTION[80]] if linear else [])}
            assert bool(taken & set(kernel["matrix_instructions"])) == half, kernel
    moves = [kernel for kernel in kernels if kernel["name"].startswith("compact_move")]
    assert len(moves) == (3 if architecture == 80 else 0) and all(move["wide_accesses"] for move in moves), moves


def assert_every_configuration_is_there(kernels, architecture):
    from fastbert_kernels.triton import configs

    table = configs.ATTENTIVE_HEAD[architecture]
    wanted = {("attentive_head", narrow, config) for (_, narrow), tiles in table.items() for config in tiles}
    wanted |= {
        ("linear_attentive_head", narrow, config) for (_, narrow), config in configs.LINEAR_ATTENTIVE_HEAD.items()
    }
    names = [kernel["name"] for kernel in kernels]
    assert len(set(names)) == len(names)
    for name, narrow, config in wanted:
        assert any(one.startswith(f"{name} C {narrow} ") and one.endswith(str(config)) for one in names)


@pytest.mark.parametrize(("dtype", "narrow_activation"), [("bfloat16", "tanh"), ("float32", "identity")])
def test_a_tracer_sees_the_kernels(dtype, narrow_activation):
    """What torch.compile needs to inline them: kernels in the graph instead of opaque calls."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("interpreted kernels cannot be traced")
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    from fastbert_kernels.exit_heads import AttentiveHeadWeights, HeadInputs
    from fastbert_kernels.reference import AttentiveHeadTensors
    from fastbert_kernels.triton.attentive_head import attentive_head
    from fastbert_kernels.triton.compact import compact
    from helpers.op_inputs import attentive_head_inputs, cast_attentive_head_inputs

    hidden, cu_seqlens, speed, head = cast_attentive_head_inputs(
        attentive_head_inputs([4, 3, 100]), getattr(torch, dtype)
    )
    wrap = torch.library.wrap_triton
    decided = (torch.zeros(3, 5), torch.zeros(3), torch.zeros(3, 2).int(), torch.zeros(3).bool())
    written = (torch.zeros(3, 5), torch.zeros(3), torch.zeros(3, dtype=torch.int64))

    def step(hidden, cu_seqlens, speed, *head):
        inputs = HeadInputs(hidden, cu_seqlens, speed, history=None, criterion="entropy", parameter=0)
        weights = AttentiveHeadWeights(AttentiveHeadTensors(*head), narrow_activation)
        attentive_head(decided, inputs, weights, wrap=wrap)
        logits, uncertainty, history, keep = decided
        index = torch.arange(3, dtype=torch.int32)
        moved = [torch.zeros_like(x) for x in (hidden, cu_seqlens, index, speed, history)]
        arguments = (hidden, cu_seqlens, keep, index, speed, history, logits, uncertainty, 4, *written)
        compact((*moved, torch.zeros(2).int()), *arguments, wrap=wrap)
        return moved[0]

    graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(hidden, cu_seqlens, speed, *head).graph
    assert [str(node.target) for node in graph.nodes].count("triton_kernel_wrapper_mutation") == 3


def compile_for(architecture: int) -> None:
    import triton

    from fastbert_kernels.criteria import Criterion
    from fastbert_kernels.triton import configs
    from fastbert_kernels.triton.attentive_head import _attentive_head_kernel, constants_of
    from fastbert_kernels.triton.compact import _move_kernel, _place_kernel
    from fastbert_kernels.triton.pooled_exit_head import _pooled_exit_head_kernel

    index_types = dict.fromkeys(("cu_seqlens_ptr", "history_ptr", "new_history_ptr"), "*i32")
    decision_types = {"keep_ptr": "*i1", "num_labels": "i32", "largest_entropy": "fp32", "parameter": "i32"}

    def head(config, narrow, dtype, hidden_size=768, labels=2, fold="fp32", criterion=Criterion.ENTROPY, **own):
        """A launch makes a constant of the number of heads where it is 1; else one compilation is for 2 to 8."""
        projected = own.pop("projected", True)
        own = {"NARROW_TANH": projected, **own}
        kind = "attentive_head" if projected else "linear_attentive_head"
        details = " ".join(["", *own])
        name = f"{kind} C {narrow} {dtype} H {hidden_size} N {labels} fold {fold} {criterion.value}{details} {config}"
        types = dict.fromkeys(("hidden_ptr", "projection_weight_ptr"), f"*{dtype}")
        types |= {"query_ptr": f"*{fold}", "value_ptr": f"*{fold}", **index_types, **decision_types}
        types |= dict.fromkeys(("num_heads", "num_tokens"), "i32")
        heads = own.get("num_heads", 8)
        values = constants_of(config, hidden_size, narrow, heads, labels, projected=projected)
        values |= {"MLP_TANH": True, "CRITERION": criterion.value, "HAS_HISTORY": True, "WIDEN": False, **own}
        resources(
            architecture, name, _attentive_head_kernel, types, "*fp32", values, config.num_warps, config.num_stages
        )

    largest = {"hidden_size": 1024, "labels": 1031, "criterion": Criterion.TOP_K_ENTROPY}
    table = configs.ATTENTIVE_HEAD[architecture]
    for (half, narrow), tiles in table.items():
        for config in dict.fromkeys(tiles):
            head(config, narrow, "bf16" if half else "fp32", **(largest if narrow == 256 else {}))
    for (half, narrow), config in configs.LINEAR_ATTENTIVE_HEAD.items():
        sizes = largest if narrow == 256 else {}
        head(config, narrow, "bf16" if half else "fp32", **sizes, projected=False)
    if architecture == 90:  # what the options of a head take differs little between architectures
        for config in dict.fromkeys(table[True, 128]):
            fp16 = {"labels": 1000, "fold": "fp16", "criterion": Criterion.TOP_K_ENTROPY}
            head(config, 128, "fp16", **fp16)
        odd = {
            "hidden_size": 136,
            "fold": "bf16",
            "criterion": Criterion.PATIENCE,
            "NARROW_TANH": False,
            "MLP_TANH": False,
            "num_heads": 1,
        }
        head(table[True, 128][1], 128, "bf16", **odd)
        many_classes = {"hidden_size": 1024, "labels": 1000, "criterion": Criterion.CONFIDENCE}
        head(table[False, 128][1], 128, "fp32", **many_classes)
        head(configs.LINEAR_ATTENTIVE_HEAD[True, 128], 128, "fp16", **{**odd, "fold": "fp16", "projected": False})

    if architecture != 80:
        return  # what follows has no matrix instructions, and one configuration for all architectures
    pooled = configs.POOLED_EXIT_HEAD
    for pooling, layers, dtype, criterion, activation, labels in (
        ("first", 1, "bf16", Criterion.TOP_K_ENTROPY, "identity", 1031),
        ("mean", 2, "fp16", Criterion.BINARY_ENTROPY, "relu", 5),
        ("max", 3, "fp32", Criterion.PATIENCE, "gelu", 2),
        ("max", 2, "bf16", Criterion.ENTROPY, "tanh", 1031),
    ):
        types = {
            **dict.fromkeys(("hidden_ptr", "weight_0_ptr", "weight_1_ptr", "weight_2_ptr"), f"*{dtype}"),
            **dict.fromkeys(("hidden_size", "size_1", "size_2", "scratch_size", "num_tokens"), "i32"),
            **index_types,
            **decision_types,
        }
        values = {
            "NUM_LAYERS": layers,
            "POOLING": pooling,
            "ACTIVATION": activation,
            "CRITERION": criterion.value,
            "HAS_HISTORY": True,
            "ALL_LABELS": triton.next_power_of_2(labels),
            "BLOCK_TOKENS": pooled.block_tokens,
            "BLOCK_COLUMNS": pooled.block_columns,
            "BLOCK": pooled.block,
        }
        name = f"pooled {pooling} {layers} layers {dtype} N {labels} {criterion.value}"
        resources(architecture, name, _pooled_exit_head_kernel, types, "*fp32", values, pooled.num_warps)

    compact = configs.COMPACT
    types = {"keep_ptr": "*i1", "speed_ptr": "*fp32", "new_speed_ptr": "*fp32"}
    types |= dict.fromkeys(("batch", "num_tokens", "num_results"), "i32")
    values = {"BLOCK_SAMPLES": compact.block_samples}
    resources(architecture, "compact_place", _place_kernel, types, "*i32", values, compact.num_warps)
    floats = ("logits_ptr", "uncertainty_ptr", "new_speed_ptr", "out_logits_ptr", "out_uncertainty_ptr")
    types = {**dict.fromkeys(floats, "*fp32"), "out_exit_layer_ptr": "*i64", "num_labels": "i32", "layer": "i32"}
    for word, labels in (("i32", 2), ("i16", 1031), ("i8", 40)):  # the widest that divides the bytes of a row
        types |= dict.fromkeys(("words_ptr", "new_words_ptr"), f"*{word}")
        most = min(triton.next_power_of_2(labels), 1024)
        values = {"ROW_WORDS": 384, "BLOCK_WORDS": compact.block_words, "BLOCK_LABELS": most}
        resources(architecture, f"compact_move {word}", _move_kernel, types, "*i32", values, compact.num_warps)


def resources(architecture, name, kernel, types, other_pointers, constants, num_warps, num_stages=3) -> None:
    """Compile `kernel` as a launch with 16-byte aligned tensors would, and print what it takes."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {n: "constexpr" if n in constants else types.get(n, other_pointers) for n in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if n.endswith(("_ptr", "scratch_size"))
    }
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
        "name": name,
        "num_warps": num_warps,
        "registers": used["REG"],
        "stack": used["STACK"],
        "local": used["LOCAL"],
        "shared": compiled.metadata.shared,
        "matrix_instructions": [name for name in MATRIX_INSTRUCTION.values() if name in ptx],
        "wide_accesses": "ld.global.v4" in ptx and "st.global.v4" in ptx,
        "rounds_to_fp8": "cvt.rn.satfinite.e4m3x2.f32" in ptx,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    compile_for(int(sys.argv[1]))
