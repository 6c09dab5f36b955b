"""Answers of a patched model against those of the same model unpatched, and that it was the patch that answered."""

from __future__ import annotations

import contextlib
import copy
import unittest.mock

import torch
from torch import nn

import fastbert_kernels
from fastbert_kernels import patched_calls
from fastbert_kernels.engine import loop
from fastbert_kernels.engine.cuda_ends import CudaEnds

LOGIT_TOLERANCE = {None: 1e-4, torch.bfloat16: 0.6, torch.int8: 1.2}  # of logits of the order of 10
UNCERTAINTY_TOLERANCE = {None: 1e-5, torch.bfloat16: 0.08, torch.int8: 0.16}


def run(model, batch, **arguments):
    with torch.inference_mode():
        return model(**batch, **arguments)


def assert_same_answers(model, batch, speed, backend="auto", dtype=None):
    """Patched against unpatched; a sample may change its exit layer only if some uncertainty lies at its Speed."""
    return assert_same_answers_at((speed,), model, batch, backend, dtype)[0]


def assert_same_answers_at(speeds, model, batch, backend="auto", dtype=None):
    """Do that at several Speeds, with one patched model, and return the answers and what was decided at each."""
    every = run(model, batch, output_all_exits=True)
    fast = fastbert_kernels.patch(copy.deepcopy(model), backend=backend, dtype=dtype)
    answers = []
    for speed in speeds:
        unpatched = run(model, batch, speed=speed)
        # The model itself answers where there is no sample.
        with only_the_fast_path(fast, fast.layers) if len(unpatched.logits) else contextlib.nullcontext():
            patched = run(fast, batch, speed=speed)
        answers.append((unpatched, patched, _assert_same(unpatched, patched, every, speed, model.config, dtype)))
    return answers


def _assert_same(unpatched, patched, every, speed, config, dtype):
    for name in ("logits", "uncertainty", "exit_layer"):
        assert patched[name].dtype == unpatched[name].dtype and patched[name].shape == unpatched[name].shape
    # Of a model with one output the uncertainty is a difference of two logits.
    near = 2 * LOGIT_TOLERANCE[dtype] if config.problem_type == "regression" else UNCERTAINTY_TOLERANCE[dtype]
    if speed is None:
        decided = torch.ones(len(unpatched.exit_layer), dtype=torch.bool)
    else:
        threshold = torch.as_tensor(speed).expand(len(unpatched.exit_layer))
        distance = (every.all_uncertainty[:, :-1] - threshold[:, None]).abs()
        decided = (distance > near).all(dim=1)
    assert torch.equal(patched.exit_layer[decided], unpatched.exit_layer[decided])
    if decided.any():
        assert (patched.logits - unpatched.logits)[decided].abs().max() < LOGIT_TOLERANCE[dtype]
        torch.testing.assert_close(patched.uncertainty[decided], unpatched.uncertainty[decided], rtol=0, atol=near)
    return decided


def assert_change_is_noticed(model, batch, change):
    """A model that was patched and asked answers like the unpatched one after `change(model)`, too."""
    fastbert_kernels.patch(model)
    stale = run(model, batch, speed=0.5).logits
    change(model)
    got = run(model, batch, speed=0.5)
    want = run(fastbert_kernels.unpatch(model), batch, speed=0.5)
    assert torch.equal(got.exit_layer, want.exit_layer)
    torch.testing.assert_close(got.logits, want.logits, rtol=0, atol=1e-4)
    assert not torch.allclose(got.logits, stale, atol=1e-3)


def assert_compiled_model_answers_alike(model, batch):
    """`torch.compile` of a patched model changes no bit."""
    with torch.no_grad():
        want = model(**batch, speed=0.5)
        torch._dynamo.reset()
        got = torch.compile(model, backend="aot_eager")(**batch, speed=0.5)
    for name in ("logits", "uncertainty", "exit_layer"):
        assert torch.equal(got[name], want[name])


def record_asked_layers(monkeypatch):
    """Return a list that is going to have the layers whose head the PyTorch loop evaluated."""
    layers = []
    original, native = loop.let_out, CudaEnds.let_out

    def let_out(head, batch, results, layer, *rest):
        layers.append(layer)
        return original(head, batch, results, layer, *rest)

    def let_out_natively(ends, layer, *rest):
        layers.append(layer)
        return native(ends, layer, *rest)

    monkeypatch.setattr(loop, "let_out", let_out)
    monkeypatch.setattr(CudaEnds, "let_out", let_out_natively)
    return layers


@contextlib.contextmanager
def only_the_fast_path(model, without=None):
    """Meanwhile patched models of the class of `model` cannot call their own forward, nor any Linear in `without`."""
    own, kind = patched_calls.Patch.own, type(model)
    linear = set() if without is None else {part for part in without.modules() if isinstance(part, nn.Linear)}
    call = nn.Module.__call__

    # Not by hooks or another forward, which a patched model notices.
    def checked_own(state, module, name):
        if name == "forward" and type(module) is kind:
            raise AssertionError(f"the own forward of {kind.__name__} answered, not the patch")
        return own(state, module, name)

    def checked_call(module, *args, **kwargs):
        if module in linear:
            raise AssertionError(
                f"a {type(module).__name__} of the model was called, which the packed engine does without"
            )
        return call(module, *args, **kwargs)

    with (
        unittest.mock.patch.object(patched_calls.Patch, "own", checked_own),
        unittest.mock.patch.object(nn.Module, "__call__", checked_call),
    ):
        yield model


def assert_auto_asks_random_texts(model, monkeypatch):
    """Check that dtype="auto" needs no texts from the user where the host has its own to offer."""
    monkeypatch.setenv("FASTBERT_PRODUCT_RATES", "float32=80 bfloat16=100 int8=80")
    found = fastbert_kernels.patch_info(fastbert_kernels.patch(model, dtype="auto"))
    assert "of 32 probe labels differ" in found["reason"]
