"""Exit rules at inference, sample by sample against the definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import fastbert_kernels
from fastbert_hf.calibration import ExitRule
from fastbert_hf.exits.criteria import CRITERIA
from fastbert_kernels.criteria import PARAMETERS, Criterion
from helpers.criteria import uncertainty_of

EXIT_LAYERS = [1, 3, 4, 5]
EVERYBODY_LEAVES = ExitRule((1, 3, 4), (), "patience", 1)
RULES = [
    *(
        ExitRule((1, 3, 4), (0.4, 0.1, 0.6) if criterion.compares_speed else (), name, parameter)
        for name, criterion in CRITERIA.items()
        for parameter in criterion.candidates(4)
    ),
    ExitRule((3,), (0.5,)),
    ExitRule((1, 4), (0.1, 0.3), "confidence"),
    ExitRule((1, 3, 4), (0.0, 0.4, 0.0)),
    *(ExitRule((1, 3, 4), (), "patience", p) for p in (2, 3)),
    ExitRule((1, 4), (), "patience", 2),
]


def exit_of(all_logits: list[list[float]], rule: ExitRule) -> tuple[int, float]:
    """The exit layer of one sample and its uncertainty there, from the logits of all exit heads."""
    thresholds = dict(zip(rule.layers, rule.speeds, strict=False))
    answers: list[int] = []
    before = math.nan
    for layer, logits in zip(EXIT_LAYERS, all_logits, strict=True):
        if layer not in rule.layers:
            continue
        answers.append(logits.index(max(logits)))
        uncertainty = uncertainty_of(logits, rule.criterion, rule.parameter, before)
        before = logits[0]
        if rule.criterion == "patience":
            streak = len(list(itertools.takewhile(lambda answer: answer == answers[-1], reversed(answers))))
            if streak >= rule.parameter:
                return layer, uncertainty
        elif uncertainty < thresholds[layer]:
            return layer, uncertainty
    return EXIT_LAYERS[-1], uncertainty_of(all_logits[-1], rule.criterion, rule.parameter, before)


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_samples_leave_where_the_rule_says(model, batch, rule, patched, monkeypatch) -> None:
    monkeypatch.setattr(model.config, "problem_type", CRITERIA[rule.criterion].problem_type)
    everything = model(**batch, speed=rule, output_all_exits=True)
    exits = [exit_of(logits, rule) for logits in everything.all_logits.double().tolist()]
    layers, uncertainties = [list(column) for column in zip(*exits, strict=True)]
    assert len(set(layers)) > 1 or rule == EVERYBODY_LEAVES, "the rule should tell samples apart"
    assert everything.exit_layer.tolist() == layers
    try:
        if patched:
            fastbert_kernels.patch(model)
        with torch.inference_mode():
            output = model(**batch, speed=rule)
    finally:
        fastbert_kernels.unpatch(model)
    assert output.exit_layer.tolist() == layers
    rows = range(len(layers))
    heads = [EXIT_LAYERS.index(layer) for layer in layers]
    torch.testing.assert_close(output.logits, everything.all_logits[rows, heads], rtol=1e-4, atol=1e-4)
    assert output.uncertainty.tolist() == pytest.approx(uncertainties, abs=1e-4)


def test_heads_that_are_not_asked_are_not_run(model, batch) -> None:
    asked = []
    hooks = [
        head.register_forward_hook(lambda *_, layer=layer: asked.append(layer))
        for layer, head in zip(EXIT_LAYERS, model.heads, strict=True)
    ]
    model(**batch, speed=ExitRule((3,), (1e-9,)))
    model(**batch, speed=[0, 1e-9, 0])
    model(**batch, speed=0)
    for hook in hooks:
        hook.remove()
    assert asked == [3, 5, 3, 5, 5]


def test_patience_starts_anew_after_an_answer_that_is_not_a_number(model, batch) -> None:
    from fastbert_hf.exits.decision import ExitDecision

    resolved = model.resolve_speed(ExitRule((1, 3, 4), (), "patience", 2), None, 3)
    decision = ExitDecision(resolved)
    sure, nan = [5.0, 0.0, 0.0, 0.0], [math.nan] * 4
    leaves = []
    for layer, logits in ((1, [sure, sure, nan]), (3, [nan, sure, nan]), (4, [sure, sure, sure])):
        leaves.append(decision.leaves(layer, torch.tensor(logits), torch.arange(3))[1].tolist())
    assert leaves == [[False] * 3, [False, True, False], [False, True, False]]


def test_criteria_of_both_packages_are_the_same() -> None:
    assert list(CRITERIA) == [criterion.value for criterion in Criterion]
    for name, criterion in CRITERIA.items():
        theirs = PARAMETERS.get(Criterion(name))
        assert (criterion.parameter and criterion.parameter.smallest) == (theirs and theirs.smallest)
