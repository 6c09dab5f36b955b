"""What a request is refused with: a status, a kind that metrics count, and a message without texts and paths."""

from __future__ import annotations

from collections.abc import Mapping


class Refusal(Exception):
    """A request that gets no answer.

    Attributes:
        status: of HTTP.
        kind: one word, for programs and metrics.
        message: what is wrong, and the remedy.
        retry_after: seconds after which the request may be sent again; `None` where that changes nothing.
        headers: of the answer, beside that one.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.retry_after = status, kind, message, retry_after
        self.headers = {} if headers is None else dict(headers)

    def __reduce__(self) -> tuple[type[Refusal], tuple[int, str, str, int | None, dict[str, str]]]:
        """Let a refusal go to another process."""
        return Refusal, (self.status, self.kind, self.message, self.retry_after, self.headers)


def overloaded(message: str) -> Refusal:
    """Return the refusal of a request that may come again in a second."""
    return Refusal(429, "Overloaded", message, retry_after=1)


def too_large(message: str) -> Refusal:
    """Return the refusal of a request that has more than the server ever takes."""
    return Refusal(413, "TooLarge", message)


def of_other_models(*, gives_scores: bool) -> Refusal:
    """Return the refusal of what only models of the other kind are asked.

    Args:
        gives_scores: of the model at hand: it has one output, a score, and no classes.
    """
    return Refusal(404, "NotFound", _OF_CLASSIFIERS if gives_scores else _OF_RERANKERS)


_OF_RERANKERS = "this model has classes, and /rerank is for models with one output, a score; send texts to /predict"
_OF_CLASSIFIERS = (
    "this model has one output, a score, and /predict is for models with classes; send a query and texts to /rerank"
)


def invalid(message: str) -> Refusal:
    """Return the refusal of a request that says what it must not."""
    return Refusal(422, "Validation", message)
