"""FastBERT's early exit, fast: `patch(model)` puts fused kernels and a packed runtime into a FastBERT model."""

from fastbert_kernels import ops
from fastbert_kernels._version import __version__
from fastbert_kernels.environment import info
from fastbert_kernels.hosts import register_host, unregister_host
from fastbert_kernels.model_pool import ModelPool, pool
from fastbert_kernels.patching import is_patched, patch, patch_info, unpatch

__all__ = [
    "ModelPool",
    "__version__",
    "info",
    "is_patched",
    "ops",
    "patch",
    "patch_info",
    "pool",
    "register_host",
    "unpatch",
    "unregister_host",
]
