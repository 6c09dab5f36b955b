"""The packed encoder layer against the padded layer of Transformers, in float64, and the forms of its attention."""

from __future__ import annotations

import pytest
import torch

from fastbert_kernels.engine import attention
from fastbert_kernels.engine.encoder import CompiledLayer, TorchLayer
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
        packed_layer = host.encoder_weights(model, None, "auto").layers[1].get()
        got = packed_layer(packed, cu_seqlens_of(lengths), max(lengths))
    assert (got - want).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("activation", "dtype", "backend", "kind"),
    [
        ("gelu", None, "auto", CompiledLayer),
        ("relu", torch.bfloat16, "cpu", CompiledLayer),
        ("gelu", torch.int8, "auto", CompiledLayer),
        ("gelu", None, "reference", TorchLayer),
        ("gelu_new", None, "auto", TorchLayer),
        ("gelu", torch.float16, "auto", TorchLayer),
    ],
)
def test_which_layer_runs(activation, dtype, backend, kind):
    model = spread_model(hidden_act=activation)
    layer = host.encoder_weights(model, dtype, backend).layers[0].get()
    assert isinstance(layer, kind)
    assert layer.dtype == {None: torch.float32, torch.int8: torch.bfloat16}.get(dtype, dtype)


@pytest.mark.parametrize(("activation", "backend"), [("gelu_new", "auto"), ("gelu", "reference")])
def test_int8_names_what_it_needs(activation, backend):
    model = spread_model(hidden_act=activation)
    with pytest.raises(ValueError, match="dtype=torch.int8 needs the compiled CPU kernels"):
        host.encoder_weights(model, torch.int8, backend).layers[0].get()


@pytest.mark.parametrize("lengths", [[7, 7], [1, 9, 2, 30]])
def test_padded_attention_equals_attention_per_sample(lengths):
    """The form for devices whose variable-length kernels do not take the dtype; `max_seqlen` may be too large."""
    qkv = torch.randn(3, sum(lengths), 4, 8, dtype=torch.float64)
    cu_seqlens = cu_seqlens_of(lengths)
    want = attention._per_sample(*qkv, cu_seqlens)
    assert (attention._padded(*qkv, cu_seqlens, max(lengths) + 3) - want).abs().max() < 1e-12
