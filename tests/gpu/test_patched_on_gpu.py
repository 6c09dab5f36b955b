"""A patched model on a GPU against the same model unpatched on the same GPU."""

from __future__ import annotations

import copy

import pytest
import torch

import fastbert_kernels
from fastbert_kernels.backends import BACKENDS
from fastbert_kernels.hosts import fastbert_hf as host
from helpers.families import random_model
from helpers.models import padded_batch, spread_model

pytestmark = pytest.mark.gpu

LENGTHS = [1, 2, 3, 128, 5, 64, 63, 65] * 4
TOLERANCE = {None: 1e-3, torch.bfloat16: 0.6}
GPU_BACKENDS = ["auto", "reference", *(name for name, backend in BACKENDS.items() if backend.device_type == "cuda")]


@pytest.mark.parametrize("backend", GPU_BACKENDS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("speed", [None, 0.3, 0.8, 1.0])
def test_patched_equals_unpatched(backend, dtype, speed):
    if backend in BACKENDS and (reason := BACKENDS[backend].unavailable()):
        pytest.skip(f"backend {backend}: {reason}")
    model = spread_model().cuda()
    batch = {name: tensor.cuda() for name, tensor in padded_batch(LENGTHS).items()}
    patched = fastbert_kernels.patch(copy.deepcopy(model), backend=backend, dtype=dtype)
    with torch.inference_mode():
        want, got = model(**batch, speed=speed), patched(**batch, speed=speed)
        every = model(**batch, output_all_exits=True).all_uncertainty[:, :-1]
    decided = torch.ones_like(want.exit_layer, dtype=torch.bool)
    if speed is not None:
        decided = ((every - speed).abs() > (1e-4 if dtype is None else 0.08)).all(dim=1)
    assert decided.any() and torch.equal(got.exit_layer[decided], want.exit_layer[decided])
    assert (got.logits - want.logits)[decided].abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_relative_positions(dtype):
    model = random_model("mpnet").cuda()
    batch = {name: tensor.cuda() for name, tensor in padded_batch(LENGTHS).items()}
    patched = fastbert_kernels.patch(copy.deepcopy(model), dtype=dtype)
    with torch.inference_mode():
        want, got = model(**batch), patched(**batch)
    assert (got.logits - want.logits).abs().max() < TOLERANCE[dtype]


def test_moving_a_patched_model_to_the_gpu_and_back():
    model, batch = fastbert_kernels.patch(spread_model()), padded_batch(LENGTHS)
    with torch.inference_mode():
        here = model(**batch, speed=0.5)
        model.cuda()
        there = model(**{name: tensor.cuda() for name, tensor in batch.items()}, speed=0.5)
        model.cpu()
        back = model(**batch, speed=0.5)
    assert torch.equal(here.logits, back.logits)
    assert (there.logits.cpu() - here.logits)[there.exit_layer.cpu() == here.exit_layer].abs().max() < 1e-3


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_calls_that_one_graph_answers(monkeypatch, backend):
    """From their ids on, against the same packed in front of the graph; a wrong input is an error, and no end."""
    if backend in BACKENDS and (reason := BACKENDS[backend].unavailable()):
        pytest.skip(f"backend {backend}: {reason}")
    model = fastbert_kernels.patch(
        spread_model().cuda(), backend=backend, warm_up=[(17, 1, 17), (60, 3, 20), (512, 8, 64)]
    )
    asked = []
    own = host.answer_at_once
    monkeypatch.setattr(host, "answer_at_once", lambda *call: asked.append(own(*call)) or asked[-1])
    with torch.inference_mode():
        for lengths in ([17], [3, 20, 1], [64, 5] * 4, [2]):
            batch = {name: tensor.cuda() for name, tensor in padded_batch(lengths).items()}
            for speed in (None, 0.5):
                got = model(**batch, speed=speed)
                with monkeypatch.context() as packed:
                    packed.setattr(host, "answer_at_once", lambda *call: None)
                    want = model(**batch, speed=speed)
                same = got.exit_layer == want.exit_layer
                assert same.float().mean() > 0.8
                assert (got.logits - want.logits)[same].abs().max() < TOLERANCE[None]
        assert len(asked) == 8 and None not in asked
        batch["input_ids"][0, 0] = 97
        with pytest.raises(ValueError, match="token id 97 in row 0"):
            model(**batch, speed=0.5)
        batch["input_ids"][0, 0] = 5
        assert model(**batch, speed=0.5).logits.isfinite().all()
