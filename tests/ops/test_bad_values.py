"""Bad values and layouts for every op on every CPU backend: each is an error that says what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastbert_kernels import ops
from helpers.op_inputs import attentive_head_inputs, cast_attentive_head_inputs, compaction_inputs, pooled_inputs

LENGTHS = [3, 1, 5]
T, H, ORIGINAL, WORDS = sum(LENGTHS), 48, 7, 50
ERRORS = (TypeError, ValueError, IndexError)
Arguments = dict[str, Any]


def named(op: Callable[..., Any], values: list[Any], **options: Any) -> Arguments:
    return {**dict(zip(op.__wrapped__.__annotations__, values, strict=False)), **options}


def attentive_head() -> Arguments:
    return named(ops.attentive_head, cast_attentive_head_inputs(attentive_head_inputs(LENGTHS, H), torch.float32))


def pooled_exit_head() -> Arguments:
    return named(ops.pooled_exit_head, pooled_inputs(LENGTHS, (H, 5, 3), torch.float32))


def compact() -> Arguments:
    return named(ops.compact, compaction_inputs(LENGTHS, [True, False, True], width=H, original=ORIGINAL))


def embed() -> Arguments:
    tables = [torch.randn(rows, H) for rows in (WORDS, 20, 2)]
    ids = [torch.randint(len(table), (T,)) for table in tables]
    return named(ops.embed, [*ids, *tables, torch.ones(H), torch.zeros(H)], layer_norm_eps=1e-12)


OPS = {op.__name__: op for op in (attentive_head, pooled_exit_head, compact, embed)}
ON = [(name, backend) for name in OPS for backend in ("cpu", "reference")]


def call(name: str, backend: str, arguments: Arguments) -> Any:
    return getattr(ops, name)(**arguments, backend=backend)


def refused(name: str, backend: str, arguments: Arguments) -> str:
    with pytest.raises(ERRORS) as error:
        call(name, backend, arguments)
    return str(error.value)


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def spaced(tensor: Tensor) -> Tensor:
    """The same values with a gap behind each."""
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


def tensors(arguments: Arguments) -> list[tuple[str, int | None]]:
    """Say where tensors are: the argument, and the place in it where it is several."""
    found: list[tuple[str, int | None]] = []
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            found.append((name, None))
        elif isinstance(value, (list, tuple)):
            found.extend((name, place) for place in range(len(value)))
    return found


def changed(arguments: Arguments, name: str, place: int | None, change: Callable[[Tensor], Tensor]) -> Arguments:
    value = arguments[name]
    if place is None:
        return {**arguments, name: change(value)}
    return {**arguments, name: [change(x) if i == place else x for i, x in enumerate(value)]}


# Argument, bad value, what the message says.
VALUES: dict[str, list[tuple[str, Any, str]]] = {
    "compact": [
        *(
            ("sample_index", int32(2, bad, 6), f"0..6, but they go from {min(bad, 2)} to {max(bad, 6)}")
            for bad in (-1, 7)
        ),
        ("sample_index", int32(0, 2**31 - 1, 1), "from 0 to 2147483647"),
        ("sample_index", int32(-(2**31), 0, 1), "from -2147483648 to 1"),
    ],
    "embed": [
        ("input_ids", torch.full((T,), WORDS), "input_ids must lie in 0..49, but they go from 50 to 50"),
        ("input_ids", torch.full((T,), -1), "from -1 to -1"),
        ("position_ids", torch.full((T,), 20), "position_ids must lie in 0..19"),
        ("position_ids", torch.full((T,), -1, dtype=torch.int32), "position_ids must lie in 0..19"),
        ("token_type_ids", torch.full((T,), 2), "token_type_ids must lie in 0..1"),
        ("words", torch.randn(0, H), "input_ids must lie in 0..-1"),
        ("segments", torch.randn(0, H), "token_type_ids must lie in 0..-1"),
    ],
}
BOUNDS = {
    "entry 0 is 1": int32(1, 3, 4, 9),
    "entry 1 is -1": int32(0, -1, 4, 9),
    "entry 2 is 4": int32(0, 5, 4, 9),
    "entry 2 is 1073741824": int32(0, 3, 2**30, 9),
    "entry 3 is 10": int32(0, 3, 4, T + 1),
    "entry 3 is 2147483647": int32(0, 3, 4, 2**31 - 1),
}


@pytest.mark.parametrize(("name", "backend"), ON)
def test_good_values(name, backend):
    call(name, backend, OPS[name]())


@pytest.mark.parametrize("entry", BOUNDS)
@pytest.mark.parametrize(("name", "backend"), [(name, backend) for name, backend in ON if name != "embed"])
def test_bounds_of_samples(name, backend, entry):
    message = refused(name, backend, {**OPS[name](), "cu_seqlens": BOUNDS[entry]})
    rule = "cu_seqlens must begin with 0, not decrease and end within the 9 rows of hidden"
    assert message == f"{rule}, but {entry}"


@pytest.mark.parametrize(
    ("name", "backend", "argument", "value", "message"),
    [(name, backend, *bad) for name, backend in ON for bad in VALUES.get(name, [])],
)
def test_values(name, backend, argument, value, message):
    arguments = OPS[name]()
    before = [x.clone() for key, x in arguments.items() if key.startswith("out_")]
    assert message in refused(name, backend, {**arguments, argument: value})
    after = [x for key, x in arguments.items() if key.startswith("out_")]
    assert all(map(torch.equal, before, after))  # nothing was written


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_token_types_and_no_segments(backend):
    arguments = {**embed(), "token_type_ids": None, "segments": torch.randn(0, H)}
    assert "segments has no row" in refused("embed", backend, arguments)


@pytest.mark.parametrize(("name", "backend"), ON)
def test_other_shapes_and_devices_of_each_tensor(name, backend):
    """One on `meta` would otherwise make an empty result of the shape function."""
    changes = {
        "no dimension": lambda x: x.flatten()[0],
        "a dimension less": lambda x: x[0],
        "a dimension more": lambda x: x[None],
        "a column less": lambda x: x[..., :-1],
        "meta": lambda x: x.to("meta"),
        "complex": lambda x: x.to(torch.complex64),
    }
    for argument, place in tensors(OPS[name]()):
        for kind, change in changes.items():
            if name == "compact" and argument == "hidden" and kind in ("a column less", "complex"):
                continue  # any rows are moved
            refused(name, backend, changed(OPS[name](), argument, place, change))


@pytest.mark.parametrize(("name", "backend"), ON)
def test_gaps_and_other_orders_in_memory_change_nothing(name, backend):
    torch.manual_seed(0)
    arguments = OPS[name]()
    copies = {key: x.clone() for key, x in arguments.items() if key.startswith("out_")}
    want = call(name, backend, {**arguments, **copies})
    for argument, place in tensors(arguments):
        for change in (spaced, lambda x: x.transpose(0, -1).contiguous().transpose(0, -1)):
            written = {key: x.clone() for key, x in arguments.items() if key.startswith("out_")}
            given = changed({**arguments, **written}, argument, place, change)
            if argument in written and not given[argument].is_contiguous():
                assert "must be contiguous" in refused(name, backend, given)
                continue
            got = call(name, backend, given)
            for ours, theirs in zip(*(x if isinstance(x, tuple) else (x,) for x in (got, want)), strict=True):
                if name == "compact" and ours.shape == arguments["hidden"].shape:
                    ours, theirs = ours[:8], theirs[:8]  # what lies behind the survivors is undefined
                torch.testing.assert_close(ours, theirs)
