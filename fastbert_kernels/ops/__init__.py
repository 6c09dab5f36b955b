"""The ops, one file each. Importing this package registers them as `torch.ops.fastbert.*`."""

from fastbert_kernels.ops.attentive_head import attentive_head
from fastbert_kernels.ops.compact import compact
from fastbert_kernels.ops.embed import embed
from fastbert_kernels.ops.hashed_bag import hashed_bag
from fastbert_kernels.ops.pooled_exit_head import pooled_exit_head
from fastbert_kernels.reference import AttentiveHeadTensors

__all__ = ["AttentiveHeadTensors", "attentive_head", "compact", "embed", "hashed_bag", "pooled_exit_head"]
