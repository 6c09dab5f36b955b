"""What clients ask, and the answer that each question must get."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

import fastbert_kernels
from fastbert_hf import FastBertForSequenceClassification, predict

SPEEDS = (0.0, 0.4, 0.7)


class Expected(NamedTuple):
    """The answer to a text: logits by name of the class, uncertainty, and the layer at which the text leaves."""

    logits: dict[str, float]
    uncertainty: float
    exit_layer: int

    def is_told_by(self, answer: Any) -> bool:
        """Return True if an answer of the server, with details and raw scores, is this one to the last bit."""
        told = {each["label"]: each["score"] for each in answer["predictions"]}
        return (told, answer["uncertainty"], answer["exit_layer"]) == self


def questions_of(folder: Path, texts: Sequence[str]) -> dict[float, dict[str, Expected]]:
    """Return the answers of one `predict` call for each of `SPEEDS`, by Speed and text.

    No two of all these answers are equal, so that each is known by its content; a text whose answer another has already
    is left out.

    Args:
        folder: of a saved FastBERT and its tokenizer.
        texts: to ask.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = fastbert_kernels.patch(FastBertForSequenceClassification.from_pretrained(folder).eval())
    found: dict[float, dict[str, Expected]] = {}
    seen: set[tuple[float, ...]] = set()
    for speed in SPEEDS:
        answers = predict(model, tokenizer, texts, speed=speed, progress=False)
        rows = zip(
            texts,
            answers.logits.double().tolist(),
            answers.uncertainty.tolist(),
            answers.exit_layer.tolist(),
            strict=True,
        )
        of_speed = found.setdefault(speed, {})
        for text, logits, uncertainty, exit_layer in rows:
            if tuple(logits) not in seen:
                seen.add(tuple(logits))
                by_name = {answers.id2label[index]: value for index, value in enumerate(logits)}
                of_speed[text] = Expected(by_name, uncertainty, exit_layer)
    return found
