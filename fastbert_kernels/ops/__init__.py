"""The ops, one file each. Importing this package registers them as `torch.ops.fastbert.*`."""

from fastbert_kernels.ops.compact import compact
from fastbert_kernels.ops.embed import embed
from fastbert_kernels.ops.exit_head import exit_head
from fastbert_kernels.ops.pooled_exit_head import pooled_exit_head
from fastbert_kernels.reference import AttentiveHeadTensors

__all__ = ["AttentiveHeadTensors", "compact", "embed", "exit_head", "pooled_exit_head"]
