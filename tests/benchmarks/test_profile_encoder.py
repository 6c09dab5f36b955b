"""The profile counts the FLOPs that fastbert_hf.flops counts, part by part, and bounds them by the machine's rates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastbert_kernels
import profile_encoder
from comparing import workload
from fastbert_hf import flops
from machine.work import Work, layer_work, run_work

RATES = {"avx2_float32": 100e9, "avx512_bfloat16": 400e9, "avx2_int8": 50e9, "memory": 10e9}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_parts_add_up_to_the_one_definition(dtype):
    model = workload.make_random_model("tiny")
    shape = flops.ModelShape.from_config(model.config)
    lengths = [3, 50, 128, 17]
    layers = layer_work(shape.hidden_size, shape.intermediate_size, lengths, dtype)
    want = flops.layer_flops(shape, lengths, "attention")
    assert sum(work.flops for work in layers.values()) == want.sum()

    exit_layers = [1, 4, 2, 4]
    counted = run_work(model.config, lengths, exit_layers, dtype, adaptive=True)
    assert sum(work.flops for part, work in counted.items() if part != "head") == (np.asarray(exit_layers) * want).sum()


def test_bytes_are_those_of_weights_and_rows():
    half = layer_work(8, 32, [3, 2], "bfloat16")
    assert half["qkv"].bytes == 2 * 8 * 24 + 5 * 2 * (8 + 24)
    assert half["output"].bytes == 2 * 32 * 8 + 5 * 2 * 32 + 5 * 4 * 8 + 5 * 2 * 8  # weights, rows, sums, residual
    int8 = layer_work(8, 32, [3, 2], "int8")
    assert half["qkv"].bytes - int8["qkv"].bytes == 8 * 24  # weights of one byte less, the same rows
    assert int8["attention"] == half["attention"] and int8["qkv"].operands == "int8"


def test_compaction_moves_rows_only_where_a_sample_leaves():
    config = workload.make_random_model("tiny").config  # four layers, hidden size 64
    assert run_work(config, [5, 7], [4, 4], "float32", adaptive=True)["compaction"].bytes == 0
    assert run_work(config, [5, 7], [2, 4], "float32", adaptive=True)["compaction"].bytes == 2 * 4 * 64 * 7


def test_work_in_different_dtypes_has_no_sum():
    with pytest.raises(ValueError, match="int8 and work in float32"):
        Work(1, 1, "int8") + Work(1, 1, "float32")


def test_nearest_bound_is_the_longer_time():
    assert profile_encoder.nearest_bound(Work(100, 100, "float32"), RATES) == ("memory", 1e-8)
    assert profile_encoder.nearest_bound(Work(10_000, 100, "float32"), RATES) == ("avx2_float32", 1e-7)
    assert profile_encoder.nearest_bound(Work(10_000, 1, "bfloat16"), RATES)[0] == "avx512_bfloat16"
    assert profile_encoder.nearest_bound(Work(10_000, 1, "int8"), RATES)[0] == "avx2_int8"


def test_shares_of_bounds():
    works = {"qkv": Work(10_000, 100, "float32"), "norm": Work(0, 100, "float32"), "compaction": Work(0, 0, "float32")}
    parts = {"qkv": 2e-7, "norm": 1e-7, "compaction": 1e-9, "host": 1e-7 - 1e-9}
    found = profile_encoder.bounds(parts, works, RATES)
    assert set(found) == {"qkv", "norm", "all"}
    assert found["qkv"]["share"] == pytest.approx(0.5) and found["norm"]["share"] == pytest.approx(0.1)
    assert found["all"]["share"] == pytest.approx((1e-7 + 1e-8) / 4e-7)
    page = profile_encoder.table(parts, 4e-7, found)
    assert "| qkv | 0.00 | 50.0% | 0.00 | 0.0 | 50 | avx2 float32 | 50% |" in page


def test_every_part_is_timed():
    model = workload.make_random_model("tiny")
    samples = workload.random_samples(4, "mixed", model, seed=0)
    patched = fastbert_kernels.patch(model)
    requests = list(samples.requests(4, model.device, samples.lengths.float() / 1000))
    measured = iter([{"memory": 1.0}, {"memory": 5.0}, {"memory": 2.0}])
    with torch.inference_mode():
        parts, total, rates = profile_encoder.profile(patched, requests, 3, lambda: next(measured))
    assert rates == {"memory": 2.0}
    assert set(run_work(model.config, [1], [1], "float32", adaptive=True)) | {"host"} == set(parts)
    assert all(seconds >= 0 for seconds in parts.values()) and sum(parts.values()) <= 2 * total
