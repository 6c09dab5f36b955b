"""Registrations, descriptions and calls that are refused, and what is said of them."""

from __future__ import annotations

import pytest
import torch
from registered_model import DESCRIPTION, WIDTH, Model, make_ids, run
from torch import nn

import fastbert_kernels
from fastbert_kernels.hosts import AttentiveHead, PooledHead


def test_registering_twice_is_refused():
    fastbert_kernels.register_host(Model, **DESCRIPTION)
    with pytest.raises(ValueError, match=r"Model' is registered already: unregister_host"):
        fastbert_kernels.register_host(Model, **DESCRIPTION)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": int}, "derived from torch.nn.Module"),
        ({"kind": "Model"}, "kind of register_host must be a function"),
        ({"layers": []}, "layers of register_host must be a function"),
        ({"heads": None}, "heads of register_host must be a function"),
        ({"call_layer": lambda layer, hidden: hidden}, "call_layer of register_host must take 3 arguments"),
        ({"forward": lambda model: None}, "forward of register_host must take 2 arguments"),
    ],
)
def test_wrong_registrations_are_refused(change, message):
    arguments = {"kind": Model, **DESCRIPTION, **change}
    with pytest.raises(TypeError, match=message):
        fastbert_kernels.register_host(arguments.pop("kind"), **arguments)


class MyLinear(nn.Linear):
    pass


def with_attentive(**changes):
    return lambda model: [AttentiveHead(**{**model.attentive, "num_attention_heads": 4, **changes})]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layers": lambda model: []}, TypeError, "one or more torch modules"),
        ({"layers": lambda model: [torch.tanh] * 5}, TypeError, "one or more torch modules"),
        ({"heads": lambda model: model.heads()[:4]}, ValueError, "as many heads as layers, 5, not 4"),
        ({"heads": lambda model: [*model.heads()[:4], None]}, ValueError, "last layer must have a head"),
        ({"heads": lambda model: [model.linear] * 5}, TypeError, "PooledHead, AttentiveHead or None, not.*Linear"),
        ({"heads": lambda model: [PooledHead([MyLinear(2, 3)])]}, TypeError, "must be a torch.nn.Linear, not a MyLin"),
        ({"heads": lambda model: [PooledHead([nn.Linear(2, 3, bias=False)])]}, ValueError, "has no bias"),
        ({"heads": lambda model: [PooledHead([])]}, ValueError, "1 to 3 layers, not 0"),
        (
            {"heads": lambda model: [PooledHead([nn.Linear(2, 3)], pooling="last")]},
            ValueError,
            "unknown pooling 'last'",
        ),
        ({"heads": lambda model: [PooledHead([nn.Linear(2, 1)])]}, ValueError, "PooledHead must have two labels or mo"),
        (
            {"heads": lambda model: [PooledHead([nn.Linear(4, 5), nn.Linear(6, 3)])]},
            ValueError,
            r"layers\[1\] of PooledHead must be 5 -> any, not Linear\(in_features=6",
        ),
        *(
            (
                {"heads": with_attentive(num_attention_heads=heads)},
                ValueError,
                f"must divide its width 16, not {heads!r}",
            )
            for heads in (3, 0, -1, 2.0, "4", True)
        ),
        ({"heads": with_attentive(key=nn.Linear(WIDTH, 8))}, ValueError, "key of AttentiveHead must be 16 -> 16, not"),
        ({"heads": with_attentive(classifier=nn.Linear(8, 3))}, ValueError, "classifier .* must be 16 -> any, not"),
        ({"heads": with_attentive(classifier=nn.Linear(WIDTH, 1))}, ValueError, "AttentiveHead must have two labels"),
        (
            {"heads": lambda model: [*model.heads()[:4], PooledHead([nn.Linear(WIDTH, 4)])]},
            ValueError,
            r"same number of labels, not \[3, 4\]",
        ),
    ],
)
def test_wrong_descriptions_are_refused_by_patch(change, error, message):
    fastbert_kernels.register_host(Model, **{**DESCRIPTION, **change})
    model = Model()
    with pytest.raises(error, match=message):
        fastbert_kernels.patch(model)
    assert not fastbert_kernels.is_patched(model)


def test_another_precision_than_that_of_the_weights_is_refused():
    fastbert_kernels.register_host(Model, **DESCRIPTION)
    with pytest.raises(ValueError, match=r"model.to\(torch.bfloat16\)"):
        fastbert_kernels.patch(Model(), dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="leave dtype out"):
        fastbert_kernels.patch(Model(), dtype=torch.int8)
    assert fastbert_kernels.is_patched(fastbert_kernels.patch(Model(), dtype=torch.float32))


@pytest.mark.parametrize(
    ("forward", "error", "message"),
    [
        (lambda model, run, ids: run(model.embedding(ids[0]), ids > 0), ValueError, r"hidden must be \[batch, length"),
        (lambda model, run, ids: run(model.embedding(ids), ids), TypeError, "valid must be a bool tensor"),
        (lambda model, run, ids: run(model.embedding(ids), ids[:, :1] > 0), ValueError, "valid must have shape"),
        (
            lambda model, run, ids: run(model.embedding(ids), ids > 50),
            ValueError,
            r"row\(s\) \[0, 1\]",
        ),
        (lambda model, run, ids: run(model.embedding(ids), ids > 0, 1.5), ValueError, r"\[0, 1\], not 1.5"),
        (lambda model, run, ids: run(model.embedding(ids), ids > 0, float("nan")), ValueError, r"\[0, 1\], not nan"),
        (lambda model, run, ids: run(model.embedding(ids), ids > 0, torch.rand(3)), ValueError, "or have shape"),
    ],
)
def test_wrong_calls_of_run_are_refused(forward, error, message):
    fastbert_kernels.register_host(Model, **{**DESCRIPTION, "forward": forward})
    model = fastbert_kernels.patch(Model().eval())
    with pytest.raises(error, match=message):
        run(model, make_ids([3, 5]))


@pytest.mark.parametrize(
    ("call_layer", "message"),
    [
        (lambda block, hidden, valid: (block(hidden, valid),), "not tuple"),
        (lambda block, hidden, valid: hidden[:, 0], "not "),
    ],
)
def test_a_layer_that_returns_something_else_is_named(call_layer, message):
    fastbert_kernels.register_host(Model, **{**DESCRIPTION, "call_layer": call_layer})
    model = fastbert_kernels.patch(Model().eval())
    with pytest.raises(TypeError, match=f"as the Block got them, {message}"):
        run(model, make_ids([3, 5]))
