"""The exit decision that all heads share: every criterion against its definition, predictions, streaks and ties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbert_kernels import ops, reference
from fastbert_kernels.criteria import PARAMETERS, Criterion
from helpers.accuracy import assert_accurate
from helpers.criteria import (
    CHANGES,
    EVERY_CRITERION,
    EVERY_OF_CLASSES,
    EXACT_MARGINS,
    OF_CLASSES,
    SCORES,
    STABLE,
    options_of,
    uncertainty_of,
)
from helpers.rounding import rivals

BACKENDS = ["cpu", "reference"]


def decide(logits, speed=0.5, backend="cpu", **options):
    """The decision alone: rows of the identity matrix pick the logits, which are the columns of the weight."""
    batch, labels = logits.shape
    weight, bias = torch.zeros(labels, batch), torch.zeros(labels)
    weight.copy_(logits.T)
    arguments = (torch.eye(batch), torch.arange(batch + 1).int(), torch.as_tensor(speed).expand(batch).contiguous())
    _, uncertainty, history, keep = ops.pooled_exit_head(*arguments, [weight], [bias], backend=backend, **options)
    return uncertainty, history, keep


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("criterion", OF_CLASSES)
@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(-30, 30, width=32), min_size=7, max_size=7), min_size=1, max_size=5),
    parameter=st.integers(2, 9),
    speed=st.floats(0, 1, width=32),
)
def test_every_criterion_follows_its_definition(backend, criterion, rows, parameter, speed):
    logits = torch.tensor(rows)
    uncertainty, history, keep = decide(logits, speed, backend, **options_of(criterion, parameter))
    for row, u, (prediction, streak), stays in zip(rows, uncertainty, history.tolist(), keep, strict=True):
        want = uncertainty_of(row, criterion.value, parameter)
        assert abs(float(u) - want) < 2e-6
        assert prediction == row.index(max(row)) and streak == 1
        if criterion is Criterion.PATIENCE:
            assert stays
        elif abs(want - speed) > 1e-5:
            assert bool(stays) == (not want < speed)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("criterion", OF_CLASSES)
@pytest.mark.parametrize("labels", [2, 17, 1031])
def test_few_and_many_labels(backend, criterion, labels):
    rows = 4 * torch.randn(6, labels)
    uncertainty, history, _ = decide(rows, 0.5, backend, **options_of(criterion, 10))
    for row, u, (prediction, _) in zip(rows, uncertainty, history.tolist(), strict=True):
        assert abs(float(u) - uncertainty_of(row, criterion.value, 10)) < 4e-6
        assert prediction == int(row.argmax())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("criterion", OF_CLASSES)
@pytest.mark.parametrize("labels", [2, 3, 96])
@pytest.mark.parametrize("scale", [0.01, 1, 8])
def test_the_error_is_at_most_twice_that_of_pytorch(backend, criterion, labels, scale):
    logits = scale * torch.randn(150, labels)
    parameter = options_of(criterion, 5)["parameter"]
    exact = reference.UNCERTAINTIES[criterion](logits.double(), parameter)
    theirs = rivals(lambda: reference.UNCERTAINTIES[criterion](logits, parameter), answers=len(logits))
    # Each row as the bias of a batch of its own, since a product with many columns may round.
    got = torch.cat([_decide_alone(row, backend, criterion, parameter) for row in logits])
    assert_accurate(got, exact, theirs, least=torch.finfo(torch.float32).eps)
    assert got.min() >= 0 and got.max() <= 1


def _decide_alone(logits, backend="cpu", criterion="entropy", parameter=0):
    arguments = (torch.zeros(1, 3), torch.tensor([0, 1]).int(), torch.ones(1), [torch.zeros(len(logits), 3)], [logits])
    return ops.pooled_exit_head(*arguments, criterion=criterion, parameter=parameter, backend=backend)[1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("logits", "margin"), EXACT_MARGINS, ids=str)
def test_margins_without_rounding(backend, logits, margin):
    assert _decide_alone(torch.tensor(logits), backend, "margin").tolist() == [margin]


@pytest.mark.parametrize("backend", BACKENDS)
def test_binary_entropies_without_rounding(backend):
    """Every label certain, every label even, half of them; a label that is impossible is not a number."""
    rows = [[200.0, -200.0, 3e38, -3e38], [0.0] * 4, [0.0, -200.0, 0.0, 200.0], [0.0, 1.0, -math.inf, 2.0]]
    got = torch.cat([_decide_alone(torch.tensor(row), backend, "binary_entropy") for row in rows])
    assert got[:3].tolist() == [0.0, 1.0, 0.5] and got[3].isnan()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", EVERY_CRITERION, ids=str)
def test_nothing_but_impossible_classes_is_not_a_number(backend, options):
    assert _decide_alone(torch.full((4,), -math.inf), backend, **options).isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_patience_counts_equal_predictions_in_a_row(backend):
    history, seen = None, []
    for winner in (2, 2, 0, 0, 0, 1):
        logits = torch.zeros(1, 3)
        logits[0, winner] = 5
        _, history, keep = decide(logits, 1.0, backend, criterion="patience", parameter=3, history=history)
        seen.append((*history[0].tolist(), bool(keep[0])))
    assert seen == [(2, 1, True), (2, 2, True), (0, 1, True), (0, 2, True), (0, 3, False), (1, 1, True)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("labels", [1, 3])
def test_stability_is_the_change_since_the_head_before(backend, labels):
    """The score is the first logit; after one that is not a number there is none to compare with."""
    for sample in range(len(SCORES[0])):
        history = None
        for scores, changes in zip(SCORES, CHANGES, strict=True):
            logits = torch.tensor([scores[sample], *[0.0] * (labels - 1)])
            arguments = (torch.zeros(1, 3), torch.tensor([0, 1]).int(), torch.tensor([STABLE]))
            head = ([torch.zeros(labels, 3)], [logits])
            _, change, history, keep = ops.pooled_exit_head(
                *arguments, *head, criterion="stability", history=history, backend=backend
            )
            assert change.tolist() == pytest.approx([changes[sample]], abs=0, nan_ok=True)
            assert keep.tolist() == [not changes[sample] < STABLE]
            if math.isnan(changes[sample]):
                assert history.tolist() == [[-1, 0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_patience_of_one_lets_everybody_out_at_once(backend):
    _, _, keep = decide(torch.randn(4, 3), 0.0, backend, criterion="patience", parameter=1)
    assert not keep.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", EVERY_OF_CLASSES, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_a_number_stays_and_breaks_the_streak(backend, options, bad):
    # Each row on its own, with its logits as the bias: a product with a NaN would spread it over the batch.
    for row, logits in enumerate(torch.tensor([[4.0, 1.0, 0.0], [4.0, bad, 0.0], [4.0, 1.0, 0.0]])):
        arguments = (torch.zeros(1, 3), torch.tensor([0, 1]).int(), torch.ones(1), [torch.zeros(3, 3)], [logits])
        before = torch.tensor([[0, 1]]).int()
        _, uncertainty, history, keep = ops.pooled_exit_head(*arguments, backend=backend, history=before, **options)
        if row == 1:
            assert uncertainty.isnan().all() and history.tolist() == [[-1, 0]] and keep.all()
        else:
            assert history.tolist() == [[0, 2]] and not keep.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_first_class(backend):
    _, history, _ = decide(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), backend=backend)
    assert history[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"criterion": "mood"},
            f"unknown criterion 'mood'; choose one of {', '.join(criterion.value for criterion in Criterion)}",
        ),
        ({"criterion": "top_k_entropy"}, "'top_k_entropy' is a number of most likely classes.*at least 2, not 0"),
        ({"criterion": "top_k_entropy", "parameter": 1}, "at least 2, not 1"),
        ({"criterion": "patience"}, "'patience' is a number of equal predictions in a row.*at least 1, not 0"),
        ({"criterion": "patience", "parameter": -3}, "at least 1, not -3"),
        *(
            ({"criterion": name.value, "parameter": 2}, f"'{name.value}' has no parameter, so it must be 0, not 2")
            for name in Criterion
            if name not in PARAMETERS
        ),
        ({"history": torch.zeros(2, 3).int()}, r"history must have shape \[2, 2\]"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        decide(torch.randn(2, 3), **options)
