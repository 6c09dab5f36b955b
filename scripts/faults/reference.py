"""Faults of the reference in PyTorch, which tests/ops compares with the C++ kernels."""

from faults.fault import Fault

FAULTS = [
    Fault(
        "entropy normaliser: log(N + 1)",
        "fastbert_kernels/reference.py",
        "math.log(logits.shape[-1])",
        "math.log(logits.shape[-1] + 1)",
        "test_decision.py test_attentive_head.py",
    ),
    Fault(
        "Speed is not strict",
        "fastbert_kernels/reference.py",
        "return uncertainty < speed",
        "return uncertainty <= speed",
        "test_attentive_head.py test_decision.py",
    ),
]
