"""Padded calls into a recorded graph: as if they had been packed in front of the plain loop."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from fastbert_kernels.engine.entrance import Entrance, PaddedCall
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.rule import ENTROPY_RULE, FULL_DEPTH, Rule
from helpers.encoders import random_loop
from helpers.graphs import CheckedLayer, HostileRecorder, graphed
from helpers.op_inputs import cu_seqlens_of

DEPTH, WIDTH, VOCABULARY, LONGEST, FIRST = 3, 32, 50, 512, 2
LAYER_RULE = Rule("confidence", layer_speeds=(0.4, None, None))


def entrance_of(segments=2):
    words, places, kinds = (
        torch.randn(rows, WIDTH, dtype=torch.float64) for rows in (VOCABULARY, FIRST + LONGEST, segments)
    )

    def embed(ids, positions, types):
        assert (types is None) == (segments == 1)
        return words[ids] + places[positions] + (kinds[0] if types is None else kinds[types])

    return Entrance(embed, (words, places, kinds), VOCABULARY, segments, FIRST, LONGEST)


def packed(call, entrance):
    """The batch of a call, sample by sample."""
    rows, lengths = [], []
    for sample in range(len(call)):
        tokens = [c for c in range(call.ids.shape[1]) if call.mask is None or int(call.mask[sample, c])]
        ids = call.ids[sample].tolist()
        counted = [[other != entrance.padding for other in ids[tokens[0] : column]] for column in tokens]
        places = [
            FIRST - 1 if ids[column] == entrance.padding else FIRST + sum(before)
            for column, before in zip(tokens, counted, strict=True)
        ]
        types = torch.zeros(len(tokens), dtype=torch.int64) if call.types is None else call.types[sample, tokens].long()
        rows.append(
            entrance.embed(
                call.ids[sample, tokens].long(), torch.tensor(places), None if entrance.num_segments == 1 else types
            )
        )
        lengths.append(len(tokens))
    return PackedBatch.of(torch.cat(rows), cu_seqlens_of(lengths), max(lengths), call.speed)


def whole_loop(**options):
    plain = random_loop(depth=DEPTH, hidden_size=WIDTH, layer=CheckedLayer)
    loop, recorder = graphed(plain, whole_depth_samples=8, **options)
    return plain, loop, recorder


def random_ids(samples, length):
    return torch.randint(VOCABULARY, (samples, length))


def right(samples, length):
    return (torch.arange(length) < torch.randint(1, length + 1, (samples, 1))).long()


def assert_answers(loop, plain, call, entrance, rule):
    answered = loop.answer_padded(call, entrance, rule)
    assert answered is not None and not answered.fault
    want = plain.run(packed(call, entrance), rule)
    assert torch.equal(answered.results.exit_layer, want.exit_layer)
    torch.testing.assert_close(answered.results.logits, want.logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(answered.results.uncertainty, want.uncertainty, rtol=1e-6, atol=1e-6)
    assert answered.uncertainty == answered.results.uncertainty.tolist()
    return want


@pytest.mark.parametrize("rule", [ENTROPY_RULE, FULL_DEPTH, LAYER_RULE], ids=["entropy", "full depth", "layers"])
@pytest.mark.parametrize("segments", [1, 2])
def test_answers_are_those_of_a_packed_batch(poisoned_memory, rule, segments):
    plain, loop, recorder = whole_loop()
    entrance, depths = entrance_of(segments), set()
    for samples, length in ((1, 1), (3, 20), (1, 64), (8, 64), (2, 37), (1, 512), (7, 9), (1, 2)):
        mask = right(samples, length)
        types = torch.randint(segments, (samples, length))
        speeds = torch.rand(samples)
        for call in (
            PaddedCall(random_ids(samples, length), None, None, 0.6),
            PaddedCall(random_ids(samples, length), mask, None, speeds),
            PaddedCall(random_ids(samples, length).int(), mask.flip(1).bool(), types.int(), 0.9),
            PaddedCall(random_ids(samples, length).T.contiguous().T, mask, types, 0.3),
        ):
            assert call.ids.shape == (samples, length) and loop.takes_padded(samples, length)
            depths.update(assert_answers(loop, plain, call, entrance, rule).exit_layer.tolist())
    assert DEPTH in depths and (rule is FULL_DEPTH or min(depths) == 1) and recorder.replayed


def test_padding_between_tokens():
    plain, loop, _ = whole_loop()
    mask = torch.tensor([[0, 1, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0, 1]])
    assert_answers(loop, plain, PaddedCall(random_ids(2, 7), mask, None, 0.5), entrance_of(), ENTROPY_RULE)


@pytest.mark.parametrize("rule", [ENTROPY_RULE, FULL_DEPTH], ids=["entropy", "full depth"])
@pytest.mark.parametrize(
    ("name", "value"), [("ids", VOCABULARY), ("ids", -1), ("mask", 2), ("mask", 0), ("types", 2), ("types", -1)]
)
def test_a_fault_runs_no_layer_and_spoils_no_later_call(rule, name, value):
    plain, loop, recorder = whole_loop()
    entrance, mask = entrance_of(), torch.ones(2, 5, dtype=torch.int64)
    good = {"ids": random_ids(2, 5), "mask": mask, "types": torch.zeros_like(mask)}
    assert_answers(loop, plain, PaddedCall(**good, speed=1e-6), entrance, rule)
    bad = good[name].clone()
    bad[1] = value
    recorder.replayed.clear()
    assert loop.answer_padded(PaddedCall(**{**good, name: bad}, speed=1e-6), entrance, rule).fault
    assert len(recorder.replayed) == 1
    assert_answers(loop, plain, PaddedCall(**good, speed=1e-6), entrance, rule)


@pytest.mark.parametrize(
    ("ids", "mask", "fault"),
    [
        ([7, 8, 9, 0, 0], [1, 1, 1, 0, 0], False),
        ([7, 8, 9, 3, 3], [0, 1, 1, 0, 0], True),
        ([7, 8, 9, 3, 3], [1, 0, 1, 0, 0], True),
    ],
)
def test_where_tokens_have_to_begin_at_the_left(ids, mask, fault):
    plain, loop, _ = whole_loop()
    anywhere = entrance_of()
    strict = dataclasses.replace(anywhere, from_the_left=True)
    ids, mask = torch.tensor([[5, 6, 7, 8, 9], ids]), torch.tensor([[1, 1, 1, 1, 1], mask])
    call = PaddedCall(ids, mask, None, 0.5)
    assert loop.answer_padded(call, strict, ENTROPY_RULE).fault == fault
    assert_answers(loop, plain, call, anywhere, ENTROPY_RULE)
    if not fault:
        assert_answers(loop, plain, call, strict, ENTROPY_RULE)


def test_positions_that_go_by_the_ids():
    """As RoBERTa's family counts: a token with the id of padding is none, wherever it stands."""
    plain, loop, _ = whole_loop()
    columns = entrance_of()
    by_ids = dataclasses.replace(columns, padding=3)
    ids = torch.tensor([[3, 3, 7, 8, 3, 9, 3], [7, 3, 3, 8, 9, 3, 3], [3, 7, 8, 3, 3, 3, 9]])
    call = PaddedCall(ids, None, None, 0.5)
    assert not torch.equal(packed(call, by_ids).hidden, packed(call, columns).hidden)
    for mask in (None, ids != 3, (ids == 9) | (ids == 7), torch.ones_like(ids).cumsum(1) > 1):
        for given in (ids, ids.masked_fill(ids == 3, 6).where(mask, 3) if mask is not None else ids):
            assert_answers(loop, plain, PaddedCall(given, mask, None, 0.5), by_ids, ENTROPY_RULE)


def test_what_lies_behind_a_shorter_call_is_not_looked_at():
    """Cells, mask and token types of a longer call before."""
    plain, loop, _ = whole_loop()
    entrance = entrance_of()
    long = PaddedCall(random_ids(4, 16), right(4, 16), torch.ones(4, 16, dtype=torch.int64), 0.5)
    for call in (long, PaddedCall(random_ids(2, 9), None, None, 0.5), PaddedCall(random_ids(1, 3), None, None, 0.5)):
        assert_answers(loop, plain, call, entrance, ENTROPY_RULE)
    bad = PaddedCall(torch.full((4, 16), VOCABULARY), None, None, 0.5)
    assert loop.answer_padded(bad, entrance, ENTROPY_RULE).fault
    assert_answers(loop, plain, PaddedCall(random_ids(2, 9), None, None, 0.5), entrance, ENTROPY_RULE)


def test_a_nan_is_told_with_the_answers():
    _, loop, _ = whole_loop()
    entrance = entrance_of()
    entrance.tables[0][7] = math.nan
    ids = torch.full((2, 3), 5)
    ids[1, 1] = 7
    answered = loop.answer_padded(PaddedCall(ids, None, None, 0.5), entrance, ENTROPY_RULE)
    assert [math.isnan(value) for value in answered.uncertainty] == [False, True] and not answered.fault


def test_calls_that_are_to_be_packed():
    _, loop, recorder = whole_loop()
    call = PaddedCall(random_ids(2, 9), None, None, 0.5)
    assert not loop.takes_padded(8, 65) and not loop.takes_padded(9, 1) and not loop.takes_padded(1, 513)
    assert loop.answer_padded(call, entrance_of(), Rule("patience", 1)) is None
    assert loop.answer_padded(PaddedCall(random_ids(9, 1), None, None, 0.5), entrance_of(), ENTROPY_RULE) is None
    assert not recorder.recorded

    class Unchained(HostileRecorder):
        def chain(self, stages):
            raise RuntimeError("the driver has no conditional graph nodes")

    _, loop, _ = whole_loop(recorder=Unchained())
    with pytest.warns(RuntimeWarning, match="no CUDA graph of all layers"):
        assert loop.answer_padded(call, entrance_of(), ENTROPY_RULE) is None
    assert not loop.takes_padded(2, 9)


def test_recorded_ahead_or_for_a_table_in_another_place():
    plain, loop, recorder = whole_loop(on_demand=False)
    entrance, call = entrance_of(), PaddedCall(random_ids(2, 9), None, None, 0.5)
    assert not loop.takes_padded(2, 9) and loop.answer_padded(call, entrance, ENTROPY_RULE) is None
    loop.warm_up([(64, 8, 64)], entrance=entrance)
    recorded = len(recorder.recorded)
    assert recorded == DEPTH + 2
    for rule in (ENTROPY_RULE, FULL_DEPTH):
        assert loop.takes_padded(2, 9)
        assert_answers(loop, plain, call, entrance, rule)
    other = entrance_of()
    assert loop.answer_padded(call, other, ENTROPY_RULE) is None and len(recorder.recorded) == recorded
    loop.record_on_demand()
    assert_answers(loop, plain, call, other, ENTROPY_RULE)
    assert len(recorder.recorded) == recorded + 1
    entrance.tables[0].mul_(2)  # where it lies
    loop.answer_padded(call, entrance, ENTROPY_RULE)
    assert_answers(loop, plain, call, entrance, ENTROPY_RULE)


def test_during_another_call_a_batch_is_to_be_packed():
    _, loop, _ = whole_loop()
    call = PaddedCall(random_ids(2, 9), None, None, 0.5)
    with loop.recordings.lock:
        assert loop.answer_padded(call, entrance_of(), ENTROPY_RULE) is None
