"""What is expected of an H200, by count and before any of it was measured, and what another outcome would mean.

The counts: 4.3 TB/s of copies, 600 TFLOP/s of products in bfloat16, 3 to 5 microseconds of a launch; docs/kernels.md
and docs/runtime.md derive what is built on them. Large batches of heads and compaction have 16,384 tokens, H = 768.
"""

from __future__ import annotations

from typing import NamedTuple


class Prediction(NamedTuple):
    """A figure of an item.

    Attributes:
        figure: its path in what the item returns.
        value: expected.
        meaning: of a figure that is off by more than half.
    """

    figure: str
    value: float
    meaning: str


_HEAD = "look at registers and at memory throughput in the profile of ncu: the floor is one read of the rows, 6 us"
_HOST = "the host is what a layer waits for: benchmarks/host_time.py says for which part, without the CUDA runtime"
_FP8 = "docs/gpu.md says what FP8 has to reach to stay: 1.6 times the products in bfloat16 at 16,384 tokens"
_OP = "the op is for callers of their own; the loops have one native call in its place (engine/cuda_ends.py)"

PREDICTIONS: dict[str, list[Prediction]] = {
    "machine": [
        Prediction("product_tflops", 600, "every figure that is made of products moves with it"),
        Prediction("copy_tb_per_s", 4.3, "every figure that is made of memory moves with it"),
        Prediction("launch.host_us", 4, "the plain loop's host time moves with it"),
    ],
    "cuda_head_bf16": [Prediction("us", 25, _HEAD), Prediction("host_us", 45, _OP)],
    "cuda_head_fp16": [Prediction("us", 30, _HEAD)],
    "cuda_head_fp32": [Prediction("us", 130, "float32 has no matrix units here: 3.2 GFLOP at 40 TFLOP/s are 80 us")],
    "cuda_linear_fp32": [Prediction("us", 35, "one read of 50 MB is 12 us; each token is looked at by two heads")],
    "cuda_compact": [Prediction("us", 12, "13 MB in and 13 MB out are 6 us"), Prediction("host_us", 35, _OP)],
    "cuda_pooled": [Prediction("us", 25, "128 x 128 rows are read once: 6 us, and a product of 768 x 768 a sample")],
    "triton_head_bf16": [Prediction("us", 40, _HEAD)],
    "triton_compact": [Prediction("us", 18, "two launches; 13 MB in and 13 MB out are 6 us")],
    "graph_chain": [
        Prediction("b1.graphed.us", 400, "12 layers of about 12 kernels of 2 to 3 us; conditions may cost more"),
        Prediction("b1.plain.us", 1200, _HOST),
        Prediction("b32.graphed.us", 900, "stages of 12 layers at 1,440 tokens, 35 us of products each"),
        Prediction("b1.record_seconds", 2, "recording belongs in front of traffic, the more the longer it takes"),
    ],
    "calls_at_once": [
        Prediction("b1.launches", 5, "numbers, ids and mask, graph, answers, and their copy: what else is there?"),
        Prediction("b1.waits", 1, "at the end; any other is one that the test with doubles does not see"),
        Prediction(
            "b1.at_once.us", 420, "up to 12 layers of 30 us, and some forty small kernels in front, in one graph"
        ),
        Prediction("b1.packed.us", 800, "fifty operations and a wait for the number of tokens in front of the same"),
        Prediction("b8.at_once.us", 600, "512 rows, of which 360 are tokens"),
    ],
    "layer_2048": [
        Prediction("fused.us", 90, "49 us of products; the rest is attention and three element-wise kernels"),
        Prediction("fused.host_us", 60, _HOST),
        Prediction("fp8.us", 82, _FP8),
        Prediction("fp8.host_us", 95, _HOST),
    ],
    "layer_16384": [
        Prediction("fused.us", 480, "390 us of products, 14 us each of element-wise kernels, attention"),
        Prediction("plain.us", 560, "two more passes over the rows in front of each LayerNorm"),
        Prediction("intermediate.us", 130, "77 GFLOP"),
        Prediction("intermediate_with_gelu.us", 135, "the epilogue is free, or the library has none for this shape"),
        Prediction("gelu.us", 47, "201 MB"),
        Prediction("fused_by_tanh.us", 440, "the same without a pass over 201 MB"),
        Prediction("fp8.us", 314, _FP8),
        Prediction("fp8.error", 0.1, "random weights, computed on a CPU; another error is another rounding"),
        Prediction("ways.varlen.us", 40, "FlashAttention 2 at 128 tokens a sample"),
        Prediction("ways.dense.us", 30, "cuDNN, where PyTorch takes it by itself; the host's share is 236 us if so"),
        Prediction("ways.padded.us", 120, "rows are gathered and put back: 75 MB each way, in a dozen launches"),
    ],
    "fp8_2048": [
        Prediction("bf16_us", 49, _FP8),
        Prediction("fp8_us", 34, _FP8),
        Prediction("qkv.fp8.host_us", 9, _HOST),
    ],
    "fp8_16384": [
        Prediction("bf16_us", 390, _FP8),
        Prediction("fp8_us", 215, _FP8),
        Prediction("qkv.error", 0.037, _FP8),
    ],
    "profile_b1": [
        Prediction("adaptive.us", 250, "four layers of one graph, and four launches and one wait around it"),
        Prediction("full_depth.us", 500, "the same with twelve layers"),
    ],
    "profile_b128_mixed": [
        Prediction("full_depth.us", 2000, "device: 12 layers of 5,600 tokens, 150 us each. Host: 12 layers of 60 us"),
        Prediction("adaptive.us", 1300, "three layers plainly, then the survivors in graphs"),
        Prediction("device_us", 900, "4 of 12 layers, heads and compaction"),
    ],
    "profile_b128_full": [
        Prediction("full_depth.us", 5900, "12 layers of 16,384 tokens, 480 us each"),
        Prediction("adaptive.us", 2300, "realisation of 0.9 of the FLOPs"),
    ],
}
