"""From texts to answers: tokenised in threads, answered by a pool, awaited without blocking the event loop."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

import fastbert_kernels
from fastbert_hf.data import Text
from fastbert_hf.exits.criteria import ONE_OUTPUT
from fastbert_hf.passages import Answers, answers_of_texts
from fastbert_hf.prediction import resolve_max_length, resolve_stride
from fastbert_hf.text_windows import WindowTokeniser
from fastbert_kernels.engine.pool import Answer, DeadlineError, PoolFullError
from fastbert_kernels.threads import processors
from fastbert_serving.errors import Refusal, invalid, overloaded, too_large
from fastbert_serving.metrics import Metrics
from fastbert_serving.settings import Settings

_MOST_TOKENISERS = 4


@dataclass(frozen=True)
class TextAnswers:
    """The answers of n texts, in their order, on the CPU.

    Attributes:
        logits: float32 [n, N].
        uncertainty: n numbers.
        exit_layer: n numbers.
        truncated: n flags, whether the text was cut off.
        tokens: of all texts.
    """

    logits: torch.Tensor
    uncertainty: list[float]
    exit_layer: list[int]
    truncated: list[bool]
    tokens: int


class TextPool(Protocol):
    """Answers rows of tokens, as `fastbert_kernels.ModelPool` does."""

    @property
    def in_flight(self) -> tuple[int, int]:
        """Rows and their tokens that have no answer yet."""

    def submit(
        self,
        input_ids: torch.Tensor,
        cu_seqlens: torch.Tensor,
        token_type_ids: torch.Tensor | None,
        /,
        *,
        speed: float | None,
        speedup: float | None,
        deadlines: Sequence[float | None],
    ) -> list[Future[Answer]]:
        """Let rows in."""

    def close(self) -> None:
        """Return when everybody in flight has an answer."""


@dataclass(frozen=True)
class _Submitted:
    """Rows in the pool: texts, or passages of long ones."""

    futures: list[Future[Answer]]
    text_of_row: torch.Tensor
    truncated: list[bool]
    tokens: int


class Service:
    """A patched model, its tokenizer and the pool between them."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        settings: Settings,
        metrics: Metrics,
        pool: TextPool | None = None,
    ) -> None:
        """
        Args:
            model: a patched `FastBertForSequenceClassification` in eval mode.
            tokenizer: the one it was trained with.
            settings: limits.
            metrics: that are told of steps and answers.
            pool: another engine that answers in the model's place, closed with the service, by which the model is
                measured against others behind the same server; `None`: a pool of the model.

        Raises:
            ValueError: `settings.max_length` does not fit, a model with one output, or one that has no pool.
        """
        if model.config.problem_type == ONE_OUTPUT:
            raise ValueError("answers are classes and their probabilities, and this model has one output, a score")
        self.model, self.metrics, self._settings = model, metrics, settings
        self.max_length = resolve_max_length(model, tokenizer, settings.max_length)
        self._stride = resolve_stride(model, tokenizer, self.max_length, "trained")
        self._vocabulary = model.get_input_embeddings().num_embeddings
        self._pool: TextPool = pool or fastbert_kernels.pool(
            model, max_tokens=settings.max_tokens, max_samples=settings.max_samples, observer=metrics.step
        )
        metrics.watch_pool(lambda: self._pool.in_flight)
        tokenizers = [copy.deepcopy(tokenizer) for _ in range(min(processors(), _MOST_TOKENISERS))]
        self._own = threading.local()  # .tokenizer, since none is safe in two threads
        self._threads = ThreadPoolExecutor(
            len(tokenizers),
            "fastbert-tokenizer",
            initializer=lambda: setattr(self._own, "tokenizer", tokenizers.pop()),
        )

    async def answer(
        self,
        texts: Sequence[Text],
        *,
        speed: float | None = None,
        speedup: float | None = None,
        seconds: float | None = None,
        truncate: bool = False,
    ) -> TextAnswers:
        """Answer the texts of a request. Where the caller is cancelled, they leave the pool.

        Args:
            texts: at least one; all single texts, or all pairs.
            speed: as in the model's `forward`, and so the next.
            speedup: or None.
            seconds: from now, after which nobody wants the answer; None for no deadline.
            truncate: cut off texts that are too long, instead of refusing them.

        Raises:
            Refusal: no answer, and why.
        """
        begin = time.monotonic()
        deadline = None if seconds is None else begin + seconds
        job = self._threads.submit(self._submit, texts, speed, speedup, deadline, truncate)
        try:
            submitted = await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            job.add_done_callback(_cancel_all)  # it may have begun
            raise
        entered = time.monotonic()
        self.metrics.stage_seconds.labels("tokenise").observe(entered - begin)
        self.metrics.tokens.inc(submitted.tokens)
        try:
            rows = await asyncio.gather(*map(asyncio.wrap_future, submitted.futures))
        except DeadlineError:
            raise Refusal(504, "Deadline", "the deadline passed before there was an answer") from None
        finally:
            for future in submitted.futures:
                future.cancel()
        self.metrics.stage_seconds.labels("pool").observe(time.monotonic() - entered)
        return self._answers(rows, submitted, len(texts), speed, speedup)

    def close(self) -> None:
        """Answer everybody in flight, and end the threads."""
        self._threads.shutdown()
        self._pool.close()

    def _submit(
        self, texts: Sequence[Text], speed: float | None, speedup: float | None, deadline: float | None, truncate: bool
    ) -> _Submitted:
        tokenise = WindowTokeniser(self._own.tokenizer, self.max_length, self._vocabulary, self._stride)
        try:
            window = tokenise(texts, 0)
        except (TypeError, ValueError) as error:
            # What the tokenizer itself says may repeat the text.
            message = str(error) if error.__cause__ is None else f"{str(error).partition(' cannot')[0]} has no tokens"
            raise invalid(message) from None
        if not truncate and window.truncated.any():
            position = int(window.order[window.truncated].min())
            raise invalid(
                f"text {position} (counted from 0) has more than {self.max_length} tokens; shorten it, or send "
                '"truncate": true to have it cut off'
            )
        window, tokens = window.to(self.model.device), len(window.input_ids)
        if tokens > self._settings.max_tokens or len(window) > self._settings.max_samples:
            raise too_large(f"{len(window)} texts with {tokens} tokens are too many at once; send them in parts")
        remaining = None if deadline is None else deadline - time.monotonic()
        bounds = torch.cat((window.lengths.new_zeros(1), window.lengths.cumsum(0)))
        try:
            futures = self._pool.submit(
                window.input_ids,
                bounds,
                window.token_type_ids,
                speed=speed,
                speedup=speedup,
                deadlines=[remaining] * len(window),
            )
        except PoolFullError as error:
            raise overloaded(str(error)) from None
        except ValueError as error:  # speed and speedup
            raise invalid(str(error)) from None
        truncated = torch.zeros(len(texts), dtype=torch.bool)
        truncated[window.order] = window.truncated
        return _Submitted(futures, window.order, truncated.tolist(), tokens)

    def _answers(
        self, rows: Sequence[Answer], submitted: _Submitted, texts: int, speed: float | None, speedup: float | None
    ) -> TextAnswers:
        of_rows = Answers(
            torch.stack([row.logits for row in rows]),
            torch.tensor([row.uncertainty for row in rows]),
            torch.tensor([row.exit_layer for row in rows]),
        )
        of_texts = answers_of_texts(self.model, of_rows, submitted.text_of_row, texts, speed, speedup)
        if not bool(of_texts.logits.isfinite().all()):
            position = int((~of_texts.logits.isfinite().all(dim=1)).nonzero()[0])
            raise Refusal(
                500,
                "NotFinite",
                f"the answer of text {position} (counted from 0) is not finite: NaN or inf in the weights",
            )
        answers = TextAnswers(
            of_texts.logits,
            of_texts.uncertainty.tolist(),
            of_texts.exit_layer.tolist(),
            submitted.truncated,
            submitted.tokens,
        )
        self.metrics.answered(answers.exit_layer, answers.uncertainty)
        return answers


def _cancel_all(job: Future[_Submitted]) -> None:
    if not job.cancelled() and job.exception() is None:
        for future in job.result().futures:
            future.cancel()
