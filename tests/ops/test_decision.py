"""The exit decision that all heads share: every criterion against its definition, predictions, streaks and ties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbert_kernels import ops
from fastbert_kernels.criteria import Criterion

BACKENDS = ["cpu", "reference"]


def decide(logits, speed=0.5, backend="cpu", **options):
    """The decision alone: rows of the identity matrix pick the logits, which are the columns of the weight."""
    batch, labels = logits.shape
    weight, bias = torch.zeros(labels, batch), torch.zeros(labels)
    weight.copy_(logits.T)
    arguments = (torch.eye(batch), torch.arange(batch + 1).int(), torch.as_tensor(speed).expand(batch).contiguous())
    _, uncertainty, history, keep = ops.pooled_exit_head(*arguments, [weight], [bias], backend=backend, **options)
    return uncertainty, history, keep


def definition(logits, criterion, top_k):
    """Uncertainty of one row of finite logits, from the definition, in Python floats."""
    logits = sorted((float(x) for x in logits), reverse=True)
    if criterion == "top_k_entropy":
        logits = logits[:top_k]
    exponentials = [math.exp(x - logits[0]) for x in logits]
    p = [e / sum(exponentials) for e in exponentials]
    if criterion == "confidence":
        return 1 - max(p)
    return -sum(x * math.log(x) for x in p if x > 0) / math.log(len(p))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("criterion", list(Criterion))
@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(-30, 30, width=32), min_size=7, max_size=7), min_size=1, max_size=5),
    top_k=st.integers(2, 9),
    speed=st.floats(0, 1, width=32),
)
def test_every_criterion_follows_its_definition(backend, criterion, rows, top_k, speed):
    logits = torch.tensor(rows)
    uncertainty, history, keep = decide(logits, speed, backend, criterion=criterion.value, top_k=top_k, patience=2)
    for row, u, (prediction, streak), stays in zip(rows, uncertainty, history.tolist(), keep, strict=True):
        want = definition(row, criterion.value, top_k)
        assert abs(float(u) - want) < 2e-6
        assert prediction == row.index(max(row)) and streak == 1
        if criterion is Criterion.PATIENCE:
            assert stays
        elif abs(want - speed) > 1e-5:
            assert bool(stays) == (not want < speed)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("criterion", list(Criterion))
@pytest.mark.parametrize("labels", [2, 17, 1031])
def test_few_and_many_labels(backend, criterion, labels):
    rows = 4 * torch.randn(6, labels)
    uncertainty, history, _ = decide(rows, 0.5, backend, criterion=criterion.value, top_k=10)
    for row, u, (prediction, _) in zip(rows, uncertainty, history.tolist(), strict=True):
        assert abs(float(u) - definition(row, criterion.value, 10)) < 4e-6
        assert prediction == int(row.argmax())


@pytest.mark.parametrize("backend", BACKENDS)
def test_patience_counts_equal_predictions_in_a_row(backend):
    history, seen = None, []
    for winner in (2, 2, 0, 0, 0, 1):
        logits = torch.zeros(1, 3)
        logits[0, winner] = 5
        _, history, keep = decide(logits, 1.0, backend, criterion="patience", patience=3, history=history)
        seen.append((*history[0].tolist(), bool(keep[0])))
    assert seen == [(2, 1, True), (2, 2, True), (0, 1, True), (0, 2, True), (0, 3, False), (1, 1, True)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_patience_of_one_lets_everybody_out_at_once(backend):
    _, _, keep = decide(torch.randn(4, 3), 0.0, backend, criterion="patience", patience=1)
    assert not keep.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("criterion", list(Criterion))
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_a_number_stays_and_breaks_the_streak(backend, criterion, bad):
    # Each row on its own, with its logits as the bias: a product with a NaN would spread it over the batch.
    for row, logits in enumerate(torch.tensor([[4.0, 1.0, 0.0], [4.0, bad, 0.0], [4.0, 1.0, 0.0]])):
        arguments = (torch.zeros(1, 3), torch.tensor([0, 1]).int(), torch.ones(1), [torch.zeros(3, 3)], [logits])
        options = {"criterion": criterion.value, "patience": 2, "history": torch.tensor([[0, 1]]).int()}
        _, uncertainty, history, keep = ops.pooled_exit_head(*arguments, backend=backend, **options)
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
        ({"criterion": "mood"}, "unknown criterion 'mood'; choose one of entropy, top_k_entropy, confidence, patience"),
        ({"criterion": "top_k_entropy", "top_k": 1}, "top_k must be at least 2"),
        ({"criterion": "patience", "patience": 0}, "patience must be at least 1"),
        ({"history": torch.zeros(2, 3).int()}, r"history must have shape \[2, 2\]"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        decide(torch.randn(2, 3), **options)
