"""A patched model refuses to be traced or exported, since the data decides which layers run."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import fastbert_kernels
from helpers.models import padded_batch, spread_model


def trace(model, batch):
    torch.jit.trace(lambda ids, mask: model(ids, mask).logits, (batch["input_ids"], batch["attention_mask"]))


def trace_by_dispatch(model, batch):
    from torch.fx.experimental.proxy_tensor import make_fx

    make_fx(lambda ids, mask: model(ids, mask).logits)(batch["input_ids"], batch["attention_mask"])


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        return self.model(ids, mask).logits


def trace_symbolically(model, batch):
    torch.fx.symbolic_trace(Logits(model))


def onnx_export(model, batch):
    torch.onnx.export(model, (batch["input_ids"], batch["attention_mask"]), "model.onnx", dynamo=False)


@pytest.mark.parametrize("tracer", [trace, trace_by_dispatch, trace_symbolically, onnx_export])
def test_tracers_are_refused(tracer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, batch = fastbert_kernels.patch(spread_model()), padded_batch([5, 9, 3])
    with torch.no_grad(), pytest.raises(Exception, match="the data decides which layers run"):
        tracer(model, batch)
    assert not list(tmp_path.iterdir())


def test_the_unpatched_model_can_be_traced_at_full_depth():
    """As the message says."""
    model, batch = spread_model(), padded_batch([5, 9, 3])
    fastbert_kernels.unpatch(fastbert_kernels.patch(model))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Logits(model).eval(), (batch["input_ids"], batch["attention_mask"]))
        want = model(**batch).logits
    torch.testing.assert_close(traced(batch["input_ids"], batch["attention_mask"]), want)
