"""FastBERT's early exit, fast: `patch(model)` puts fused kernels and a packed runtime into a FastBERT model."""

from fastbert_kernels import ops
from fastbert_kernels._version import __version__
from fastbert_kernels.environment import info
from fastbert_kernels.hosts import register_host, unregister_host
from fastbert_kernels.patching import is_patched, patch, patch_info, unpatch

__all__ = [
    "__version__",
    "info",
    "is_patched",
    "ops",
    "patch",
    "patch_info",
    "register_host",
    "unpatch",
    "unregister_host",
]
