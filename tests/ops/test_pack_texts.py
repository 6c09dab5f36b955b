"""pack_texts: against the checks and positions of fastbert_hf in plain PyTorch, on any mask and any values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbert_hf.inputs import check_inputs, make_position_ids
from fastbert_kernels import _extension
from fastbert_kernels.hosts.padding import ValidTokens
from fastbert_kernels.ops.pack_texts import pack_texts

if _extension.load()[0] is None:
    pytest.skip(_extension.load()[1], allow_module_level=True)

WORDS = 9


def by_pytorch(ids, mask, segments, num_segments, uncounted):
    """Return what fastbert_hf and the hosts make of a batch without the native pass; None where it is refused."""
    try:
        valid = check_inputs(ids, mask, segments, 64, num_segments=num_segments, vocabulary=WORDS)
    except ValueError:
        return None
    counted = None if uncounted is None else ids != uncounted
    positions = make_position_ids(valid, 0 if uncounted is None else uncounted + 1, counted)
    tokens = ValidTokens.of(valid)
    kept = segments if num_segments > 1 else None
    return (
        tokens.take(ids),
        tokens.take(positions),
        None if kept is None else tokens.take(kept),
        tokens.cu_seqlens,
    )


def assert_same(ids, mask, segments, num_segments=2, uncounted=None):
    want = by_pytorch(ids, mask, segments, num_segments, uncounted)
    got = pack_texts(ids, mask, segments, vocabulary=WORDS, num_segments=num_segments, uncounted=uncounted)
    assert (got is None) == (want is None)
    for one, other in zip(got or (), want or (), strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one.dtype == other.dtype and torch.equal(one, other))
    return got


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_batch(data):
    batch, length = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))

    def matrix(low, high):
        numbers = st.lists(st.integers(low, high), min_size=batch * length, max_size=batch * length)
        return torch.tensor(data.draw(numbers)).view(batch, length)

    # Mostly such as a model takes, and some that it refuses.
    wide = data.draw(st.integers(0, 3)) == 0
    ids = matrix(-1, WORDS) if wide else matrix(0, WORDS - 1)
    mask = data.draw(st.sampled_from([None, matrix(0, 2 if wide else 1)]))
    segments = data.draw(st.sampled_from([None, matrix(0, 2 if wide else 1), torch.zeros(batch, length).long()]))
    assert_same(ids, mask, segments, data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([None, 0, 1, 3])))


@pytest.mark.parametrize("side", ["left", "right", "both", "middle"])
@pytest.mark.parametrize("uncounted", [None, 1])
def test_padding_on_any_side(side, uncounted):
    ids = torch.randint(2, WORDS, (3, 8))
    mask = torch.ones(3, 8).long()
    mask[1, {"left": slice(3), "right": slice(5, None), "both": [0, 1, 7], "middle": [3, 4]}[side]] = 0
    ids[mask == 0] = 1
    ids[2, 4] = 1  # a literal padding token
    assert assert_same(ids, mask, None, uncounted=uncounted) is not None


@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (2, 0)])
def test_no_text_and_no_column(shape):
    ids = torch.zeros(shape).long()
    assert (assert_same(ids, ids, None) is None) == (shape[0] > 0)


def test_gaps_and_uncounted_ids_in_the_middle():
    ids = torch.tensor([[1, 1, 5, 1, 6, 1, 7, 1]])
    mask = torch.tensor([[0, 0, 1, 1, 0, 0, 1, 0]])
    got = assert_same(ids, mask, None, uncounted=1)
    assert got.ids.tolist() == [5, 1, 7] and got.positions.tolist() == [2, 1, 4]


@pytest.mark.parametrize(
    ("place", "value"),
    [("ids", -1), ("ids", WORDS), ("ids", 2**62), ("mask", 2), ("mask", -1), ("segments", 2), ("segments", -1)],
)
def test_values_that_no_model_takes(place, value):
    given = {"ids": torch.ones(2, 5).long(), "mask": torch.ones(2, 5).long(), "segments": torch.zeros(2, 5).long()}
    assert assert_same(*given.values()) is not None
    given[place][1, 3] = value
    assert assert_same(*given.values()) is None
    if place == "ids":  # under padding, too
        given["mask"][1, 3:] = 0
        assert assert_same(*given.values()) is None


def test_a_text_without_tokens():
    ids, mask = torch.ones(3, 4).long(), torch.ones(3, 4).long()
    mask[1] = 0
    assert assert_same(ids, mask, None) is None


class OwnKind(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x.int(),
        lambda x: x.bool(),
        lambda x: x.float(),
        lambda x: x[:1],
        lambda x: x[None],
        lambda x: x.t().contiguous().t(),
        lambda x: x.to("meta"),
        lambda x: x.as_subclass(OwnKind),
        lambda x: x.tolist(),
    ],
)
def test_tensors_of_another_kind_are_left_to_the_caller(other):
    x = torch.ones(2, 5).long()
    options = {"vocabulary": WORDS, "num_segments": 2, "uncounted": None}
    assert pack_texts(x, x, x, **options) is not None
    for place in range(1, 3):
        given = [x, x, x]
        given[place] = other(x)
        assert pack_texts(*given, **options) is None
    if not isinstance(other(x), torch.Tensor) or other(x).shape != x[:1].shape:
        assert pack_texts(other(x), None, None, **options) is None


def test_inputs_stay_as_they_are():
    ids, mask, segments = torch.randint(WORDS, (2, 6)), torch.ones(2, 6).long(), torch.zeros(2, 6).long()
    before = [x.clone() for x in (ids, mask, segments)]
    got = pack_texts(ids, mask, segments, vocabulary=WORDS, num_segments=2, uncounted=0)
    got.ids.fill_(7)
    assert all(map(torch.equal, (ids, mask, segments), before))
