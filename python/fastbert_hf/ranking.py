"""Documents in the order of a reranker's scores; those that cannot reach the top leave early."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from fastbert_hf import passes
from fastbert_hf.data import whole_number
from fastbert_hf.prediction import packed_method, resolve_max_length
from fastbert_hf.text_windows import TokenisedWindow, WindowTokeniser


@dataclass(frozen=True)
class ScoreBounds:
    """How far full depth is taken to move the scores of early layers.

    A document leaves behind a layer when it cannot reach the top k: when its score there and the bound are below the
    k-th best score there less the bound.

    Attributes:
        layers: those of the student classifiers that are asked, ascending.
        bounds: of each layer, at least 0, on the scale of the score.
        top_k: for which they hold.
    """

    layers: tuple[int, ...]
    bounds: tuple[float, ...]
    top_k: int

    def __post_init__(self) -> None:
        if list(self.layers) != sorted(set(self.layers)) or len(self.bounds) != len(self.layers):
            raise ValueError(f"layers must ascend and have a bound each, got {self.layers} and {self.bounds}")
        if not all(bound >= 0 for bound in self.bounds) or self.top_k < 1:
            raise ValueError(f"bounds must be at least 0 and top_k at least 1, got {self.bounds} and {self.top_k}")

    @classmethod
    def from_scores(
        cls, scores: Sequence[torch.Tensor], layers: Sequence[int], top_k: int, max_misses: float
    ) -> ScoreBounds:
        """Choose bounds by which the top k is that of full depth for all but a share of new queries.

        The first half of the queries says how far the score of each layer is from full depth's (root mean square), to
        which the bounds are proportional. Of each query of the second half it is computed how large the factor has to
        be so that no document of its top k leaves; the factor taken is the conformal quantile of these. So, over
        queries of the same kind, drawn like those given, the probability that the top k differs is at most
        `max_misses` (split conformal prediction; Vovk et al. 2005).

        Args:
            scores: of each query, float [n, E], of its n documents by the E exit heads; the last one is full depth. Of
                the model as it runs later: patched or not, in its precision, with the same `max_length`.
            layers: of the student classifiers, E - 1, ascending.
            top_k: how many of the best documents have to be the same.
            max_misses: the share, in (0, 1).

        Raises:
            ValueError: too few queries for that share, or shapes that do not fit.
        """
        if not 0 < max_misses < 1:
            raise ValueError(f"max_misses must be a share between 0 and 1, got {max_misses}")
        if any(one.dim() != 2 or one.shape[1] != len(layers) + 1 or len(one) == 0 for one in scores):
            raise ValueError(f"scores must be [n, {len(layers) + 1}] of n >= 1 documents for each query")
        half = len(scores) // 2
        held_out = len(scores) - half
        rank = math.ceil(round((held_out + 1) * (1 - max_misses), 9))
        if half == 0 or rank > held_out:
            fewest = 2 * math.ceil(1 / max_misses - 1)
            raise ValueError(f"{len(scores)} queries are too few for max_misses={max_misses:g}; give at least {fewest}")
        known = torch.cat([one.double() for one in scores[:half]])
        sizes = (known[:, :-1] - known[:, -1:]).square().mean(dim=0).sqrt()
        factors = sorted(_smallest_factor(one.double(), sizes, top_k) for one in scores[half:])
        return cls(
            tuple(layers), tuple((factors[rank - 1] * sizes).nan_to_num(math.inf, posinf=math.inf).tolist()), top_k
        )


@dataclass(frozen=True)
class Ranking:
    """The best documents of a query.

    Attributes:
        documents: their positions among all n that were given, best first; of equal scores the first one first.
        scores: float32 [k], at full depth.
        exit_layers: int64 [n], number of encoder layers executed for every document, 1..L.
    """

    documents: list[int]
    scores: torch.Tensor
    exit_layers: torch.Tensor


def rank(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    query: str,
    documents: Sequence[str],
    top_k: int = 10,
    *,
    bounds: ScoreBounds | None = None,
    max_length: int | None = None,
) -> Ranking:
    """Return the documents with the largest scores as answers to a query.

    All documents run as one batch.

    Args:
        model: a FastBERT model with one output in eval mode, patched or not.
        tokenizer: the one it was trained with; a text is the pair of query and document.
        query: what is looked for.
        documents: n to choose among, where n may be 0.
        top_k: how many are wanted; all, where there are fewer.
        bounds: when documents leave early, for at least `top_k`; `None`: all run to full depth.
        max_length: as in `predict`.

    Raises:
        ValueError: a model with classes, `top_k` below 1 or above that of the bounds, an empty text, or arguments that
            `predict` refuses.
        RuntimeError: the model is in train mode.
    """
    top_k = whole_number("top_k", top_k)
    if top_k < 1 or (bounds is not None and top_k > bounds.top_k):
        most = "" if bounds is None else f" and at most {bounds.top_k}, for which the bounds hold"
        raise ValueError(f"top_k must be at least 1{most}, got {top_k}")
    unknown = sorted(set(() if bounds is None else bounds.layers) - set(model.config.exit_layers[:-1]))
    if unknown:
        raise ValueError(
            f"the bounds are for student classifiers behind layers {unknown}; this model has them behind "
            f"{model.config.exit_layers[:-1]}"
        )
    exit_layers = torch.full((len(documents),), model.config.num_hidden_layers)
    window = _tokenised(model, tokenizer, query, documents, max_length)
    if window is None:
        return Ranking([], torch.zeros(0), exit_layers)
    left = dict(zip(bounds.layers, bounds.bounds, strict=True)) if bounds is not None else {}

    def keep(layer: int, rows: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert bounds is not None
        stays = can_reach_top(scores, left[layer], bounds.top_k)
        exit_layers[window.order[rows[~stays].cpu()]] = layer
        return stays

    rows, scores = _run(model, window, tuple(left), keep)
    order, scores = window.order[rows.cpu()], scores.cpu()
    by_position = order.argsort()
    best = scores[by_position].nan_to_num(-math.inf).sort(descending=True, stable=True).indices[:top_k]
    chosen = by_position[best]
    return Ranking(order[chosen].tolist(), scores[chosen], exit_layers)


@torch.inference_mode()
def scores_of_all_exits(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    query: str,
    documents: Sequence[str],
    max_length: int | None = None,
) -> torch.Tensor:
    """Return what every exit head says of each document, float32 [n, E], from which `ScoreBounds.from_scores` chooses.

    Arguments and errors as in `rank`.
    """
    scores = torch.zeros(len(documents), len(model.config.exit_layers))
    window = _tokenised(model, tokenizer, query, documents, max_length)
    if window is None:
        return scores
    for rows, batch in window.to(model.device).padded_batches(_BATCH_TOKENS):
        output = model(**batch, speed=0.0, output_all_exits=True)
        scores[window.order[rows]] = output.all_logits[:, :, 0].cpu()
    return scores


def can_reach_top(scores: torch.Tensor, bound: float, top_k: int) -> torch.Tensor:
    """Return which documents may be among the top k if full depth moves no score by more than the bound.

    Args:
        scores: float [n]; NaN where nothing is known, which always may.
        bound: at least 0.
        top_k: at least 1.

    Returns:
        bool [n].
    """
    if len(scores) <= top_k:
        return torch.ones_like(scores, dtype=torch.bool)
    known = (scores - bound).nan_to_num(-math.inf, posinf=math.inf, neginf=-math.inf)
    return ~(scores + bound < known.topk(top_k).values[-1])


_BATCH_TOKENS = 4096


def _smallest_factor(scores: torch.Tensor, sizes: torch.Tensor, top_k: int) -> float:
    """Return by what `sizes` [E - 1] have to be multiplied so that no document of the top k leaves; scores [n, E].

    One leaves behind a layer when its score is more than twice the bound below the k-th best of those that are left,
    which is at most the k-th best of all.
    """
    if len(scores) <= top_k:
        return 0.0
    best = scores[:, -1].sort(descending=True, stable=True).indices[:top_k]
    lack = scores[:, :-1].topk(top_k, dim=0).values[-1] - scores[best, :-1].amin(dim=0)  # [E - 1]
    factors = torch.where(lack <= 0, 0.0, lack / (2 * sizes))
    return float(factors.nan_to_num(math.inf, posinf=math.inf).amax()) if len(factors) else 0.0


def _tokenised(
    model: Any, tokenizer: PreTrainedTokenizerBase, query: str, documents: Sequence[str], max_length: int | None
) -> TokenisedWindow | None:
    """Return the pairs of query and document, or `None` where there is no document."""
    if not model.config.gives_scores:
        raise ValueError(f"ranking takes a model with one output, a score, and this one has {model.num_labels} classes")
    if isinstance(documents, str):
        raise TypeError("documents is a single string; pass a list of texts: [text]")
    if model.training:
        raise RuntimeError("the model is in train mode, its answers would be random; call model.eval() first")
    if len(documents) == 0:
        return None
    max_length = resolve_max_length(model, tokenizer, max_length)
    tokenise = WindowTokeniser(tokenizer, max_length, model.get_input_embeddings().num_embeddings)
    return tokenise([(query, document) for document in documents], 0)


Keep = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]


@torch.inference_mode()
def _run(model: Any, window: TokenisedWindow, layers: tuple[int, ...], keep: Keep) -> tuple[torch.Tensor, torch.Tensor]:
    """Return who is left behind the last layer, rows of the window, and their scores there."""
    window = window.to(model.device)
    packed = packed_method(model, "score_packed")
    tokens = int(window.lengths.sum()) if packed is not None else len(window) * int(window.lengths[0])
    if packed is not None:
        ((_, batch),) = window.packed_batches(tokens)
        return packed(**batch, layers=layers, keep=keep)
    ((_, batch),) = window.padded_batches(tokens)
    return passes.run_while_kept(model, model.check_batch(**batch), layers, keep)
