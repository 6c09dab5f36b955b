"""Tensors on their way into C++: one in the wrong place, too short, of another dtype, layout or device is an error.

Sizes differ wherever they may, so that two arguments look alike only where nothing about them tells them apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastbert_kernels import _extension
from helpers.op_inputs import compaction_inputs

if _extension.load()[0] is None:
    pytest.skip(_extension.load()[1], allow_module_level=True)

T, B, N, H, ORIGINAL = 11, 4, 3, 6, 9


def compact_arguments():
    given = compaction_inputs([3, 1, 5, 2], [True, False, True, False], width=H, original=ORIGINAL, labels=N)
    hidden, cu_seqlens, _, sample_index, speed, history, *_ = given
    outputs = [torch.empty_like(x) for x in (hidden, cu_seqlens, sample_index, speed, history)]
    return [*given, (*outputs, torch.empty(2, dtype=torch.int32))]


def embed_arguments():
    tables = [torch.randn(rows, H) for rows in (7, 5, 2)]
    ids = [torch.randint(len(table), (T,)).index_fill(0, torch.tensor(2), len(table) - 1) for table in tables]
    return [*ids, *tables, torch.ones(H), torch.zeros(H), 1e-12, "standard", torch.empty(T, H)]


CALLS: dict[str, Callable[[], list]] = {"compact": compact_arguments, "embed": embed_arguments}


def tensors_of(arguments) -> list[Tensor]:
    """The tensors among the arguments and inside of them, in order."""
    found = []
    for value in arguments:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found.extend(tensors_of(value))
    return found


def with_tensors(arguments, tensors):
    """The same arguments with other tensors in their places."""
    left = iter(tensors)

    def rebuild(value):
        if isinstance(value, Tensor):
            return next(left)
        return type(value)(map(rebuild, value)) if isinstance(value, (tuple, list)) else value

    return [rebuild(value) for value in arguments]


def places(name: str) -> range:
    return range(len(tensors_of(CALLS[name]())))


def call(name: str, change: Callable[[list], None]) -> None:
    arguments = CALLS[name]()
    tensors = tensors_of(arguments)
    change(tensors)
    getattr(_extension.module(), name)(*with_tensors(arguments, tensors))


def refused(name: str, change: Callable[[list], None]) -> str:
    with pytest.raises((TypeError, ValueError, IndexError)) as error:
        call(name, change)
    return str(error.value)


def strided(tensor: Tensor) -> Tensor:
    """The same values with a gap behind each."""
    return tensor.unsqueeze(-1).repeat_interleave(2, -1)[..., 0]


@pytest.mark.parametrize("name", CALLS)
def test_the_arguments_as_they_are(name):
    call(name, lambda tensors: None)


@pytest.mark.parametrize("name", CALLS)
def test_two_in_each_others_place(name):
    for i, j in itertools.combinations(places(name), 2):

        def swap(tensors, i=i, j=j):
            tensors[i], tensors[j] = tensors[j], tensors[i]

        one, other = (tensors_of(CALLS[name]())[place] for place in (i, j))
        if one.shape != other.shape or one.dtype != other.dtype:
            refused(name, swap)


@pytest.mark.parametrize("name", CALLS)
def test_one_row_or_column_too_few(name):
    for place in places(name):
        for dimension, size in enumerate(tensors_of(CALLS[name]())[place].shape):

            def shorten(tensors, place=place, dimension=dimension, size=size):
                tensors[place] = tensors[place].narrow(dimension, 0, size - 1).contiguous()

            refused(name, shorten)


@pytest.mark.parametrize("name", CALLS)
def test_another_dtype_of_the_same_or_another_size(name):
    for place, dtype in itertools.product(places(name), (torch.int32, torch.float32, torch.int64, torch.float64)):
        if tensors_of(CALLS[name]())[place].dtype != dtype:

            def cast(tensors, place=place, dtype=dtype):
                tensors[place] = tensors[place].to(dtype)

            assert "must be torch." in refused(name, cast)


@pytest.mark.parametrize("name", CALLS)
def test_gaps_between_elements(name):
    for place in places(name):

        def spread(tensors, place=place):
            tensors[place] = strided(tensors[place])

        assert "must be contiguous" in refused(name, spread)


@pytest.mark.parametrize("name", CALLS)
def test_no_memory_and_no_tensor(name):
    for place in places(name):

        def send_away(tensors, place=place):
            tensors[place] = tensors[place].to("meta")

        def replace(tensors, place=place):
            tensors[place] = tensors[place].numpy()

        assert "has no memory that can be read: it is a torch.strided tensor" in refused(name, send_away)
        assert "must be a torch.Tensor, not ndarray" in refused(name, replace)
