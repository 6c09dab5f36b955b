"""Faults of the C++ kernels for CPUs, which tests/ops compares with the reference."""

from faults.fault import Fault

FAULTS = [
    Fault(
        "scan: off by one",
        "csrc/cpu/compact.cpp",
        "out.cu_seqlens[++survivors] = tokens;",
        "out.cu_seqlens[survivors++] = tokens;",
        "test_compact.py",
    ),
    Fault(
        "order: state of the sample before",
        "csrc/cpu/compact.cpp",
        "out.sample_index[survivors] = batch.sample_index[b];",
        "out.sample_index[survivors] = batch.sample_index[b > 0 ? b - 1 : 0];",
        "test_compact.py",
    ),
    Fault(
        "Speed is not strict",
        "csrc/cpu/decision.cpp",
        "uncertainty < decision.speed[b]",
        "uncertainty <= decision.speed[b]",
        "test_attentive_head.py test_decision.py",
    ),
    Fault(
        "margin: the second is never above the first",
        "csrc/cpu/decision.cpp",
        "std::max(second, std::min(first, logits[i]))",
        "std::max(second, logits[i])",
        "test_attentive_head.py test_decision.py",
    ),
    Fault(
        "top k: one class too many",
        "csrc/cpu/decision.cpp",
        "set.normalised_entropy(largest.data(), k)",
        "set.normalised_entropy(largest.data(), k + 1)",
        "test_decision.py",
    ),
    Fault(
        "attention: scores are not scaled",
        "csrc/cpu/isa/attention.cpp",
        "const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(d));",
        "const float scale = 1.0f;",
        "test_encoder_layer.py",
    ),
    Fault(
        "relative positions: the other way round",
        "csrc/cpu/isa/attention.cpp",
        "const float* of_keys = bias - (first + r);",
        "const float* of_keys = bias - n + 1 + (first + r);",
        "test_encoder_layer.py",
    ),
    Fault(
        "relative positions: those of the first head",
        "csrc/cpu/encoder_layer.cpp",
        "bias += head * (2 * positions - 1) + positions - 1;",
        "bias += positions - 1;",
        "test_encoder_layer.py",
    ),
    Fault(
        "int8: the rows' shift is forgotten",
        "csrc/cpu/isa/product.cpp",
        "integers[c] - shift * column_sum[c]",
        "integers[c]",
        "test_encoder_layer.py",
    ),
    Fault(
        "16-bit rows times float32 weights: not widened to the end",
        "csrc/cpu/isa/rows.cpp",
        "const float* converted = as_float(values, dtype, count, out);",
        "const float* converted = as_float(values, dtype, count - 1, out);",
        "test_encoder_layer.py",
    ),
    Fault(
        "product: columns past a panel's end",
        "csrc/cpu/isa/product.cpp",
        "if (outputs - column >= kPanelWidth) {",
        "if (outputs - column >= 1) {",
        "test_encoder_layer.py",
    ),
    Fault(
        "unbiased LayerNorm: divided by H",
        "csrc/cpu/isa/rows.cpp",
        "static_cast<double>(count - 1)",
        "static_cast<double>(count)",
        "test_layer_norm.py",
    ),
    Fault(
        "chunks: the sample between two is left out",
        "csrc/cpu/encoder_layer.cpp",
        "    begin = end;",
        "    begin = end + 1;",
        "test_encoder_layer.py",
    ),
]
