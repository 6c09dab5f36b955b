"""Exit rules in every kind of encoder: against each sample walking alone through the logits of all heads, decided in
plain Python."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math

import pytest
import torch

from fastbert_kernels import ops
from fastbert_kernels.criteria import WITH_HISTORY, Criterion
from fastbert_kernels.engine.layer import NoLayer
from fastbert_kernels.engine.rule import ENTROPY_RULE, FULL_DEPTH, Rule, asked_layers
from fastbert_kernels.engine.weights import AttentiveHeadWeights
from helpers.criteria import uncertainty_of
from helpers.encoders import ENCODERS, GRAPHED, attentive, evaluate, make_batch, make_encoder, pooled, random_loop
from helpers.op_inputs import cu_seqlens_of
from helpers.refusals import refused

DEPTH = 8
LENGTHS = [7, 1, 30, 3, 40, 2, 33, 9, 4, 12, 1, 25, 6, 18, 11, 3, 8, 21, 5, 14]
BAD = 5  # this sample's rows are NaN
KINDS = [*ENCODERS, *GRAPHED]
TRIED = {Criterion.TOP_K_ENTROPY: (2, 5), Criterion.PATIENCE: (1, 2, 3)}  # parameters, among 3 classes
CRITERIA = {
    f"{criterion.value} {parameter}": {"criterion": criterion.value, "parameter": parameter}
    for criterion in Criterion
    for parameter in TRIED.get(criterion, (0,))
}
LAYER_SPEEDS = {
    "none": None,
    "all": (0.05, 0.3, 0.5, 0.15, 0.1, 0.4, 0.3, None),
    "some": (None, 0.15, 1.0, 0.0, math.inf, None, 0.5, math.nan),  # the last is not looked at; the third has no head
    "one": (None, None, None, 1.0, None, None, None, 1.0),
    "nobody": (None,) * DEPTH,
}
SPEEDS = {
    "1": 1.0,
    "0.5": 0.5,
    "spread": torch.linspace(-0.1, 1.1, len(LENGTHS)).roll(7).index_fill(0, torch.tensor(2), math.nan),
}


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Layers and heads in float64, a batch without Speed, and the logits of each sample alone behind each layer; None
    behind a layer without a head."""

    layers: list
    heads: list
    batch: object
    logits: list


@functools.cache
def scenario() -> Scenario:
    with torch.random.fork_rng():
        torch.manual_seed(20)
        layers = random_loop(depth=DEPTH).layers
        layers[5] = NoLayer(torch.float64)  # the sixth head is a second one behind the fifth layer
        heads = [pooled(3), attentive(), None, pooled(8, 3, pooling="mean"), *(attentive() for _ in range(4))]
        batch = make_batch(LENGTHS, 0.0)
    for head in heads:
        if head is not None:
            bias = head.tensors.output_bias if isinstance(head, AttentiveHeadWeights) else head.biases[-1]
            bias[0] += 3  # so that some samples have streaks
    batch.hidden[sum(LENGTHS[:BAD])] = math.nan
    return Scenario(layers, heads, batch, [alone(layers, heads, rows) for rows in batch.hidden.split(LENGTHS)])


def alone(layers, heads, rows):
    """Logits behind each layer, or None, of one sample's rows."""
    logits = []
    for layer, head in zip(layers, heads, strict=True):
        rows = layer(rows, cu_seqlens_of([len(rows)]), len(rows))
        logits.append(None if head is None else evaluate(head, rows)[0].tolist())
    return logits


def single(value):
    """Rounded to float32."""
    return float(torch.tensor(value, dtype=torch.float32))


def walk(logits, rule, speed):
    """(exit layer, how far the closest decision on the way was from the other one, uncertainty) of a sample."""
    closest, previous, streak, before = math.inf, None, 0, math.nan
    for layer in range(1, DEPTH):
        values = logits[layer - 1]
        limit = math.inf if rule.layer_speeds is None else rule.layer_speeds[layer - 1]
        if values is None or limit is None:
            continue
        uncertainty = uncertainty_of(values, rule.criterion, rule.parameter, before)
        before = values[0]
        if math.isnan(uncertainty):
            previous, streak = None, 0
            continue
        if rule.criterion == "patience":
            prediction = values.index(max(values))
            streak, previous = (streak + 1 if prediction == previous else 1), prediction
            second, first = sorted(values)[-2:]
            distance, leaves = first - second, streak >= rule.parameter
        elif math.isnan(speed):
            continue
        else:
            threshold = min(single(speed), single(limit))
            distance = abs(uncertainty - threshold) if threshold > 0 else math.inf
            leaves = uncertainty < threshold
        closest = min(closest, distance)
        if leaves:
            return layer, closest, uncertainty
    return DEPTH, closest, uncertainty_of(logits[-1], rule.criterion, rule.parameter, before)


def batch_with(speed, dtype=torch.float64):
    batch = copy.copy(scenario().batch)
    batch.hidden = batch.hidden.to(dtype)
    batch.speed = torch.as_tensor(speed, dtype=torch.float32).expand(len(LENGTHS)).clone()
    return batch


def make_rule(criterion, layer_speeds):
    return Rule(**CRITERIA[criterion], layer_speeds=LAYER_SPEEDS[layer_speeds])


@functools.cache
def walks(criterion, layer_speeds, speed):
    """The walk of every sample, by names."""
    rule, speeds = make_rule(criterion, layer_speeds), batch_with(SPEEDS[speed]).speed.tolist()
    return [walk(logits, rule, own) for logits, own in zip(scenario().logits, speeds, strict=True)]


def assert_as_walked(encoder, criterion, layer_speeds, speed):
    batch, rule = batch_with(SPEEDS[speed], encoder.dtype), make_rule(criterion, layer_speeds)
    got = encoder.run(copy.copy(batch), rule)
    exact = encoder.dtype == torch.float64
    tolerance = {"rtol": 1e-5, "atol": 1e-6 if exact else 1e-4, "equal_nan": True}
    walked = list(enumerate(walks(criterion, layer_speeds, speed)))
    least = 1e-9 if exact else 1e-4
    decided = [(b, layer, uncertainty) for b, (layer, closest, uncertainty) in walked if closest >= least]
    assert len(decided) == len(LENGTHS) if exact else len(decided) > 0.8 * len(LENGTHS)
    rows, layers, uncertainties = zip(*decided, strict=True)
    assert got.exit_layer[list(rows)].tolist() == list(layers)
    logits = torch.tensor([scenario().logits[b][layer - 1] for b, layer, _ in decided])
    torch.testing.assert_close(got.logits[list(rows)], logits, **tolerance)
    torch.testing.assert_close(got.uncertainty[list(rows)].double(), torch.tensor(uncertainties).double(), **tolerance)
    assert got.exit_layer[BAD] == DEPTH and got.uncertainty[BAD].isnan()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer_speeds", LAYER_SPEEDS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_sample_leaves_where_it_would_alone(poisoned_memory, kind, layer_speeds, criterion):
    rule, encoder = make_rule(criterion, layer_speeds), make_encoder(kind, scenario().layers, scenario().heads)
    for speed in SPEEDS:
        assert_as_walked(encoder, criterion, layer_speeds, speed)
    if kind in GRAPHED:
        assert bool(encoder.recordings.recorder.replayed) is (rule.criterion not in WITH_HISTORY)


def test_the_cases_tell_rules_apart():
    """What the test above compares with differs from rule to rule, and samples leave all over the layers."""

    def walked(*names):
        return tuple(layer for layer, _, _ in walks(*names))

    for criterion in CRITERIA:
        exits = {names: walked(criterion, *names) for names in itertools.product(LAYER_SPEEDS, SPEEDS)}
        assert len(set(itertools.chain.from_iterable(exits.values()))) >= 4
        apart = ["all", "some", "nobody"] if criterion.startswith("patience") else list(LAYER_SPEEDS)
        if criterion.startswith("stability"):
            apart.remove("one")  # a single head has none before it, and lets nobody out
        assert len({exits[name, "1"] for name in apart}) == len(apart)
    different = [walked(criterion, "all", "spread") for criterion in CRITERIA if criterion != "top_k_entropy 5"]
    assert len(set(different)) == len(different)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("b", [0, 4])
def test_one_sample(kind, criterion, b):
    rule, encoder = make_rule(criterion, "all"), make_encoder(kind, scenario().layers, scenario().heads)
    batch = make_batch([LENGTHS[b]], 0.8)
    batch.hidden = scenario().batch.hidden.split(LENGTHS)[b].to(encoder.dtype)
    got = encoder.run(batch, rule)
    assert got.exit_layer.tolist() == [walk(scenario().logits[b], rule, 0.8)[0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rule", "speed", "layer"),
    [
        (Rule(layer_speeds=(1.0,) * DEPTH), 1.0, 1),
        (Rule("confidence"), 1.0, 1),
        (Rule("patience", 1), 0.0, 1),
        (Rule("patience", 1, (None, 0.0, *[None] * 6)), 0.0, 2),
        (Rule(layer_speeds=(math.inf,) * DEPTH), math.inf, 1),
        (Rule(layer_speeds=(1.0,) * DEPTH), 0.0, DEPTH),
        (Rule(layer_speeds=(0.0,) * DEPTH), 1.0, DEPTH),
        (Rule(layer_speeds=(None,) * DEPTH), 1.0, DEPTH),
        (Rule("patience", 1, (None,) * DEPTH), 1.0, DEPTH),
        (Rule("patience", 7), 1.0, DEPTH),  # with six students
        (FULL_DEPTH, 1.0, DEPTH),
    ],
    ids=str,
)
def test_all_leave_at_one_layer(kind, rule, speed, layer):
    encoder = make_encoder(kind, scenario().layers, scenario().heads)
    got = encoder.run(batch_with(speed, encoder.dtype), rule)
    assert got.exit_layer.tolist() == [DEPTH if b == BAD else layer for b in range(len(LENGTHS))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_full_depth_reports_the_uncertainty_of_its_criterion(kind, criterion):
    encoder = make_encoder(kind, scenario().layers, scenario().heads)
    got = encoder.run(batch_with(1.0, encoder.dtype), Rule(**CRITERIA[criterion], early_exits=False))
    assert got.exit_layer.tolist() == [DEPTH] * len(LENGTHS)
    want = [uncertainty_of(logits[-1], **CRITERIA[criterion]) for logits in scenario().logits]
    torch.testing.assert_close(
        got.uncertainty.double(), torch.tensor(want).double(), rtol=1e-4, atol=1e-4, equal_nan=True
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("changed", ["nan", "sure"])
def test_weights_of_heads_that_are_not_asked_do_not_matter(kind, criterion, changed):
    """Not even where that head would break a streak, or let everybody out."""
    heads = list(scenario().heads)
    rule = Rule(**CRITERIA[criterion], layer_speeds=(0.8, None, None, None, 0.8, None, 0.5, None))
    encoder = make_encoder(kind, scenario().layers, heads)
    want = encoder.run(batch_with(0.9, encoder.dtype), rule)
    for number in (2, 4):
        replaced = pooled(3)
        replaced.biases[0][:] = math.nan if changed == "nan" else torch.tensor([1000.0, 0.0, 0.0])
        heads[number - 1] = replaced
    got = make_encoder(kind, scenario().layers, heads).run(batch_with(0.9, encoder.dtype), rule)
    for name in ("logits", "uncertainty", "exit_layer"):
        assert torch.equal(getattr(got, name).nan_to_num(7), getattr(want, name).nan_to_num(7))


@pytest.mark.parametrize("kind", ["reference", "cpu", *GRAPHED])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_heads_that_are_not_asked_are_not_computed(monkeypatch, kind, criterion):
    """Neither the head nor compaction behind it."""
    calls = []

    def counted(name):
        original = getattr(ops, name)

        def call(*arguments, **options):
            calls.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(ops, name, call)

    encoder = make_encoder(kind, scenario().layers, scenario().heads)
    rule = Rule(**CRITERIA[criterion], layer_speeds=(1e-9, None, 1.0, None, 1e-9, None, None, 1.0))
    encoder.run(batch_with(1.0, encoder.dtype), rule)  # records
    for name in ("attentive_head", "pooled_exit_head", "compact"):
        counted(name)
    got = encoder.run(batch_with(1.0, encoder.dtype), rule)
    assert got.exit_layer.max() == DEPTH
    assert [name for name in calls if name != "compact"] == ["pooled_exit_head", "attentive_head", "attentive_head"]
    assert calls.count("compact") == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_for_another_number_of_layers(kind):
    encoder = make_encoder(kind, scenario().layers, scenario().heads)
    with pytest.raises(ValueError, match="a rule for 4 layers cannot run 8; give layer_speeds one entry per layer"):
        encoder.run(batch_with(0.5, encoder.dtype), Rule(layer_speeds=(0.5,) * 4))


@refused(
    ({"criterion": "mood"}, "unknown criterion 'mood'"),
    ({"parameter": 1}, "'entropy' has no parameter"),
    ({"criterion": "top_k_entropy", "parameter": 1}, "must be at least 2"),
    ({"criterion": "patience"}, "must be at least 1"),
    ({"layer_speeds": (-0.1, 0.5)}, "the Speed of layer 1 must be at least 0 and not NaN, got -0.1"),
    ({"layer_speeds": (None, math.nan, 0.5)}, "the Speed of layer 2 must"),
    ({"early_exits": False, "layer_speeds": (0.5, 0.5)}, "no layer has a Speed: leave layer_speeds out"),
)
def test_what_a_rule_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        Rule(**changes)


def test_a_rule_by_the_name_of_its_criterion_is_the_same_rule():
    assert Rule("confidence") == Rule(Rule("confidence").criterion)
    assert hash(Rule("confidence")) == hash(Rule(Rule("confidence").criterion))


def test_which_heads_are_asked():
    heads = scenario().heads  # none behind the third layer
    speeds = (0.0, 0.5, 0.5, None, 1.0, None, None, None)
    assert asked_layers(ENTROPY_RULE, heads) == (1, 2, 4, 5, 6, 7, 8)
    assert asked_layers(Rule(layer_speeds=speeds), heads) == (2, 5, 8)  # no uncertainty is below 0
    assert asked_layers(Rule("patience", 1, speeds), heads) == (1, 2, 5, 8)
    assert asked_layers(FULL_DEPTH, heads) == (8,)
