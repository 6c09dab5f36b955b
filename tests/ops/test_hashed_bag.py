"""hashed_bag: against the module of fastbert_hf in float64, bad values and bad arguments."""

from __future__ import annotations

import pytest
import torch

from fastbert_hf.bag import HashedBag
from fastbert_kernels import ops, reference
from helpers.criteria import EVERY_CRITERION
from helpers.op_inputs import cu_seqlens_of

BACKENDS = ["cpu", "reference"]


def inputs(lengths, buckets=64, labels=3, ids=torch.int64):
    words = torch.randint(250_000, (sum(lengths),), dtype=ids)
    return [torch.randn(buckets, labels), torch.randn(labels), words, cu_seqlens_of(lengths), torch.rand(len(lengths))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("lengths", "buckets", "labels"),
    [([1], 1, 2), ([5, 1, 64, 2, 129], 64, 3), ([300] * 20, 2**15, 2), ([3] * 200, 256, 100)],
)
def test_accuracy(poisoned_memory, backend, ids, lengths, buckets, labels):
    given = inputs(lengths, buckets, labels, ids)
    bag = HashedBag(buckets, labels).double()
    bag.load_state_dict({"table": given[0], "bias": given[1]})
    want = bag.of_packed(given[2], torch.tensor(lengths)).detach()
    logits, uncertainty, history, keep = ops.hashed_bag(*given, backend=backend)
    torch.testing.assert_close(logits.double(), want, rtol=1e-5, atol=1e-4)
    expected = reference.decide(logits, given[4], None, "entropy", 0)
    torch.testing.assert_close(uncertainty, expected[0], rtol=0, atol=1e-5)
    assert torch.equal(history, expected[1]) and torch.equal(keep, ~(uncertainty < given[4]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", EVERY_CRITERION)
def test_criteria(backend, options):
    given = inputs([5, 1, 9, 2])
    logits, *got = ops.hashed_bag(*given, **options, backend=backend)
    for one, other in zip(got, reference.decide(logits, given[4], None, **options), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sample_depends_on_no_other(poisoned_memory, backend):
    table, bias, words, bounds, speed = inputs([4, 0, 3, 5] * 300, 256)
    table[reference.hashed_buckets(words[4], 0, 256)] = torch.nan  # of the first token of the third sample
    every = ops.hashed_bag(table, bias, words, bounds, speed, backend=backend)
    for sample in (0, 1, 2, 3, 1199):
        own = words[bounds[sample] : bounds[sample + 1]]
        alone = [table, bias, own, cu_seqlens_of([len(own)]), speed[sample : sample + 1]]
        for value, whole in zip(ops.hashed_bag(*alone, backend=backend), every, strict=True):
            torch.testing.assert_close(value[0], whole[sample], rtol=0, atol=0, equal_nan=True)
    for bad in (1, 2):
        assert every[0][bad].isnan().all() and every[1][bad].isnan() and every[3][bad]
        assert every[2][bad].tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.randn(48, 3), "power of 2"),
        (0, torch.randn(64), "power of 2"),
        (1, torch.randn(2), r"bias must have shape \[3\]"),
        (2, torch.rand(12), "input_ids must be torch.int64 or torch.int32"),
        (3, torch.tensor([0, 4, 7]), r"cu_seqlens must have shape \[4\]"),
        (4, torch.rand(3, 1), r"speed \[B\]"),
    ],
)
def test_wrong_arguments_are_named(place, value, message):
    given = inputs([4, 3, 5])
    given[place] = value
    with pytest.raises((TypeError, ValueError), match=message):
        ops.hashed_bag(*given)


def test_opcheck_and_no_sample():
    torch.library.opcheck(torch.ops.fastbert.hashed_bag.default, tuple(inputs([4, 3])), {})
    assert [value.shape[0] for value in ops.hashed_bag(*inputs([]))] == [0] * 4
