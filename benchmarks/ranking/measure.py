"""What leaving early is worth to a reranker: the same top, layers, and time a query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import fastbert_kernels
from fastbert_hf import FastBertForSequenceClassification, ScoreBounds, rank
from fastbert_hf.ranking import Ranking, scores_of_all_exits
from fastbert_hf.timing import ratio, time_interleaved
from ranking.models import MAX_LENGTH
from ranking.search import Search

EAGER, WHOLE = "Transformers eager", "patched, full depth"
_BATCH = 32  # documents in a call of Transformers, as its users have it


def early(max_misses: float) -> str:
    """Return the name of the contestant with that promise."""
    return f"patched, at most {max_misses:.0%} other tops"


class Reranker:
    """The adopted model, patched, and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = fastbert_kernels.patch(FastBertForSequenceClassification.from_pretrained(folder).eval())
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def scores(self, search: Search) -> Tensor:
        """Return the scores of all exit heads, float32 [documents, E]."""
        return scores_of_all_exits(self.model, self.tokenizer, search.query, search.documents, MAX_LENGTH)

    def rank(self, search: Search, top_k: int, bounds: ScoreBounds | None = None) -> Ranking:
        """Return the top of a search."""
        return rank(
            self.model, self.tokenizer, search.query, search.documents, top_k, bounds=bounds, max_length=MAX_LENGTH
        )


class PlainReranker:
    """The same model in Transformers."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def scores(self, search: Search) -> Tensor:
        """Return the scores of all documents, float32 [documents]."""
        parts = []
        for begin in range(0, len(search.documents), _BATCH):
            documents = search.documents[begin : begin + _BATCH]
            queries = [search.query] * len(documents)
            inputs = self.tokenizer(
                queries, documents, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
            )
            parts.append(self.model(**inputs).logits[:, 0])
        return torch.cat(parts)

    def rank(self, search: Search, top_k: int) -> list[int]:
        """Return the documents with the largest scores, best first; of equal ones the first."""
        return self.scores(search).sort(descending=True, stable=True).indices[:top_k].tolist()


def measure(
    classifier: Path,
    adopted: Path,
    calibration: Sequence[Tensor],
    test: Sequence[Search],
    *,
    top_k: int,
    max_misses: Sequence[float],
    timed: int,
    rounds: int,
) -> dict[str, Any]:
    """Return the rows of a table.

    Args:
        classifier: folder of the plain model.
        adopted: folder of the adopted one.
        calibration: of each query that chooses the bounds, the scores of all exits, float [documents, E].
        test: queries that nothing was chosen by.
        top_k: documents of a top.
        max_misses: shares of queries with another top that are promised at most, a contestant each.
        timed: how many of the test queries are timed.
        rounds: interleaved repeats.

    Raises:
        SystemExit: a top of full depth is not that of Transformers, where no rounding explains it.
    """
    plain, reranker = PlainReranker(classifier), Reranker(adopted)
    students = reranker.model.config.exit_layers[:-1]
    bounds = {share: ScoreBounds.from_scores(list(calibration), students, top_k, share) for share in max_misses}
    whole = [reranker.rank(search, top_k) for search in test]
    difference = max(_difference(plain, search, found) for search, found in zip(test[:timed], whole, strict=False))
    if difference > 1e-3:
        raise SystemExit(
            f"scores at full depth differ from those of Transformers by {difference:.3g}; nothing is timed"
        )
    contestants: dict[str, Callable[[Search], Any]] = {
        EAGER: lambda search: plain.rank(search, top_k),
        WHOLE: lambda search: reranker.rank(search, top_k),
    }
    figures: dict[str, dict[str, Any]] = {EAGER: {}, WHOLE: _figures(test, whole, whole)}
    for share, bound in bounds.items():
        contestants[early(share)] = lambda search, bound=bound: reranker.rank(search, top_k, bound)
        found = [reranker.rank(search, top_k, bound) for search in test]
        figures[early(share)] = _figures(test, found, whole) | {"max_misses": share, "bounds": list(bound.bounds)}
    times = time_interleaved(
        {
            name: [lambda run=run, search=search: run(search) for search in test[:timed]]
            for name, run in contestants.items()
        },
        torch.device("cpu"),
        rounds,
        warmups=1,
        shuffle=True,
    )
    rows = [
        {
            "contestant": name,
            "milliseconds_per_query": 1e3 * times[name].median / timed,
            "seconds": times[name].rounds,
            "over_eager": ratio(times[EAGER], times[name]),
            "over_full_depth": ratio(times[WHOLE], times[name]),
            **figures[name],
        }
        for name in contestants
    ]
    return {
        "layers": reranker.model.config.num_hidden_layers,
        "largest_score_difference": difference,
        "own_found_by_bm25": sum(search.own is not None for search in test),
        "own_in_top_of_bm25": sum(search.own is not None and search.own < top_k for search in test),
        "rms_score_change": _score_changes(calibration),
        "rows": rows,
    }


def _difference(plain: PlainReranker, search: Search, found: Ranking) -> float:
    """Return how far the scores of a top are from those of Transformers."""
    return float((plain.scores(search)[found.documents] - found.scores).abs().max())


def _figures(test: Sequence[Search], found: Sequence[Ranking], whole: Sequence[Ranking]) -> dict[str, Any]:
    layers = torch.cat([one.exit_layers for one in found]).double()
    pairs = list(zip(found, whole, strict=True))
    shared = [len({*one.documents} & {*want.documents}) / len(want.documents) for one, want in pairs]
    return {
        "queries": len(test),
        "same_top": sum(one.documents == want.documents for one, want in pairs),
        "shared_documents": sum(shared) / len(shared),
        "mean_layers": float(layers.mean()),
        "own_in_top": sum(search.own in one.documents for search, one in zip(test, found, strict=True)),
    }


def _score_changes(scores: Sequence[Tensor]) -> list[float]:
    """Return how far the scores behind each student are from full depth's, root mean square."""
    known = torch.cat([one.double() for one in scores])
    return (known[:, :-1] - known[:, -1:]).square().mean(dim=0).sqrt().tolist()
