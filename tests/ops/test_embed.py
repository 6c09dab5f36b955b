"""embed: against the embeddings of Transformers, and bad arguments."""

from __future__ import annotations

import pytest
import torch

from fastbert_kernels import ops
from helpers.models import spread_model


def arguments(count, hidden_size=32):
    torch.manual_seed(3)
    tables = [torch.randn(rows, hidden_size) for rows in (50, 20, 2)]
    norm = [1 + 0.1 * torch.randn(hidden_size), 0.1 * torch.randn(hidden_size)]
    ids = [torch.randint(rows, (count,)) for rows in (50, 20, 2)]
    return [*ids, *tables, *norm]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("count", "hidden_size"), [(1, 32), (300, 768), (77, 13), (0, 32)])
@pytest.mark.parametrize("segments", [True, False])
def test_accuracy(poisoned_memory, dtype, count, hidden_size, segments):
    ids, positions, types, words, position_table, segment_table, weight, bias = arguments(count, hidden_size)
    rows = words[ids].double() + position_table[positions].double()
    rows = rows + (segment_table[types] if segments else segment_table[0]).double()
    want = torch.nn.functional.layer_norm(rows, (hidden_size,), weight.double(), bias.double(), 1e-12)
    got = ops.embed(
        *(ids, positions, types if segments else None, words, position_table, segment_table, weight, bias),
        layer_norm_eps=1e-12,
        dtype=dtype,
    )
    assert got.dtype == dtype and got.shape == want.shape
    tolerance = 2e-6 if dtype == torch.float32 else 2**-8
    assert ((got.double() - want).abs() <= tolerance * (1 + want.abs())).all()


def test_equals_the_hosts():
    own = spread_model().backbone.embeddings
    ids, positions, types = torch.randint(97, (40,)), torch.randint(512, (40,)), torch.randint(2, (40,))
    with torch.no_grad():
        want = own(input_ids=ids[None], token_type_ids=types[None], position_ids=positions[None])[0]
        tables = (own.word_embeddings, own.position_embeddings, own.token_type_embeddings)
        got = ops.embed(
            *(ids.int(), positions, types, *(table.weight for table in tables)),
            *(own.LayerNorm.weight, own.LayerNorm.bias),
            layer_norm_eps=own.LayerNorm.eps,
        )
    torch.testing.assert_close(got, want)


def test_wrong_arguments_are_named():
    inputs = arguments(5)
    with pytest.raises(TypeError, match="dtype must be"):
        ops.embed(*inputs, layer_norm_eps=1e-12, dtype=torch.float16)
    with pytest.raises(ValueError, match="unknown layer_norm 'rms'"):
        ops.embed(*inputs, layer_norm_eps=1e-12, layer_norm="rms")
    with pytest.raises(ValueError, match="position_ids must have shape"):
        ops.embed(inputs[0], inputs[1][:-1], *inputs[2:], layer_norm_eps=1e-12)
    with pytest.raises(TypeError, match="words must be torch.float32"):
        ops.embed(*inputs[:3], inputs[3].double(), *inputs[4:], layer_norm_eps=1e-12)


def test_opcheck():
    options = {"layer_norm_eps": 1e-12, "dtype": torch.bfloat16, "layer_norm": "unbiased"}
    torch.library.opcheck(torch.ops.fastbert.embed.default, tuple(arguments(5)), options)
