"""The packed encoder layer against the padded layer of Transformers, in float64, and the forms of its attention."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastbert_kernels
from fastbert_kernels import ops
from fastbert_kernels.engine import attention
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.loop import LayerLoop
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.rule import Rule
from fastbert_kernels.hosts import fastbert_hf as host
from helpers.accuracy import packed_layer
from helpers.models import folded_head, spread_model
from helpers.op_inputs import cu_seqlens_of

FORMS_ON_A_GPU = [
    (torch.bfloat16, 64, True),
    (torch.float16, 8, True),
    (torch.bfloat16, 256, True),
    (torch.float16, 26, False),
    (torch.bfloat16, 264, False),
    (torch.float32, 64, False),
]


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
        got = host.encoder(model, None, "auto").get().layers[1](packed, cu_seqlens_of(lengths), max(lengths))
    assert (got - want).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("activation", "dtype", "backend", "kind"),
    [
        ("gelu", None, "auto", CompiledEncoder),
        ("relu", torch.bfloat16, "cpu", CompiledEncoder),
        ("gelu", torch.int8, "auto", CompiledEncoder),
        ("gelu", None, "reference", LayerLoop),
        ("gelu_new", None, "auto", LayerLoop),
        ("gelu", torch.float16, "auto", LayerLoop),
    ],
)
def test_which_encoder_runs(activation, dtype, backend, kind):
    encoder = host.encoder(spread_model(hidden_act=activation), dtype, backend).get()
    assert isinstance(encoder, kind)
    assert encoder.dtype == {None: torch.float32, torch.int8: torch.bfloat16}.get(dtype, dtype)


@pytest.mark.parametrize(("activation", "backend"), [("gelu_new", "auto"), ("gelu", "reference")])
def test_int8_names_what_it_needs(activation, backend):
    model = spread_model(hidden_act=activation)
    with pytest.raises(ValueError, match="dtype=torch.int8 needs the compiled CPU kernels, but .*bfloat16 instead"):
        fastbert_kernels.patch(model, dtype=torch.int8, backend=backend)
    assert not fastbert_kernels.is_patched(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("speed", [0.0, 0.3, 0.6, 1.0])
def test_compiled_loop_equals_a_loop_over_its_parts(dtype, speed):
    """The one native call against layers and heads one by one."""
    model = spread_model()
    lengths = [7, 1, 130, 3, 64, 2, 33, 9]
    encoder = host.encoder(model, dtype, "cpu").get()
    hidden = torch.randn(sum(lengths), 32).to(encoder.dtype)
    speeds = torch.full((len(lengths),), speed)
    got = encoder.run(
        PackedBatch(hidden, cu_seqlens_of(lengths), torch.arange(len(lengths)).int(), speeds, max(lengths)), Rule()
    )
    layers = [packed_layer(layer.weights, dtype) for layer in host.encoder(model, None, "reference").get().layers]
    heads = [folded_head(head, encoder.dtype).tensors for head in model.heads]
    for b, rows in enumerate(hidden.split(lengths)):
        for number, (layer, head) in enumerate(zip(layers, heads, strict=True), start=1):
            rows = layer(rows, cu_seqlens_of([lengths[b]]))
            logits, uncertainty, _, keep = ops.attentive_head(rows, cu_seqlens_of([lengths[b]]), speeds[:1], head)
            if not keep or number == len(heads):
                break
        assert got.exit_layer[b] == number
        torch.testing.assert_close(got.logits[b], logits[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got.uncertainty[b], uncertainty[0], rtol=1e-5, atol=1e-5)
    if speed == 0.6:
        assert got.exit_layer.unique().numel() > 1


@pytest.mark.parametrize("positions", [None, 30, 40])
@pytest.mark.parametrize("lengths", [[7, 7], [1, 9, 2, 30]])
def test_padded_attention_equals_attention_per_sample(lengths, positions):
    """The form for devices whose variable-length kernels do not take the dtype; `max_seqlen` may be too large."""
    heads = torch.randn(sum(lengths), 3, 4, 8, dtype=torch.float64)
    bias = None if positions is None else torch.randn(4, 2 * positions - 1, dtype=torch.float64)
    cu_seqlens = cu_seqlens_of(lengths)
    want = attention._per_sample(heads, cu_seqlens, bias)
    assert (attention._padded(heads, cu_seqlens, max(lengths) + 3, bias) - want).abs().max() < 1e-12


def test_a_bias_belongs_to_its_distance_and_head():
    """Only the score of the key two places behind its query grows, and only in the second head."""
    qkv, bias = torch.randn(6, 3 * 8, dtype=torch.float64), torch.zeros(2, 11, dtype=torch.float64)
    bias[1, 5 + 2] = 50.0
    cu_seqlens, value = cu_seqlens_of([6]), qkv[:, 16:]
    plain = attention.packed_attention(qkv, cu_seqlens, 6, 2)
    got = attention.packed_attention(qkv, cu_seqlens, 6, 2, bias)
    for same in ((slice(None), slice(0, 4)), (slice(4, None), slice(None))):
        torch.testing.assert_close(got[same], plain[same], rtol=0, atol=1e-12)
    torch.testing.assert_close(got[:4, 4:], value[2:, 4:], rtol=0, atol=1e-9)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dtype", "head_size", "varlen"), FORMS_ON_A_GPU)
def test_attention_on_a_gpu_takes_the_kernels_that_have_the_head_size(monkeypatch, dtype, head_size, varlen, biased):
    """FlashAttention has head sizes that are multiples of 8, up to 256; TinyBERT's is 26."""
    called = []
    for name in ("_varlen", "_padded"):
        monkeypatch.setattr(
            attention, name, lambda heads, *_, name=name: called.append(name) or heads.select(1, 0).flatten(1)
        )
    with FakeTensorMode():
        qkv = torch.empty(7, 3 * 2 * head_size, dtype=dtype, device="cuda")
        bias = torch.empty(2, 9, dtype=dtype, device="cuda") if biased else None
        attention.packed_attention(qkv, torch.empty(3, dtype=torch.int32, device="cuda"), 5, 2, bias)
    assert called == ["_varlen" if varlen and not biased else "_padded"]


def test_the_kernel_of_attention_is_called_as_it_is_declared():
    assert attention._flash_is_as_known()  # else the public function is called, which is slower
    with FakeTensorMode():
        heads = torch.empty(7, 3, 2, 64, dtype=torch.bfloat16, device="cuda")
        out = attention._varlen(heads, torch.empty(3, dtype=torch.int32, device="cuda"), 5)
    assert out.shape == (7, 128) and out.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_on_a_gpu_without_tokens(monkeypatch, dtype):
    """What is left when all samples with tokens have left. Neither form is asked; the padded one would look for a first
    row."""
    monkeypatch.setattr(attention, "_varlen", None)
    monkeypatch.setattr(attention, "_padded", None)
    with FakeTensorMode():
        qkv = torch.empty(0, 3 * 2 * 32, dtype=dtype, device="cuda")
        out = attention.packed_attention(qkv, torch.empty(3, dtype=torch.int32, device="cuda"), 5, 2)
        assert out.shape == (0, 64) and out.dtype == dtype


def test_padded_attention_keeps_a_bad_sample_to_itself():
    heads = torch.randn(12, 3, 4, 8, dtype=torch.float64)
    heads[0] = float("nan")
    out = attention._padded(heads, cu_seqlens_of([3, 7, 2]), 7)
    assert out[:3].isnan().any() and out[3:].isfinite().all()
