"""Faults of the CUDA kernels, which tests/cuda_on_cpu runs on the CPU."""

from faults.fault import Fault

ATTENTIVE, LINEAR, POOLED = "test_cuda_attentive_head.py", "test_cuda_linear_head.py", "test_cuda_pooled_head.py"
DECISION, COMPACT, DEPTH = "test_cuda_decision.py", "test_cuda_compact.py", "test_cuda_depth_graph.py"
FAULTS = [
    Fault(
        "token mask: one token too many",
        "csrc/cuda/attentive_head_attention.cuh",
        "if (token < count) {",
        "if (token <= count) {",
        ATTENTIVE,
    ),
    Fault(
        "token mask: one token too few (linear)",
        "csrc/cuda/attentive_head_linear.cuh",
        "const float value = lane < count ?",
        "const float value = lane < count - 1 ?",
        LINEAR,
    ),
    Fault(
        "missing barrier: scores",
        "csrc/cuda/attentive_head.cu",
        "    __syncthreads();\n    if (warp < num_heads) update_softmax",
        "    if (warp < num_heads) update_softmax",
        ATTENTIVE,
    ),
    Fault(
        "missing barrier: stage is filled while read",
        "csrc/cuda/attentive_head_stream.cuh",
        "    __syncthreads();  // the chunk is there",
        "    // the chunk is there",
        ATTENTIVE,
    ),
    Fault(
        "missing barrier: tile (linear)",
        "csrc/cuda/attentive_head_linear.cuh",
        "    __syncthreads();  // the tile is there",
        "    // the tile is there",
        LINEAR,
    ),
    Fault(
        "missing barrier: layers (pooled)",
        "csrc/cuda/pooled_exit_head.cu",
        "    __syncthreads();\n    const int size =",
        "    const int size =",
        POOLED,
    ),
    Fault(
        "copies are used before they arrive",
        "csrc/cuda/attentive_head_stream.cuh",
        "wait_for_all_but(arguments_.stages - 2)",
        "wait_for_all_but(arguments_.stages - 1)",
        ATTENTIVE,
    ),
    Fault(
        "online softmax: contexts not rescaled",
        "csrc/cuda/attentive_head_attention.cuh",
        "fmaf(*target, scratch.rescale[head], sum[c])",
        "*target + sum[c]",
        ATTENTIVE,
    ),
    Fault(
        "rows of a 16-bit fold counted as float32",
        "csrc/cuda/attentive_head_stream.cuh",
        "copy_fold<T, C>(stage, matrix, chunk_ * FOLD_ROWS<T, C>)",
        "copy_fold<T, C>(stage, matrix, chunk_ * FOLD_ROWS<float, C>)",
        ATTENTIVE,
    ),
    Fault("32-bit addressing", "csrc/cuda/sample_rows.cuh", "  int64_t first;", "  int first;", ATTENTIVE),
    Fault(
        "margin: the likeliest class is the second, too",
        "csrc/cuda/decision.cuh",
        "label != prediction && logits[label] > second",
        "label != prediction - num_labels && logits[label] > second",
        DECISION,
    ),
    Fault(
        "entropy normaliser: log(N + 1)",
        "csrc/cuda/decision.cuh",
        "logf(static_cast<float>(classes))",
        "logf(static_cast<float>(classes + 1))",
        DECISION,
    ),
    Fault(
        "top k: equal logits counted once", "csrc/cuda/decision.cuh", "static_cast<float>(k - above)", "1.0f", DECISION
    ),
    Fault(
        "prediction: the last of equals",
        "csrc/cuda/decision.cuh",
        "if (!(logits[label] > maximum)) continue;",
        "if (!(logits[label] >= maximum)) continue;",
        DECISION,
    ),
    Fault(
        "streak goes on after another prediction",
        "csrc/cuda/decision.cuh",
        "decision.history[2 * sample] == prediction",
        "decision.history[2 * sample] >= 0",
        DECISION,
    ),
    Fault(
        "Speed is not strict",
        "csrc/cuda/decision.cuh",
        "!(uncertainty < decision.speed[sample])",
        "!(uncertainty <= decision.speed[sample])",
        DECISION,
    ),
    Fault(
        "maximum passes over a NaN",
        "csrc/cuda/pooled_exit_head.cu",
        "return b > a || b != b ? b : a;",
        "return b > a ? b : a;",
        POOLED,
    ),
    Fault(
        "scan: off by one", "csrc/cuda/compact.cu", "if (i < warp) scan.before", "if (i <= warp) scan.before", COMPACT
    ),
    Fault(
        "order: survivors from the back",
        "csrc/cuda/compact.cu",
        "const int rank = survivors_of(before + scan.before);",
        "const int rank = sums[SURVIVORS] - 1 - survivors_of(before + scan.before);",
        COMPACT,
    ),
    Fault(
        "history is left behind",
        "csrc/cuda/compact.cu",
        "= batch.history[2 * static_cast<int64_t>(sample)];",
        "= batch.history[2 * static_cast<int64_t>(rank)];",
        COMPACT,
    ),
    Fault(
        "a condition that is true from the start",
        "csrc/cuda/depth_graph.cu",
        "&next, graph, 0, cudaGraphCondAssignDefault",
        "&next, graph, 1, cudaGraphCondAssignDefault",
        DEPTH,
    ),
    Fault("stages in no order", "csrc/cuda/depth_graph.cu", "last_ == nullptr ? 0 : 1", "0", DEPTH),
]
