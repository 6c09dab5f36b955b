"""The packed encoder layer against the padded layer of Transformers, in float64, and the forms of its attention."""

from __future__ import annotations

import pytest
import torch

from fastbert_kernels.engine import attention
from fastbert_kernels.engine.encoder import encoder_layer
from fastbert_kernels.hosts import fastbert_hf as host
from support import cu_seqlens_of, spread_model


@pytest.mark.parametrize("lengths", [[5], [4, 4, 4], [1, 9, 2, 130, 64]])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_layer_equals_the_hosts(lengths, activation):
    model = spread_model(hidden_act=activation).double()
    layer = model.backbone.encoder.layer[1]
    packed = torch.randn(sum(lengths), 32, dtype=torch.float64)
    padded = torch.nn.utils.rnn.pad_sequence(packed.split(lengths), batch_first=True)
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        want = layer(padded, valid[:, None, None, :].expand(-1, 1, max(lengths), -1))[valid]
        weights = host.encoder_weights(model, None).layers[1].get()
        got = encoder_layer(packed, cu_seqlens_of(lengths), max(lengths), weights)
    assert (got - want).abs().max() < 1e-12


@pytest.mark.parametrize("lengths", [[7, 7], [1, 9, 2, 30]])
def test_padded_attention_equals_attention_per_sample(lengths):
    """The form for devices whose variable-length kernels do not take the dtype; `max_seqlen` may be too large."""
    qkv = torch.randn(3, sum(lengths), 4, 8, dtype=torch.float64)
    cu_seqlens = cu_seqlens_of(lengths)
    want = attention._per_sample(*qkv, cu_seqlens)
    assert (attention._padded(*qkv, cu_seqlens, max(lengths) + 3) - want).abs().max() < 1e-12
