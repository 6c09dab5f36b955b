"""Faults of the CUDA kernels that no result shows, or that stand in the instructions: tests/ptx runs their PTX."""

from faults.fault import Fault

PTX_COMPACT, PTX_POOLED, PTX_ATTENTIVE = (
    f"test_ptx_{kernel}.py" for kernel in ("compact", "pooled_exit_head", "attentive_head")
)
FAULTS = [
    Fault(
        "missing barrier: sums of the batch",
        "csrc/cuda/compact.cu",
        "  __syncthreads();\n  if (threadIdx.x < SUMS) {",
        "  if (threadIdx.x < SUMS) {",
        PTX_COMPACT,
    ),
    Fault(
        "missing barrier: a window of samples",
        "csrc/cuda/compact.cu",
        "    __syncthreads();\n    const int window_end =",
        "    const int window_end =",
        PTX_COMPACT,
    ),
    Fault(
        "a load past the row",
        "csrc/cuda/compact.cu",
        "if (base + i * WARP_SIZE < units) value[i]",
        "if (base + i * WARP_SIZE <= units) value[i]",
        PTX_COMPACT,
    ),
    Fault(
        "missing barrier: layers",
        "csrc/cuda/pooled_exit_head.cu",
        "    __syncthreads();\n    const int size =",
        "    const int size =",
        PTX_POOLED,
    ),
    Fault(
        "a token past the sample",
        "csrc/cuda/pooled_exit_head.cu",
        "token < length; token += slices",
        "token <= length; token += slices",
        PTX_POOLED,
    ),
    Fault(
        "missing barrier of a warp",
        "csrc/cuda/attentive_head_attention.cuh",
        "  __syncwarp();  // every lane",
        "  // every lane",
        PTX_ATTENTIVE,
    ),
    Fault(
        "copies are used before they arrive",
        "csrc/cuda/attentive_head_stream.cuh",
        "wait_for_all_but(arguments_.stages - 2)",
        "wait_for_all_but(arguments_.stages - 1)",
        PTX_ATTENTIVE,
    ),
    Fault(
        "missing barrier: stage is filled while read",
        "csrc/cuda/attentive_head_stream.cuh",
        "    __syncthreads();  // the chunk is there",
        "    // the chunk is there",
        PTX_ATTENTIVE,
    ),
    Fault(
        "a row past the tile",
        "csrc/cuda/attentive_head_shared.cuh",
        "inside && base + lane_row < count;",
        "inside && base + lane_row <= count;",
        PTX_ATTENTIVE,
    ),
    Fault(
        "missing barrier: scores (linear)",
        "csrc/cuda/attentive_head_linear.cuh",
        "    __syncthreads();\n    if (warp < num_heads) update_tile_softmax",
        "    if (warp < num_heads) update_tile_softmax",
        PTX_ATTENTIVE,
    ),
    Fault(
        "probabilities that nobody wrote (linear)",
        "csrc/cuda/attentive_head_linear.cuh",
        "if (threadIdx.x < TILE_TOKENS) scratch.score[num_heads",
        "if (threadIdx.x < 1) scratch.score[num_heads",
        PTX_ATTENTIVE,
    ),
    Fault(
        "cp.async: all bytes, also where none are valid",
        "csrc/cuda/ptx.cuh",
        '"r"(valid ? 16 : 0)',
        '"r"(16)',
        PTX_ATTENTIVE,
    ),
    Fault(
        "mma: parts of a fragment change places",
        "csrc/cuda/ptx.cuh",
        "{%4, %5, %6, %7}",
        "{%4, %6, %5, %7}",
        PTX_ATTENTIVE,
    ),
    Fault(
        "ldmatrix: registers change places",
        "csrc/cuda/ptx.cuh",
        "{%0, %1, %2, %3}, [%4];",
        "{%0, %2, %1, %3}, [%4];",
        PTX_ATTENTIVE,
    ),
]
