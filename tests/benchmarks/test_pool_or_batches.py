"""The benchmark of texts that are all there at once, and what the documents say of a server."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import pool_or_batches as benchmark
from comparing.workload import Samples
from documents.serving import of_pool_or_batches, of_processes, soaked
from soaking.clients import IN_FLIGHT

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


def test_the_documents_show_what_came_of_the_soak_and_of_processes():
    counts = {
        "asked": 1000,
        "answered": 990,
        "told by a broken connection": 7,
        "told by 503": 3,
        "nonsense: 422": 3,
        "a wrong key: 401": 4,
    }
    soak = {
        "machine": MACHINE,
        "held": True,
        "faults": [],
        "minutes": 30.0,
        "model": "4 layers of 64",
        "clients": 16,
        "load_average": 2.1,
        "rounds": [{"answered_per_second": 80.2}, {"answered_per_second": 70.7}],
        "requests": counts,
        "memory_mib_early": 500.2,
        "memory_mib_late": 501.4,
        "seconds_from_kill_to_ready": 4.31,
    }
    told = soaked({"amd_avx2": soak})
    assert "- held: 30 minutes, 4 layers of 64, 16 clients, 71 to 80 answers a second" in told
    assert "- of 1,000 requests 990 were answered, all rightly; 3 were told to come again, and 7 by their" in told
    assert "- 7 bad requests" in told and "not looked at yet" in told and "fault" not in told
    assert "memory 500 MiB in the second fifth of the time, 501 MiB" in told and "4.3 seconds" in told
    flight = counts | {IN_FLIGHT: 9}
    assert "- 9 were in flight at SIGTERM, and none of" in soaked({"amd_avx2": soak | {"requests": flight}})
    failed = soaked({"amd_avx2": soak | {"held": False, "faults": ["a wrong answer"], "requests": flight}})
    assert "- did not hold:" in failed and "- fault: a wrong answer" in failed
    assert "rightly" not in failed and "none of" not in failed
    turns = {
        "one process": [{"requests_per_second": 10.0, "cpu_seconds_per_1000": 5.0}],
        "2 processes": [{"requests_per_second": 12.0, "cpu_seconds_per_1000": 6.0}],
    }
    about = {
        "model": "4 layers of 64",
        "clients": 16,
        "rounds": 1,
        "seconds": 4.0,
        "weights_mib": 9,
        "load_average": 3.6,
    }
    result = {"machine": MACHINE, "turns": turns, **about, "memory_mib": {"one process": 100, "2 processes": 200}}
    told = of_processes({"amd_avx2": result})
    assert "4 layers of 64, 16 clients with 1 to 4 texts a request; medians of 1 turns of 4 s" in told
    assert "| 2 processes | 12.0 (12.0 to 12.0) | 1.20x | 6.0 (6.0 to 6.0) | 200 MiB |" in told
