"""The ops as Triton kernels, one file each. Triton is imported here and nowhere else in the package."""

from fastbert_kernels.triton.attentive_head import attentive_head
from fastbert_kernels.triton.compact import compact
from fastbert_kernels.triton.pooled_exit_head import pooled_exit_head

__all__ = ["attentive_head", "compact", "pooled_exit_head"]
