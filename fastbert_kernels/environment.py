"""`info()`: what this installation has, and why what is missing is missing."""

from __future__ import annotations

import platform
from typing import Any

import torch

from fastbert_kernels import _extension, threads
from fastbert_kernels._version import __version__
from fastbert_kernels.backends import BACKENDS
from fastbert_kernels.engine.attention import attention_choice
from fastbert_kernels.product_rates import product_rates

_WIDTHS = (384, 768)  # of MiniLM and BERT-base
_HEADS = 12  # of both


def info() -> dict[str, Any]:
    """Versions, the compiled module and the backends, as plain values that print and serialise.

    Returns:
        A dict with the keys version, python, torch, processors (those that this process may use), threads (that a
        call on the CPU takes), extension (path, or why it is missing), cpu_instruction_set, cpu_instruction_sets
        (name -> "in use", "available" or the reason why not), cpu_tile_rows (operand -> depth of a product -> the
        fewest rows that tile registers multiply, as measured; None where this thread has none), cpu_product_rates
        (hidden size of a layer -> precision -> GFLOP/s that a core was measured to reach in its products, and under
        "bfloat16_operand" what those in bfloat16 are multiplied in, some 40 ms the first time; None without the
        module), cuda_version and cuda_architectures (of the compiled kernels; None without), gpu_attention (hidden size
        of a layer in bfloat16 -> batch -> way to compute its attention -> microseconds, measured the first time; None
        without a GPU), device (of CUDA, or None), backends (name -> "available" or the reason why not).
    """
    thread_count, processor_count = threads.limits()
    module, detail = _extension.load()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processors": processor_count,
        "threads": thread_count,
        "extension": detail,
        "cpu_instruction_set": module.cpu_instruction_set() if module else None,
        "cpu_instruction_sets": module.cpu_instruction_sets() if module else None,
        "cpu_tile_rows": module.cpu_tile_rows() if module else None,
        "cpu_product_rates": {str(width): product_rates(width, 4 * width).as_dict() for width in _WIDTHS}
        if module
        else None,
        "cuda_version": module.cuda_version if module else None,
        "cuda_architectures": module.cuda_architectures if module else None,
        "gpu_attention": _gpu_attention(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "backends": {name: backend.unavailable() or "available" for name, backend in BACKENDS.items()},
    }


def _gpu_attention() -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda", torch.cuda.current_device())
    choices = {width: attention_choice(device, torch.bfloat16, _HEADS, width // _HEADS) for width in _WIDTHS}
    return {str(width): choice.as_dict() for width, choice in choices.items()}
