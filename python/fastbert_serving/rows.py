"""The rows of answers, as `schema` has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastbert_serving.service import TextAnswers


def predicted(answers: TextAnswers, names: Any, *, raw: bool, multi_label: bool, details: bool) -> list[Any]:
    """Return what /predict says of each text.

    Args:
        answers: of a classifier.
        names: of its classes, by their number.
        raw: logits in place of probabilities.
        multi_label: probabilities are the sigmoid, not the softmax.
        details: whether they are asked for.
    """
    logits = answers.logits.double()
    scores = logits if raw else logits.sigmoid() if multi_label else logits.softmax(dim=-1)
    rows: list[Any] = []
    for number, values in enumerate(scores.tolist()):
        best_first = sorted(range(len(values)), key=lambda index: -values[index])
        predictions = [{"label": names[index], "score": values[index]} for index in best_first]
        course = {"uncertainty": answers.uncertainty[number], **_course(answers, number)} if details else None
        rows.append(predictions if course is None else {"predictions": predictions, **course})
    return rows


def ranked(answers: TextAnswers, texts: Sequence[str] | None, *, raw: bool, details: bool) -> list[Any]:
    """Return what /rerank says of the texts, the best first; of equal scores the first one first.

    Args:
        answers: of a model with one output.
        texts: to answer with; None: without them.
        raw: scores as they are, in place of their sigmoid.
        details: whether they are asked for.
    """
    scores = answers.logits[:, 0].double()
    values = (scores if raw else scores.sigmoid()).tolist()
    order = scores.sort(descending=True, stable=True).indices.tolist()
    return [
        {
            "index": index,
            "score": values[index],
            **({} if texts is None else {"text": texts[index]}),
            **(_course(answers, index) if details else {}),
        }
        for index in order
    ]


def _course(answers: TextAnswers, number: int) -> dict[str, Any]:
    return {
        "exit_layer": answers.exit_layer[number],
        "truncated": answers.truncated[number],
        "setting": answers.setting,
    }
