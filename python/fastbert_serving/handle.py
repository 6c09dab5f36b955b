"""What callers in Python are answered, such as those by a handle of Ray Serve: as over HTTP, with `details`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from typing_extensions import Unpack

from fastbert_hf.data import Text
from fastbert_serving import rows
from fastbert_serving.errors import invalid, of_other_models
from fastbert_serving.service import Service


class AnswerOptions(TypedDict, total=False):
    """How the texts of a call are answered, by keyword.

    Attributes:
        speed: as in the model's `forward`, and so the next; `None`, the default: the calibrated setting, or full depth.
        speedup: instead, of a calibrated model.
        truncate: cut off texts that are too long, instead of refusing them, which is the default.
    """

    speed: float | None
    speedup: float | None
    truncate: bool


async def predict(service: Service, texts: Sequence[Text], **options: Unpack[AnswerOptions]) -> list[dict[str, Any]]:
    """Return an answer for each text, or pair, as /predict does: `predictions` (label and score of every class, the
    most likely first), `uncertainty`, `exit_layer`, `truncated`, `setting`.

    Args:
        service: of a model with classes.
        texts: at least one.
        **options: see `AnswerOptions`.

    Raises:
        fastbert_serving.errors.Refusal: no answer, and why.
    """
    if service.gives_scores:
        raise of_other_models(gives_scores=True)
    _check_texts(texts)
    answers = await service.answer(texts, **options)
    config = service.model.config
    return rows.predicted(answers, config.id2label, raw=False, multi_label=config.multi_label, details=True)


async def rerank(
    service: Service, query: str, texts: Sequence[str], **options: Unpack[AnswerOptions]
) -> list[dict[str, Any]]:
    """Return the texts in the order of their scores as answers to a query, as /rerank does, the best first: `index` (in
    `texts`), `score` (the sigmoid of the model's), `exit_layer`, `truncated`, `setting`.

    Args:
        service: of a model with one output, a score.
        query: of all texts.
        texts: at least one.
        **options: see `AnswerOptions`.

    Raises:
        fastbert_serving.errors.Refusal: no answer, and why.
    """
    if not service.gives_scores:
        raise of_other_models(gives_scores=False)
    _check_texts(texts)
    pairs = [(query, text) for text in texts]
    answers = await service.answer(pairs, **options)
    return rows.ranked(answers, None, raw=False, details=True)


def _check_texts(texts: Sequence[Any]) -> None:
    if isinstance(texts, str):  # whose letters would be answered
        raise invalid("texts is a string; send a list of texts")
    if not texts:
        raise invalid("there is no text; send at least one")
