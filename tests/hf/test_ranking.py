"""Ranking: with bounds that hold the top is always that of full depth, and calibrated ones keep their promise."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import fastbert_kernels
from fastbert_hf import ScoreBounds, rank
from fastbert_hf.ranking import can_reach_top, scores_of_all_exits
from helpers.models import spread_model
from helpers.patched import only_the_fast_path
from helpers.training import WORDS, make_tokenizer

LAYERS = (1, 2, 3)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def model():
    """Layers that change little, and behind each the same head, so that early scores say something of the last."""
    model = spread_model(labels=1, problem_type="regression")
    with torch.no_grad():
        for name, parameter in model.layers.named_parameters():
            if "output.dense" in name:
                parameter.mul_(0.05)
    for head in model.heads[:-1]:
        head.load_state_dict(model.teacher_classifier.state_dict())
    return model


def make_documents(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 20, (count,), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(4, 10, (n,), generator=generator).tolist()) for n in lengths]


def order_of(scores, top_k):
    return scores.sort(descending=True, stable=True).indices[:top_k].tolist()


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("top_k", [1, 3, 10])
@pytest.mark.parametrize("count", [1, 7, 60])
def test_with_an_exact_bound_the_top_is_that_of_full_depth(model, tokenizer, patched, top_k, count):
    left = 0
    fast = fastbert_kernels.patch(copy.deepcopy(model)) if patched else model
    for seed in range(3):
        documents = make_documents(count, seed)
        scores = scores_of_all_exits(model, tokenizer, "good film", documents)
        exact = (scores[:, :-1] - scores[:, -1:]).abs().amax(dim=0) + 1e-3
        for layers in (LAYERS, (2,), ()):
            bounds = ScoreBounds(layers, tuple(float(exact[layer - 1]) for layer in layers), top_k)
            found = rank(fast, tokenizer, "good film", documents, top_k, bounds=bounds)
            # Scores may be equal but for rounding, where they are of the same text.
            torch.testing.assert_close(found.scores, scores[:, -1][order_of(scores[:, -1], top_k)], rtol=0, atol=1e-3)
            assert found.exit_layers.shape == (count,) and len(set(found.documents)) == min(top_k, count)
            assert (found.exit_layers[found.documents] == 4).all()
            left += int((found.exit_layers < 4).sum())
    assert left > 0 or count <= 7


def test_the_fast_path_drops_the_same_documents(model, tokenizer):
    documents = make_documents(80)
    spread = scores_of_all_exits(model, tokenizer, "very good", documents).std(dim=0)
    bounds = ScoreBounds(LAYERS, tuple((torch.tensor([0.9, 0.4, 0.1]) * spread[:-1]).tolist()), 10)
    want = rank(model, tokenizer, "very good", documents, bounds=bounds)
    assert len(want.exit_layers.unique()) >= 3
    fast = fastbert_kernels.patch(copy.deepcopy(model))
    with only_the_fast_path(fast, fast.layers):
        got = rank(fast, tokenizer, "very good", documents, bounds=bounds)
    assert got.documents == want.documents and torch.equal(got.exit_layers, want.exit_layers)
    torch.testing.assert_close(got.scores, want.scores, rtol=0, atol=1e-4)
    fewer = rank(fast, tokenizer, "very good", documents, 3, bounds=bounds)
    assert fewer.documents == want.documents[:3]


def test_without_bounds_all_run_to_full_depth(model, tokenizer):
    documents = make_documents(20)
    scores = scores_of_all_exits(model, tokenizer, "film", documents)[:, -1]
    found = rank(model, tokenizer, "film", documents, 5)
    assert found.documents == order_of(scores, 5) and (found.exit_layers == 4).all()
    nothing = rank(model, tokenizer, "film", [])
    assert nothing.documents == [] and nothing.scores.shape == (0,)


def test_who_can_reach_the_top():
    scores = torch.tensor([5.0, 1.0, 4.0, math.nan, 3.0, 4.0])
    assert can_reach_top(scores, 0.0, 2).tolist() == [True, False, True, True, False, True]  # ties stay
    assert can_reach_top(scores, 0.5, 2).tolist() == [True, False, True, True, True, True]
    assert can_reach_top(scores, math.inf, 2).all() and can_reach_top(scores, 0.0, 6).all()
    assert can_reach_top(torch.full((3,), math.nan), 1.0, 1).all()


def draw(queries, generator, documents=30):
    """Scores of queries whose three early layers see full depth's through more and less noise."""
    full = torch.randn(queries, documents, 1, generator=generator)
    noise = torch.randn(queries, documents, 3, generator=generator) * torch.tensor([1.0, 0.5, 0.2])
    return torch.cat([full + noise, full], dim=2)


def top_is_kept(scores, bounds):
    rows = torch.arange(len(scores))
    for head, bound in enumerate(bounds.bounds):
        rows = rows[can_reach_top(scores[rows, head], bound, bounds.top_k)]
    return set(order_of(scores[:, -1], bounds.top_k)) <= set(rows.tolist())


def test_calibrated_bounds_miss_no_more_than_promised():
    """Over 300 calibrations, each with new queries: the share of misses is that promised, less what is rounded up."""
    generator, misses, asked, left = torch.Generator().manual_seed(0), 0, 0, 0
    for _ in range(300):
        bounds = ScoreBounds.from_scores(list(draw(60, generator)), LAYERS, 5, 0.1)
        for scores in draw(20, generator):
            misses += not top_is_kept(scores, bounds)
            left += int((~can_reach_top(scores[:, -2], bounds.bounds[-1], 5)).sum())
            asked += 1
    assert 0.04 < misses / asked < 0.1 + 3 * math.sqrt(0.1 * 0.9 / 300)
    assert left > asked  # and documents leave


def test_a_head_that_is_not_a_number_lets_nobody_leave():
    scores = draw(40, torch.Generator().manual_seed(1))
    scores[20:, :, 0] = math.nan
    assert ScoreBounds.from_scores(list(scores), LAYERS, 3, 0.2).bounds == (math.inf,) * 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m, t: rank(spread_model(), t, "a", ["b"]),
            ValueError,
            "one output, a score, and this one has 3 classes",
        ),
        (lambda m, t: rank(m, t, "a", "b"), TypeError, "a single string"),
        (lambda m, t: rank(m, t, "a", ["b"], 0), ValueError, "top_k must be at least 1, got 0"),
        (
            lambda m, t: rank(m, t, "a", ["b"], 4, bounds=ScoreBounds((1,), (0.5,), 3)),
            ValueError,
            "at least 1 and at most 3, for which the bounds hold, got 4",
        ),
        (
            lambda m, t: rank(m, t, "a", ["b"], 1, bounds=ScoreBounds((4,), (0.5,), 3)),
            ValueError,
            r"behind layers \[4\]; this model has them behind \[1, 2, 3\]",
        ),
        (lambda m, t: rank(copy.deepcopy(m).train(), t, "a", ["b"]), RuntimeError, "train mode"),
        (lambda m, t: ScoreBounds((2, 1), (0.5, 0.5), 3), ValueError, "must ascend"),
        (lambda m, t: ScoreBounds((1,), (math.nan,), 3), ValueError, "at least 0"),
        (
            lambda m, t: ScoreBounds.from_scores(list(draw(30, torch.Generator())), LAYERS, 3, 0.05),
            ValueError,
            "30 queries are too few for max_misses=0.05; give at least 38",
        ),
        (lambda m, t: ScoreBounds.from_scores([], LAYERS, 3, 0.05), ValueError, "0 queries are too few"),
        (lambda m, t: ScoreBounds.from_scores([torch.zeros(3, 2)], LAYERS, 3, 0.5), ValueError, r"must be \[n, 4\]"),
        (lambda m, t: ScoreBounds.from_scores([], LAYERS, 3, 1.5), ValueError, "max_misses must be a share"),
    ],
)
def test_what_is_refused(model, tokenizer, call, error, message):
    with pytest.raises(error, match=message):
        call(model, tokenizer)
