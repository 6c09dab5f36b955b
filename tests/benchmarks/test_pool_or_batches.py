"""The benchmark of texts that are all there at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import pool_or_batches as benchmark
from comparing.workload import Samples
from documents.serving import of_pool_or_batches

MACHINE = {"processor": "AMD EPYC", "date": "2026-11-30T15:00:00+00:00"}


def test_batches_hold_every_text_once_the_longest_first():
    samples = Samples([[7] * 5, [8] * 2, [9] * 9, [6] * 3])
    speeds = torch.tensor([0.5, 0.2, 0.9, 0.3])
    batches = list(benchmark.packed_batches(samples, speeds, max_tokens=8))
    assert [ids.tolist() for ids, _, _ in batches] == [[9] * 9, [7] * 5 + [6] * 3, [8] * 2]
    assert [cu_seqlens.tolist() for _, cu_seqlens, _ in batches] == [[0, 9], [0, 5, 8], [0, 2]]
    assert torch.equal(torch.cat([speeds for _, _, speeds in batches]), torch.tensor([0.9, 0.5, 0.3, 0.2]))


@pytest.mark.parametrize(("logit", "layer"), [(2.0, 1), (1.0, 2)])
def test_ways_that_differ_are_not_timed(logit, layer):
    outputs = [SimpleNamespace(logits=torch.tensor([[1.0]]), exit_layer=torch.tensor([1]))]
    benchmark.check_equal(outputs, [SimpleNamespace(logits=torch.tensor([1.0]), exit_layer=1)])
    with pytest.raises(RuntimeError, match="differ"):
        benchmark.check_equal(outputs, [SimpleNamespace(logits=torch.tensor([logit]), exit_layer=layer)])


def test_a_quick_run_times_both_ways(tmp_path, capsys):
    assert benchmark.main(["--quick", "--dtypes", "float32", "--out", str(tmp_path)]) == 0
    assert "| tiny | float32 |" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_the_documents_show_the_ratio_within_rounds():
    row = {"shape": "tiny", "dtype": "int8", "texts": 100, "seconds": {"batches": [1.0, 2.0, 4.0], "pool": [2.0] * 3}}
    told = of_pool_or_batches({"amd_avx2": {"machine": MACHINE, "rows": [row]}})
    assert "AMD EPYC, AVX2 ([pool_or_batches_cpu_amd_avx2.md]" in told
    assert "| tiny | int8 | 50 | 50 | 1.00x |" in told
    assert of_pool_or_batches({}) == "Not measured yet."
