"""Spans: any division of the layers gives the bits of one run, and arrivals that are merged on their way have the bits
of each alone."""

from __future__ import annotations

import copy
import functools
import itertools
import math

import hypothesis
import pytest
import torch
from hypothesis import strategies
from torch import nn

from fastbert_kernels.criteria import Criterion
from fastbert_kernels.engine.compiled import CompiledEncoder
from fastbert_kernels.engine.dtypes import PRODUCTS
from fastbert_kernels.engine.host_layers import HostEncoder, PaddedBatch
from fastbert_kernels.engine.layer import NoLayer
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.rule import FULL_DEPTH, Rule
from fastbert_kernels.engine.spans import PackedState
from helpers.encoders import GRAPHED, WIDTH, attentive, cast, make_encoder, pooled, random_batch, random_loop

DEPTH = 6
COMPILED = {"compiled": torch.float32, "compiled bfloat16": torch.bfloat16, "compiled int8": torch.int8}
KINDS = [*COMPILED, "cpu", "reference float64", *GRAPHED, "host layers"]
PARAMETERS = {Criterion.TOP_K_ENTROPY: (2,), Criterion.PATIENCE: (1, 2, 3)}
LAYER_SPEEDS = [
    None,
    (0.2, 0.3, 0.5, 0.4, 0.3, 0.0),
    (None, 0.4, None, 1.0, None, None),
    (None, None, None, 0.6, math.inf, 1.0),
]
RULES = [
    FULL_DEPTH,
    *(
        Rule(criterion, parameter, speeds)
        for criterion in Criterion
        for parameter in PARAMETERS.get(criterion, (0,))
        for speeds in LAYER_SPEEDS
    ),
]


@functools.cache
def encoder_of(kind):
    """Its third layer has no head, and its fifth head is a second one behind the fourth layer."""
    with torch.random.fork_rng():
        torch.manual_seed(20)
        layers = random_loop(depth=DEPTH, hidden_size=WIDTH).layers
        layers[4] = NoLayer(torch.float64)
        heads = [attentive(), pooled(3), None, attentive(), pooled(8, 3, pooling="mean"), attentive()]
    for head in heads:
        if head is not None:
            bias = head.biases[-1] if hasattr(head, "biases") else head.tensors.output_bias
            bias[0] += 2  # so that some have streaks
    if kind in COMPILED:
        dtype = torch.float32 if kind == "compiled" else torch.bfloat16
        weights = [None if isinstance(layer, NoLayer) else layer.weights for layer in layers]
        heads = [None if head is None else cast(head, dtype) for head in heads]
        return CompiledEncoder(weights, heads, dtype, PRODUCTS if kind == "compiled int8" else ())
    if kind == "host layers":
        modules = [Mixing(number) for number in range(DEPTH)]
        return HostEncoder(
            modules, heads, lambda layer, hidden, valid: layer(hidden, valid), "reference", torch.float64
        )
    return make_encoder(kind, layers, heads)


class Mixing(nn.Module):
    """A layer of a host: every token sees the mean of its sample."""

    def __init__(self, number):
        super().__init__()
        generator = torch.Generator().manual_seed(number)
        self.weight = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) / WIDTH**0.5

    def forward(self, hidden, valid):
        mean = (hidden * valid[..., None]).sum(1, keepdim=True) / valid.sum(1)[:, None, None]
        return nn.functional.layer_norm(hidden @ self.weight + mean, (WIDTH,))


def batch_of(kind, lengths, speeds, seed):
    torch.manual_seed(seed)
    batch = random_batch(lengths, speeds, hidden_size=WIDTH, dtype=encoder_of(kind).dtype)
    batch.renumber()
    return batch


def assert_same_bits(got, want):
    for name in ("logits", "uncertainty", "exit_layer"):
        values, others = getattr(got, name), getattr(want, name)
        assert values.dtype == others.dtype
        assert torch.equal(values.nan_to_num(7), others.nan_to_num(7)), name


class Answers:
    """The answers of those who left, by index; each may leave once."""

    def __init__(self):
        self.of = {}

    def take(self, left, first, until):
        assert all(first < layer <= until for layer in left.exit_layer.tolist())
        for index, *answer in zip(left.indices.tolist(), left.logits, left.uncertainty, left.exit_layer, strict=True):
            assert index not in self.of
            self.of[index] = answer

    def of_indices(self, indices):
        logits, uncertainty, exit_layer = (
            torch.stack(values) for values in zip(*map(self.of.pop, indices.tolist()), strict=True)
        )
        return type("Results", (), {"logits": logits, "uncertainty": uncertainty, "exit_layer": exit_layer})


samples = strategies.lists(
    strategies.tuples(strategies.integers(1, 40), strategies.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 1.0, math.nan])),
    min_size=1,
    max_size=9,
)


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    samples=samples,
    rule=strategies.sampled_from(RULES),
    ends=strategies.sets(strategies.integers(1, DEPTH - 1)),
    bad=strategies.booleans(),
    seed=strategies.integers(0, 1000),
)
def test_any_division_of_the_layers_gives_the_bits_of_one_run(kind, samples, rule, ends, bad, seed):
    encoder, (lengths, speeds) = encoder_of(kind), map(list, zip(*samples, strict=True))
    batch = batch_of(kind, lengths, torch.tensor(speeds), seed)
    if bad:
        batch.hidden[lengths[0] // 2] = math.nan
    want = encoder.run(copy.copy(batch), rule)
    indices = torch.randperm(len(lengths)) + 2**40
    state, answers, behind = encoder.start(batch, rule, indices), Answers(), 0
    for end in [*sorted(ends), DEPTH]:
        left = encoder.advance(state, end)
        answers.take(left, behind, end)
        assert (state.layer, behind) == (end, behind)
        # Who is left stands in the old order, and owns all rows.
        assert len(state) == len(state.indices) and not set(state.indices.tolist()) & answers.of.keys()
        order = [indices.tolist().index(index) for index in state.indices.tolist()]
        assert order == sorted(order)
        assert state.batch.cu_seqlens.diff().tolist() == [lengths[row] for row in order]
        assert state.tokens == sum(lengths[row] for row in order)
        behind = end
    assert len(state) == 0 == state.tokens
    assert_same_bits(answers.of_indices(indices), want)
    assert not answers.of


def test_the_cases_have_samples_that_leave_at_every_head_and_between_spans():
    layers = set()
    for rule in RULES:
        batch = batch_of("compiled", [3, 9, 20, 1, 7, 30, 5, 12], torch.linspace(0.1, 1, 8), 3)
        layers.update(encoder_of("compiled").run(batch, rule).exit_layer.tolist())
    assert layers == {1, 2, 4, 5, 6}


@pytest.mark.parametrize("kind", COMPILED)
@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    arrivals=strategies.lists(strategies.tuples(samples, strategies.integers(0, 6)), min_size=2, max_size=5),
    rule=strategies.sampled_from(RULES),
    most=strategies.integers(1, 12),
    stride=strategies.integers(1, DEPTH),
    seed=strategies.integers(0, 1000),
)
def test_arrivals_that_share_their_layers_have_the_bits_of_each_alone(kind, arrivals, rule, most, stride, seed):
    """A pool in small: batches arrive at any time, states behind one layer are merged, split where they are too many,
    and advanced, the deepest first or last."""
    encoder, waiting, answers, wanted = encoder_of(kind), [], Answers(), {}
    for number, (drawn, _) in enumerate(arrivals):
        lengths, speeds = map(list, zip(*drawn, strict=True))
        batch = batch_of(kind, lengths, torch.tensor(speeds), seed + number)
        indices = torch.arange(len(lengths)) + 1000 * number
        wanted[number] = indices, encoder.run(copy.copy(batch), rule)
        waiting.append((arrivals[number][1], encoder.start(batch, rule, indices)))
    states, step = [], 0
    while waiting or states:
        states += [state for time, state in waiting if time <= step]
        waiting = [(time, state) for time, state in waiting if time > step]
        step += 1
        if not states:
            continue
        layer = (min if step % 2 else max)(state.layer for state in states)
        together = PackedState.concatenate([state for state in states if state.layer == layer])
        states = [state for state in states if state.layer != layer]
        part, rest = together.split(min(most, len(together)))
        until = min(DEPTH, layer + stride)
        answers.take(encoder.advance(part, until), layer, until)
        states += [state for state in (part, rest) if len(state)]
    for indices, want in wanted.values():
        assert_same_bits(answers.of_indices(indices), want)


@pytest.mark.parametrize("kind", ["cpu", "reference float64", *GRAPHED])
def test_arrivals_merged_in_the_other_loops(kind):
    """Products round by their number of rows there, so to a tolerance."""
    encoder = encoder_of(kind)
    for rule in RULES:
        first, second = (batch_of(kind, lengths, 0.4, seed) for seed, lengths in enumerate(([5, 30, 2], [9, 1, 14, 7])))
        want = [encoder.run(copy.copy(batch), rule) for batch in (first, second)]
        states = [
            encoder.start(batch, rule, torch.arange(len(batch)) + place) for batch, place in ((first, 0), (second, 3))
        ]
        answers = Answers()
        for state in states:
            answers.take(encoder.advance(state, 2), 0, 2)
        merged = PackedState.concatenate(states)
        answers.take(encoder.advance(merged, DEPTH), 2, DEPTH)
        got = answers.of_indices(torch.arange(7))
        assert torch.equal(got.exit_layer, torch.cat([results.exit_layer for results in want]))
        torch.testing.assert_close(got.logits, torch.cat([results.logits for results in want]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_one_layer_after_the_other_for_one_sample(kind):
    encoder = encoder_of(kind)
    for rule in RULES:
        batch = batch_of(kind, [12], 0.4, 1)
        want = encoder.run(copy.copy(batch), rule)
        state = encoder.start(batch, rule)
        left = [encoder.advance(state, layer) for layer in range(1, DEPTH + 1)]
        (there,) = [number for number, part in enumerate(left, start=1) if len(part.indices)]
        assert_same_bits(left[there - 1], want)
        assert left[there - 1].indices.tolist() == [0] and want.exit_layer.tolist() == [there]


def test_padding_that_is_kept():
    """It stays with its sample, through spans, splits and merges."""
    encoder = encoder_of("host layers")
    torch.manual_seed(4)
    valid = torch.rand(7, 9) < 0.7
    valid[:, 0] = True
    hidden, bounds = torch.randn(7 * 9, WIDTH, dtype=torch.float64), torch.arange(0, 64, 9, dtype=torch.int32)

    def padded(rows):
        part = hidden.unflatten(0, (7, 9))[rows].flatten(0, 1)
        made = PackedBatch.of(part, bounds[: len(rows) + 1], 9, torch.linspace(0.2, 0.6, 7)[rows])
        return PaddedBatch(**vars(made), valid=valid[rows])

    want = encoder.run(padded(list(range(7))), Rule())
    assert len(want.exit_layer.unique()) > 1
    answers = Answers()
    states = [encoder.start(padded(rows), Rule(), torch.tensor(rows)) for rows in ([0, 1, 2], [3, 4, 5, 6])]
    for state in states:
        answers.take(encoder.advance(state, 1), 0, 1)
    first, rest = PackedState.concatenate(states).split(2)
    for state in (first, rest):
        answers.take(encoder.advance(state, 3), 1, 3)
    merged = PackedState.concatenate([rest, first])
    answers.take(encoder.advance(merged, DEPTH), 3, DEPTH)
    got = answers.of_indices(torch.arange(7))
    assert torch.equal(got.exit_layer, want.exit_layer)
    torch.testing.assert_close(got.logits, want.logits)
    longer = PaddedBatch(**vars(PackedBatch.of(hidden[:10], bounds[:1].new_tensor([0, 10]), 10, 0.5)), valid=valid)
    with pytest.raises(ValueError, match=r"keep their padding must all have the same length, not \[9, 10\]"):
        PackedState.concatenate([encoder.start(batch, Rule()) for batch in (padded([0]), longer)])


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_advanced(kind):
    encoder = encoder_of(kind)
    state = encoder.start(batch_of(kind, [4, 5], 1.0, 0), Rule())
    for until in (-1, 0, DEPTH + 1):
        with pytest.raises(ValueError, match=f"behind layer 0 of {DEPTH} can be advanced to a later one, not {until}"):
            encoder.advance(state, until)
    assert len(encoder.advance(state, 2).indices) == 2
    with pytest.raises(ValueError, match=f"behind layer 2 of {DEPTH} can be advanced to a later one, not 2"):
        encoder.advance(state, 2)
    left = encoder.advance(state, 4)  # nobody
    assert state.layer == 4 and left.logits.shape == (0, 3) and left.exit_layer.dtype == torch.int64
    assert left.indices.tolist() == left.uncertainty.tolist() == []
    with pytest.raises(ValueError, match="a rule for 4 layers cannot run 6"):
        encoder.start(batch_of(kind, [4], 1.0, 0), Rule(layer_speeds=(0.5,) * 4))


def test_what_cannot_be_merged_or_split():
    encoder = encoder_of("compiled")
    first, second, other = (
        encoder.start(batch_of("compiled", [4, 5], 0.0, 0), rule) for rule in (Rule(), Rule(), Rule("confidence"))
    )
    with pytest.raises(ValueError, match="there is no state to concatenate"):
        PackedState.concatenate([])
    with pytest.raises(ValueError, match="must have one rule"):
        PackedState.concatenate([first, other])
    encoder.advance(second, 1)
    with pytest.raises(ValueError, match=r"must have one layer, not \['0', '1'\]"):
        PackedState.concatenate([first, second])
    for count in (-1, 3):
        with pytest.raises(ValueError, match=f"a state of 2 samples cannot be split behind {count}"):
            first.split(count)
    assert [len(part) for part in first.split(0)] == [0, 2] and [part.tokens for part in first.split(2)] == [9, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_some_of_a_state_go_on_without_the_others(kind):
    encoder, lengths = encoder_of(kind), [5, 30, 2, 9, 1, 14]
    speeds = torch.tensor([0.0, 0.1, 0.8, 0.0, 0.1, 0.8])
    for rule in (Rule(), Rule(Criterion.PATIENCE, 4)):
        want = encoder.run(batch_of(kind, lengths, speeds, 3), rule)
        state = encoder.start(batch_of(kind, lengths, speeds, 3), rule, torch.arange(10, 16))
        before = encoder.advance(state, 2).indices.tolist()
        places = [place for place in (3, 0, 1) if place < len(state)]
        chosen = state.select(places)
        assert chosen.indices.tolist() == [state.indices.tolist()[place] for place in places]
        left = encoder.advance(chosen, DEPTH)
        assert not {*before} & {*left.indices.tolist()} and len(left.indices) == len(places) > 0
        answers = zip(left.indices.tolist(), left.exit_layer.tolist(), left.logits, strict=True)
        for index, exit_layer, logits in answers:
            assert exit_layer == int(want.exit_layer[index - 10])
            torch.testing.assert_close(logits, want.logits[index - 10], rtol=1e-4, atol=1e-4)


def test_graphs_record_what_spans_need():
    """Spans between heads share the stages of a run; a span that ends without a head has its own."""
    for kind in GRAPHED:
        encoder = make_encoder(kind, *_layers_and_heads())
        for ends in ((1, 2, 4, 5, 6), (2, 5, 6), (3, 6), (3, 6)):
            state = encoder.start(batch_of(kind, [5, 9], 1e-9, 1), Rule())
            for end in ends:
                encoder.advance(state, end)
        (place,) = encoder.recordings.places.values()
        found = sorted((layers.first, layers.end) for layers in place.stages)
        assert found == [(0, 1), (1, 2), (2, 3), (2, 4), (3, 4), (4, 5), (5, 6)]


def _layers_and_heads():
    layers = random_loop(depth=DEPTH, hidden_size=WIDTH).layers
    return layers, [None if number == 2 else attentive() for number in range(DEPTH)]


@pytest.mark.parametrize("most", [0, 1, 3])
def test_all_lengths_of_spans_with_samples_without_tokens(most):
    """As the loops, the spans take samples that have no token."""
    encoder = encoder_of("compiled")
    batch = batch_of("compiled", [0, 3, 0, most], 0.3, 2)
    for ends in itertools.combinations(range(1, DEPTH), 2):
        want = encoder.run(copy.copy(batch), Rule())
        state, answers, behind = encoder.start(copy.copy(batch), Rule()), Answers(), 0
        for end in (*ends, DEPTH):
            answers.take(encoder.advance(state, end), behind, end)
            behind = end
        assert_same_bits(answers.of_indices(torch.arange(4)), want)
