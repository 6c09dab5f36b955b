"""Tiles of the processor itself, shared with the library behind PyTorch, which configures them for itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fastbert_kernels
from helpers.models import padded_batch, spread_model

SETS = fastbert_kernels.info()["cpu_instruction_sets"] or {}
pytestmark = pytest.mark.skipif(
    SETS.get("amx") != "in use",
    reason=f"tiles are not in use: {SETS.get('amx', 'the module has no instruction set amx')}",
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_neither_changes_what_the_other_computes(dtype):
    model = fastbert_kernels.patch(spread_model(hidden_size=128), dtype=dtype)
    batch = padded_batch([1, 5, 16, 17, 33, 64])
    left, right = torch.randn(70, 256).bfloat16(), torch.randn(256, 130).bfloat16()

    @torch.inference_mode()
    def both(_):
        return model(**batch, speed=0.4).logits, left @ right

    want = both(0)
    with ThreadPoolExecutor(2) as threads:
        for logits, product in [*map(both, range(10)), *threads.map(both, range(20))]:
            assert torch.equal(logits, want[0]) and torch.equal(product, want[1])
