"""The one place on the device that decides, through both heads: criteria, streaks, limits and values that are not."""

from __future__ import annotations

import math

import head_cases
import pytest
import torch
from cpu_library import Decision, HeadOutputs
from head_cases import FLOAT32

from helpers.criteria import CHANGES, EVERY_OF_CLASSES, EXACT_MARGINS, OF_CLASSES, SCORES, STABLE, options_of

HEADS = ["attentive", "linear", "pooled"]
INFINITY, NAN = math.inf, math.nan


def decide(library, head: str, logits: torch.Tensor, decision: Decision) -> HeadOutputs:
    """Run `head` on a batch for which it must find these logits [B, N]: the bias is theirs, the weights are 0.

    A bias serves a batch, so samples with logits of their own are batches of one, put together again.
    """
    parts = []
    for sample in range(len(logits)):
        own = Decision(
            decision.speed[sample : sample + 1].clone(),
            decision.criterion,
            decision.parameter,
            None if decision.history is None else decision.history[sample : sample + 1].clone(),
        )
        labels = logits.shape[1]
        hidden, cu_seqlens, weights = head_cases.head_inputs([2], FLOAT32, 8, 64, 1, labels)
        if head == "pooled":
            layers = [(torch.zeros(labels, 8), logits[sample].clone())]
            parts.append(library.pooled_exit_head(hidden, cu_seqlens, layers, "first", "tanh", own))
        else:
            weights |= {"output_weight": torch.zeros(labels, 64), "output_bias": logits[sample].clone()}
            narrow = "tanh" if head == "attentive" else "identity"
            parts.append(library.attentive_head(hidden, cu_seqlens, weights, own, (narrow, "tanh")))
    return HeadOutputs(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def check(library, head: str, logits: torch.Tensor, decision: Decision) -> HeadOutputs:
    outputs = decide(library, head, logits, decision)
    head_cases.check_outputs(outputs, logits.to, FLOAT32, decision)
    return outputs


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("criterion", OF_CLASSES)
@pytest.mark.parametrize("labels", [2, 3, 31, 32, 33, 100, 1031])
def test_criteria_short(library, head, criterion, labels):
    logits = torch.randn(3, labels) * torch.tensor([[0.01], [1.0], [5.0]])
    history = torch.tensor([[0, 4], [1, 1], [-1, 0]], dtype=torch.int32)
    check(library, head, logits, Decision(torch.rand(3), **options_of(criterion, 5), history=history))


@pytest.mark.parametrize("head", ["attentive", "pooled"])
@pytest.mark.parametrize("top_k", [2, 3, 7, 8, 9, 40])
def test_top_k_with_equal_logits_short(library, head, top_k):
    """Also k = N and k > N, where it is the entropy, and classes that are impossible."""
    logits = torch.tensor(
        [
            [1.0, 2.0, 2.0, 2.0, 0.0, -1.0, 1.0, 2.0],
            [3.0] * 8,
            [-5.0, -4.0, -3.0, -3.0, -3.0, -2.0, -0.0, 0.0],
            [4.0, -INFINITY, -INFINITY, 3.0, -INFINITY, -INFINITY, -INFINITY, -INFINITY],
        ]
    )
    outputs = check(library, head, logits, Decision(torch.rand(4), "top_k_entropy", top_k))
    if top_k >= 8:
        plain = decide(library, head, logits, Decision(torch.rand(4)))
        assert torch.equal(outputs.uncertainty, plain.uncertainty)


@pytest.mark.parametrize("head", HEADS)
def test_streak_over_three_heads_short(library, head):
    """The first head has no history; each next one is given that of the head before."""
    sequence = [[0, 1, 2, 1], [0, 1, 1, 1], [0, 2, 1, 1]]  # what each head predicts of four samples
    keeps, history = [], None
    for predictions in sequence:
        logits = 3 * torch.nn.functional.one_hot(torch.tensor(predictions), 3).float()
        decision = Decision(torch.full((4,), NAN), "patience", 2, history=history)
        outputs = check(library, head, logits, decision)
        keeps.append(outputs.keep.tolist())
        history = outputs.history
    assert keeps == [[1, 1, 1, 1], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert history.tolist() == [[0, 3], [2, 1], [1, 2], [1, 3]]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("labels", [1, 3])
def test_stability_over_three_heads_short(library, head, labels):
    """The score is the first logit; after one that is not a number there is none to compare with."""
    history = None
    for scores, changes in zip(SCORES, CHANGES, strict=True):
        logits = torch.zeros(len(scores), labels)
        logits[:, 0] = torch.tensor(scores)
        outputs = decide(library, head, logits, Decision(torch.full((6,), STABLE), "stability", history=history))
        assert (
            outputs.uncertainty.nan_to_num(-1, posinf=9).tolist()
            == torch.tensor(changes).nan_to_num(-1, posinf=9).tolist()
        )
        assert outputs.keep.tolist() == [int(not change < STABLE) for change in changes]
        history = outputs.history


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("options", EVERY_OF_CLASSES, ids=str)
def test_what_is_not_a_number_stays_short(library, head, options):
    """In any place among the logits; the streak ends and begins again."""
    bad = [
        [INFINITY, 0.0, 0.0],
        [0.0, 1.0, INFINITY],
        [-INFINITY] * 3,
        [NAN, 0.0, 0.0],
        [0.0, 5.0, NAN],
        [0.0, -NAN, 1],
    ]
    history = torch.tensor([[i % 3, 7] for i in range(6)], dtype=torch.int32)
    decision = Decision(torch.full((6,), 2.0), **options, history=history)
    outputs = decide(library, head, torch.tensor(bad), decision)
    assert outputs.uncertainty.isnan().all() and outputs.keep.tolist() == [1] * 6
    assert outputs.history.tolist() == [[-1, 0]] * 6
    decision.history = outputs.history
    assert check(library, head, torch.eye(6)[:, :3], decision).history[:, 1].tolist() == [1] * 6


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("options", EVERY_OF_CLASSES, ids=str)
def test_samples_without_tokens_short(library, head, options):
    """A NaN of two samples without tokens, between others, is the same as a NaN among the logits."""
    history = torch.tensor([[0, 7]] * 4, dtype=torch.int32)
    decision = Decision(torch.full((4,), 2.0), **options, history=history)
    hidden, cu_seqlens, weights = head_cases.head_inputs([3, 0, 0, 2], FLOAT32, 8, 64, 1, 3)
    if head == "pooled":
        layers = [(torch.randn(3, 8), torch.randn(3))]
        outputs = library.pooled_exit_head(hidden, cu_seqlens, layers, "max", "tanh", decision)
    else:
        narrow = "tanh" if head == "attentive" else "identity"
        outputs = library.attentive_head(hidden, cu_seqlens, weights, decision, (narrow, "tanh"))
    assert outputs.logits.isnan().all(1).tolist() == [False, True, True, False]
    assert outputs.uncertainty.isnan().tolist() == [False, True, True, False]
    assert outputs.keep.tolist() == [0, 1, 1, 0]
    assert outputs.history[1:3].tolist() == [[-1, 0]] * 2 and (outputs.history[[0, 3], 1] > 0).all()


@pytest.mark.parametrize("head", HEADS)
def test_extreme_logits(library, head):
    """One class certain, one impossible, all alike: uncertainty 0, 0 log 0 = 0, and 1."""
    rows = [
        ([200.0, 0.0, 0.0, 0.0], 0.0),
        ([-INFINITY, 0.0, 0.0, -INFINITY], 0.5),
        ([3.0, 3.0, 3.0, 3.0], 1.0),
        ([30.0, 0.0, 0.0, 0.0], 3 * math.exp(-30) * 31 / math.log(4)),
    ]
    outputs = decide(library, head, torch.tensor([row for row, _ in rows]), Decision(torch.zeros(4)))
    assert outputs.uncertainty.tolist() == pytest.approx([wanted for _, wanted in rows], abs=1e-6)
    assert (outputs.uncertainty >= 0).all() and (outputs.uncertainty <= 1).all() and (outputs.keep == 1).all()
    assert outputs.history[:, 0].tolist() == [0, 1, 0, 0]  # the first of equals


@pytest.mark.parametrize("head", HEADS)
def test_binary_entropies_without_rounding_short(library, head):
    """Every label certain, every label even, half of them; a label that is impossible is not a number."""
    rows = torch.tensor(
        [[200.0, -200.0, 3e38, -3e38], [0.0] * 4, [0.0, -200.0, 0.0, 200.0], [0.0, 1.0, -INFINITY, 2.0]]
    )
    outputs = decide(library, head, rows, Decision(torch.full((4,), 2.0), "binary_entropy"))
    assert outputs.uncertainty[:3].tolist() == [0.0, 1.0, 0.5] and outputs.uncertainty[3].isnan()
    assert outputs.keep.tolist() == [0, 0, 0, 1] and outputs.history[3].tolist() == [-1, 0]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("logits", "margin"), EXACT_MARGINS, ids=str)
def test_margins_without_rounding_short(library, head, logits, margin):
    outputs = decide(library, head, torch.tensor([logits]), Decision(torch.zeros(1), "margin"))
    assert outputs.uncertainty.tolist() == [margin]


@pytest.mark.parametrize("head", HEADS)
def test_ties_go_to_the_first_class(library, head):
    """Of equals on one lane of the warp, on several, and everywhere."""
    logits = torch.zeros(4, 100)
    for sample, equals in enumerate([[37, 69], [40, 39, 75], [99, 3, 35]]):
        logits[sample, equals] = 2.0
    assert check(library, head, logits, Decision(torch.zeros(4))).history[:, 0].tolist() == [37, 39, 3, 0]


@pytest.mark.parametrize("head", HEADS)
def test_speed_is_a_strict_limit(library, head):
    logits = torch.tensor([[1.0, 0.3]] * 6)
    uncertainty = decide(library, head, logits, Decision(torch.zeros(6))).uncertainty
    above = torch.nextafter(uncertainty, torch.tensor(2.0))
    nan = torch.tensor(NAN)
    speed = torch.stack([uncertainty[0], above[1], nan, torch.tensor(-1.0), torch.tensor(2.0), above[5]])
    assert decide(library, head, logits, Decision(speed)).keep.tolist() == [1, 0, 1, 1, 0, 0]
