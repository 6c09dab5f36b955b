"""attentive_head: every backend against float64, odd shapes, bad values and bad arguments, and the contracts of
torch.library."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies

from fastbert_kernels import ops, reference
from helpers.accuracy import assert_attentive_head_is_accurate
from helpers.op_inputs import attentive_head_inputs, cast_attentive_head_inputs, map_tensors

BACKENDS = ["cpu", "reference"]
ODD_LENGTHS = [1, 5, 64, 100, 2, 63, 65, 129]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("hidden_size", "narrow", "heads", "labels"), [(48, 64, 2, 5), (384, 128, 2, 2), (8, 64, 1, 1000), (136, 256, 8, 3)]
)
def test_accuracy_on_odd_lengths(poisoned_memory, backend, dtype, hidden_size, narrow, heads, labels):
    inputs = attentive_head_inputs(ODD_LENGTHS, hidden_size, narrow, heads, labels)
    assert_attentive_head_is_accurate(inputs, dtype, backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("narrow_activation", ["tanh", "identity"])
def test_the_largest_sizes(poisoned_memory, dtype, narrow_activation):
    inputs = attentive_head_inputs([512, 3, 513, 1], 1024, 256, 8, 1031)
    assert_attentive_head_is_accurate(inputs, dtype, "cpu", narrow_activation=narrow_activation)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    lengths=strategies.lists(strategies.integers(1, 80), min_size=1, max_size=12),
    hidden_size=strategies.integers(1, 130),
    narrow=strategies.sampled_from([64, 128, 256]),
    heads=strategies.integers(1, 8),
    labels=strategies.integers(2, 40),
    dtype=strategies.sampled_from([torch.float32, torch.bfloat16]),
    narrow_activation=strategies.sampled_from(["tanh", "identity"]),
    scale=strategies.sampled_from([1, 30]),
    seed=strategies.integers(0, 100),
)
def test_any_shape(lengths, hidden_size, narrow, heads, labels, dtype, narrow_activation, scale, seed):
    """At the scale of 30 scores are of hundreds, and their rounding decides over the softmax."""
    torch.manual_seed(seed)
    hidden, *others = attentive_head_inputs(lengths, hidden_size, narrow, heads, labels)
    inputs = [scale * hidden, *others]
    assert_attentive_head_is_accurate(inputs, dtype, "cpu", narrow_activation=narrow_activation)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("narrow_activation", ["identity", "tanh"])
@pytest.mark.parametrize("mlp_activation", ["identity", "tanh"])
def test_activations(poisoned_memory, backend, dtype, narrow_activation, mlp_activation):
    """The identity in the narrow layer takes a path of its own, which never projects the tokens."""
    inputs = attentive_head_inputs([*ODD_LENGTHS, 0], 136, 64, 8, 3)
    options = {"narrow_activation": narrow_activation, "mlp_activation": mlp_activation}
    hidden, cu_seqlens, speed, head = inputs
    batch = [hidden, cu_seqlens[:-1], speed[:-1], head]  # compared without the sample that has no tokens
    assert_attentive_head_is_accurate(batch, dtype, backend, **options)
    logits, uncertainty, history, keep = ops.attentive_head(
        *cast_attentive_head_inputs(inputs, dtype), **options, backend=backend
    )
    assert logits[-1].isnan().all() and uncertainty[-1].isnan() and keep[-1] and history[-1].tolist() == [-1, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_folded_matrices_in_the_dtype_of_hidden(backend):
    """They may be stored in 16 bits; what counts are the values in them."""
    *inputs, head = cast_attentive_head_inputs(attentive_head_inputs(ODD_LENGTHS), torch.bfloat16)
    head = head._replace(query=head.query.bfloat16(), value=head.value.bfloat16())
    got = ops.attentive_head(*inputs, head, backend=backend)
    head = head._replace(query=head.query.float(), value=head.value.float())
    for ours, want in zip(got, ops.attentive_head(*inputs, head, backend=backend), strict=True):
        assert torch.equal(ours, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float64_uses_the_definition(backend):
    inputs = attentive_head_inputs([3, 4])
    for got, want in zip(ops.attentive_head(*inputs, backend=backend), reference.attentive_head(*inputs), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_sample_and_none(poisoned_memory, backend):
    logits, uncertainty, history, keep = ops.attentive_head(
        *cast_attentive_head_inputs(attentive_head_inputs([]), torch.float32), backend=backend
    )
    assert logits.shape == (0, 5) and uncertainty.shape == keep.shape == (0,) and history.shape == (0, 2)
    assert_attentive_head_is_accurate(attentive_head_inputs([1]), torch.float32, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_sample_leaves_its_neighbours_alone(poisoned_memory, backend, bad):
    inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 3, 5]), torch.float32)
    inputs[2].fill_(1.0)
    good = ops.attentive_head(*inputs, backend=backend)
    inputs[0][5] = bad  # the middle sample
    logits, uncertainty, history, keep = ops.attentive_head(*inputs, backend=backend)
    assert torch.equal(logits[[0, 2]], good[0][[0, 2]])
    assert torch.equal(uncertainty[[0, 2]], good[1][[0, 2]])
    assert not keep[0] and not keep[2]
    if bad != bad:  # tanh brings an infinity back; a NaN has to arrive, and must not count as certain
        assert logits[1].isnan().all() and uncertainty[1].isnan() and keep[1] and history[1].tolist() == [-1, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hidden_size", [1, 7, 48, 65])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_in_the_reference_no_row_reaches_another_in_any_dtype(poisoned_memory, dtype, hidden_size, bad):
    inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 1, 5], hidden_size), dtype)
    good = reference.attentive_head(*inputs)
    inputs[0][4] = bad
    for got, want in zip(reference.attentive_head(*inputs), good, strict=True):
        assert torch.equal(got[[0, 2]], want[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group", [2, 32])
def test_the_reference_holds_where_products_read_whole_groups_of_columns(monkeypatch, dtype, group):
    """Processors with such products multiply what stands behind a row, the next row's first column, by zero."""
    plain = torch.nn.functional.linear

    def in_groups(rows, weight, bias=None):
        missing = -rows.shape[1] % group if rows.dtype == dtype else 0
        if not missing:
            return plain(rows, weight, bias)
        behind = torch.cat([rows.flatten(), rows.new_zeros(missing)])
        whole = behind.as_strided((rows.shape[0], rows.shape[1] + missing), (rows.shape[1], 1))
        return plain(whole, torch.nn.functional.pad(weight, (0, missing)), bias)

    inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 1, 5], 33), dtype)
    good = reference.attentive_head(*inputs)
    inputs[0][4] = float("inf")
    poisoned = in_groups(inputs[0], inputs[3].projection_weight)
    assert poisoned[3].isnan().any() and not plain(inputs[0], inputs[3].projection_weight)[3].isnan().any()
    monkeypatch.setattr(reference.F, "linear", in_groups)
    for got, want in zip(reference.attentive_head(*inputs), good, strict=True):
        assert torch.equal(got[[0, 2]], want[[0, 2]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sample_without_tokens_is_nan_and_stays(poisoned_memory, backend):
    inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 0, 5]), torch.float32)
    logits, uncertainty, history, keep = ops.attentive_head(*inputs, backend=backend)
    assert logits[1].isnan().all() and uncertainty[1].isnan() and keep[1] and history[1].tolist() == [-1, 0]
    assert logits[[0, 2]].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_exit_is_strictly_below_speed(backend):
    inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 4, 4]), torch.float32)
    uncertainty = ops.attentive_head(*inputs, backend=backend)[1]
    inputs[2] = torch.tensor([uncertainty[0], torch.nextafter(uncertainty[1], torch.tensor(2.0)), 0.0])
    assert ops.attentive_head(*inputs, backend=backend)[3].tolist() == [True, False, True]


@pytest.mark.parametrize("backend", BACKENDS)
def test_uncertainty_of_extreme_logits(backend):
    *inputs, head = cast_attentive_head_inputs(attentive_head_inputs([2, 2]), torch.float32)
    bias = torch.zeros(5)
    head = head._replace(output_weight=torch.zeros_like(head.output_weight), output_bias=bias)  # the logits
    assert torch.allclose(ops.attentive_head(*inputs, head, backend=backend)[1], torch.ones(2))
    for extreme in (
        [0, 1e4, 0, 0, 0],
        [0, 3e38, -3e38, 0, 0],
        [-float("inf"), 0, -float("inf"), -float("inf"), -float("inf")],
    ):
        bias.copy_(torch.tensor(extreme))
        assert ops.attentive_head(*inputs, head, backend=backend)[1].tolist() == [0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_arguments(backend):
    inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 3]), torch.float32)
    want = ops.attentive_head(*inputs, backend=backend)
    strided = map_tensors(lambda x: x if x.dim() < 2 else x.transpose(-1, -2).contiguous().transpose(-1, -2), inputs)
    strided[2] = torch.stack([inputs[2], inputs[2]], dim=1)[:, 0]
    assert not strided[0].is_contiguous() and not strided[2].is_contiguous()
    for got, expected in zip(ops.attentive_head(*strided, backend=backend), want, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("name", "replacement", "error", "message"),
    [
        ("hidden", lambda x: x[0], ValueError, r"hidden must be \[T, H\]"),
        ("hidden", lambda x: x.int(), ValueError, "floating point"),
        ("cu_seqlens", lambda x: x.long(), TypeError, "cu_seqlens must be torch.int32"),
        ("cu_seqlens", lambda x: x[:-1], ValueError, "cu_seqlens must have shape"),
        ("speed", lambda x: x.double(), TypeError, "speed must be torch.float32"),
        ("speed", lambda x: x.to("meta"), ValueError, "move it there"),
        ("weights", lambda x: x[:-1], ValueError, "weights must be projection_weight, .*, output_bias, not 7 tensors"),
        ("projection_weight", lambda x: x.double(), TypeError, "projection_weight must be torch.float32"),
        ("projection_weight", lambda x: x[:, :-1], ValueError, "projection_weight must have shape"),
        ("query", lambda x: x[0], ValueError, "query must be"),
        ("query_bias", lambda x: x.to("meta"), ValueError, "move it there"),
        ("value", lambda x: x[:-1], ValueError, "value must have shape"),
        ("value", lambda x: x.bfloat16(), TypeError, "value must be torch.float32"),
        ("output_weight", lambda x: x[:1], ValueError, "at least 2 labels"),
        ("output_bias", lambda x: x[:-1], ValueError, "output_bias must have shape"),
    ],
)
def test_wrong_arguments_are_named(name, replacement, error, message):
    values = cast_attentive_head_inputs(attentive_head_inputs([4, 3]), torch.float32)
    inputs = dict(zip(("hidden", "cu_seqlens", "speed", "weights"), values, strict=True))
    if name in inputs:
        inputs[name] = replacement(inputs[name])
    else:
        inputs["weights"] = inputs["weights"]._replace(**{name: replacement(getattr(inputs["weights"], name))})
    with pytest.raises(error, match=message):
        ops.attentive_head(**inputs)


def test_unknown_activations_are_named():
    inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 3]), torch.float32)
    with pytest.raises(ValueError, match="unknown narrow_activation 'gelu'; choose one of tanh, identity"):
        ops.attentive_head(*inputs, narrow_activation="gelu")


def test_opcheck():
    for dtype in (torch.float32, torch.bfloat16):
        inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 3]), dtype)
        torch.library.opcheck(torch.ops.fastbert.attentive_head.default, (*inputs[:3], list(inputs[3])))
    options = {"history": torch.zeros(2, 2).int(), "criterion": "patience", "parameter": 1}
    options["narrow_activation"] = "identity"
    torch.library.opcheck(torch.ops.fastbert.attentive_head.default, (*inputs[:3], list(inputs[3])), options)


def test_fullgraph_without_recompiling():
    torch._dynamo.reset()
    inputs = cast_attentive_head_inputs(attentive_head_inputs([4, 3]), torch.float32)
    compiled = torch.compile(lambda *x: ops.attentive_head(*x)[1] * 2, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), ops.attentive_head(*inputs)[1] * 2)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled(*inputs)
