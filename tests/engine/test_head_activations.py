"""Attentive heads without an activation, on a CPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.encoder import prepare_encoder
from fastbert_kernels.engine.layer import TorchLayer
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.rule import ENTROPY_RULE
from fastbert_kernels.engine.weights import AttentiveHeadWeights
from helpers.op_inputs import attentive_head_inputs, cast_attentive_head_inputs, cu_seqlens_of, layer_weights

LENGTHS = [5, 1, 9]


@pytest.mark.parametrize("narrow", ["tanh", "identity"])
@pytest.mark.parametrize("mlp", ["tanh", "identity"])
def test_the_encoder_applies_the_activations_of_the_head(narrow, mlp):
    layers = [layer_weights(32, 64, 4) for _ in range(2)]
    tensors = cast_attentive_head_inputs(attentive_head_inputs(LENGTHS, hidden_size=32), torch.float32)[3]
    head = dataclasses.replace(AttentiveHeadWeights(tensors), narrow_activation=narrow, mlp_activation=mlp)
    other = dataclasses.replace(head, mlp_activation="identity" if mlp == "tanh" else "tanh")
    single = [TorchLayer.cast(layer, torch.float32) for layer in layers]
    hidden = torch.randn(sum(LENGTHS), 32)

    def run(loop):
        samples = len(LENGTHS)
        index = torch.arange(samples, dtype=torch.int32)
        batch = PackedBatch(hidden.clone(), cu_seqlens_of(LENGTHS), index, torch.zeros(samples), max(LENGTHS))
        return loop.run(batch, ENTROPY_RULE).logits

    encoder = prepare_encoder([layer.weights for layer in single], [head, head], None, "cpu")
    assert isinstance(encoder, CompiledEncoder) == (narrow == "tanh")
    want = run(LayerLoop(single, [head, head], "reference"))
    torch.testing.assert_close(run(encoder), want, rtol=0, atol=1e-4)
    assert not torch.allclose(run(LayerLoop(single, [other, other], "reference")), want, atol=1e-2)
