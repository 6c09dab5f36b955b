"""What `patch` refuses, and what a patched model refuses as the unpatched one does."""

from __future__ import annotations

import copy

import accelerate
import pytest
import torch
from accelerate.state import AcceleratorState
from torch._subclasses import FakeTensorMode

import fastbert_kernels
from helpers.models import spread_model
from helpers.patched import run


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"speed": 1.5}, ValueError, r"\[0, 1\]"),
        ({"speed": float("nan")}, ValueError, "NaN"),
        ({"speed": torch.tensor([0.5, -0.1])}, ValueError, r"sample\(s\) \[1\]"),
        ({"speed": torch.rand(3)}, ValueError, "shape"),
        ({"speed": "fast"}, TypeError, "number"),
        ({"attention_mask": torch.tensor([[1, 1], [0, 0]])}, ValueError, r"no valid token in row\(s\) \[1\]"),
        ({"attention_mask": torch.ones(2, 3)}, ValueError, "shape"),
        ({"input_ids": torch.rand(2, 2)}, TypeError, "int64 or int32"),
        ({"input_ids": torch.ones(2, dtype=torch.int64)}, ValueError, r"\[batch, length\]"),
        ({"input_ids": torch.ones(2, 513, dtype=torch.int64), "attention_mask": None}, ValueError, "truncat"),
    ],
)
def test_bad_input_is_refused_as_by_the_unpatched_model(change, error, message):
    model = spread_model()
    arguments = {
        "input_ids": torch.ones(2, 2, dtype=torch.int64),
        "attention_mask": torch.ones(2, 2),
        "speed": 0.5,
        **change,
    }
    for candidate in (model, fastbert_kernels.patch(copy.deepcopy(model))):
        with pytest.raises(error, match=message):
            run(candidate, arguments)


def test_what_cannot_be_patched_is_refused():
    with pytest.raises(TypeError, match=r"no exit heads yet.*from_backbone"):
        fastbert_kernels.patch(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"unknown backend 'fpga'; choose one of auto, cuda"):
        fastbert_kernels.patch(spread_model(), backend="fpga")
    with pytest.raises(ValueError, match="runs on cuda tensors"):
        fastbert_kernels.patch(spread_model(), backend="cuda")
    with pytest.raises(ValueError, match="dtype must be"):
        fastbert_kernels.patch(spread_model(), dtype=torch.float64)


def test_fake_tensors_are_refused():
    with FakeTensorMode(), pytest.raises(ValueError, match="cannot be patched.* is a FakeTensor"):
        fastbert_kernels.patch(spread_model())


@pytest.fixture
def fresh_accelerate():
    """accelerate has one state per process, which other tests leave behind."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda model: model.to("meta"), "on the meta device, without weights; load them first"),
        (lambda model: accelerate.cpu_offload(model, execution_device="cpu"), "offloaded or spread by accelerate"),
        (
            lambda model: accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(model),
            "prepared by accelerate, whose forward computes in mixed precision",
        ),
    ],
    ids=["meta", "offloaded", "prepared"],
)
def test_weights_that_are_elsewhere_are_refused_in_a_sentence(fresh_accelerate, wrap, message):
    model = wrap(spread_model())
    with pytest.raises(ValueError, match=message):
        fastbert_kernels.patch(model)
    assert not fastbert_kernels.is_patched(model)
