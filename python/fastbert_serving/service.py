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
from fastbert_hf.audit import Audit
from fastbert_hf.data import Text
from fastbert_hf.exits.resolution import Speed
from fastbert_hf.passages import Answers, answers_of_texts
from fastbert_hf.prediction import resolve_max_length, resolve_stride
from fastbert_hf.text_windows import TokenisedWindow, WindowTokeniser
from fastbert_kernels.engine.pool import Answer, DeadlineError, Step
from fastbert_kernels.threads import processors
from fastbert_serving.errors import Refusal, invalid, too_large
from fastbert_serving.leaving import FULL_DEPTH, Choice, Leaving, check_fast_setting
from fastbert_serving.metrics import Metrics
from fastbert_serving.room import Room
from fastbert_serving.settings import Settings
from fastbert_serving.tokenising import tokenised

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
        setting: by which they left, as in `leaving.Leaving`.
    """

    logits: torch.Tensor
    uncertainty: list[float]
    exit_layer: list[int]
    truncated: list[bool]
    tokens: int
    setting: str | None = None


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
        speed: Speed | None,
        speedup: float | None,
        deadlines: Sequence[float | None],
    ) -> list[Future[Answer]]:
        """Let rows in."""

    def close(self) -> None:
        """Return when everybody in flight has an answer."""


@dataclass(frozen=True)
class _Rows:
    """Rows in the pool: texts, or passages of long ones."""

    futures: list[Future[Answer]]
    text_of_row: torch.Tensor
    texts: int

    def cancel(self) -> None:
        for future in self.futures:
            future.cancel()


@dataclass(frozen=True)
class _Submitted:
    """The texts of a request in the pool."""

    window: TokenisedWindow
    rows: _Rows
    truncated: list[bool]
    tokens: int
    leaving: Leaving


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
            ValueError: `settings.max_length` does not fit, a model that has no pool, or an audit or a fast setting that
                cannot be.
        """
        self.model, self.metrics, self._settings = model, metrics, settings
        self.gives_scores: bool = model.config.gives_scores
        self.max_length = resolve_max_length(model, tokenizer, settings.max_length)
        self.truncation_side: str = tokenizer.truncation_side
        self._stride = None if self.gives_scores else resolve_stride(model, tokenizer, self.max_length, "trained")
        if settings.fast_setting is not None:
            check_fast_setting(model, settings.fast_setting, self.max_length, self._stride is not None)
        self._choice = Choice(model.calibrated_setting, settings.fast_setting, settings.target_p99)
        self._audits = {} if settings.audit is None else self._make_audits(settings.audit)
        self._comparisons: set[asyncio.Task[None]] = set()
        self._copies: set[Future[Answer]] = set()  # of the audit, in the pool
        self._vocabulary = model.get_input_embeddings().num_embeddings
        # Whom `_room` lets in finds room: one request, of as many as may be, beside all that is in flight.
        self._pool: TextPool = pool or fastbert_kernels.pool(
            model, max_tokens=2 * settings.max_tokens, max_samples=2 * settings.max_samples, observer=self._step
        )
        self._room = Room(lambda: self._pool.in_flight, settings.max_samples, settings.max_tokens)
        metrics.watch(lambda: self._pool.in_flight, self._audits, self._choice.load)
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
            texts: at least one, single texts and pairs.
            speed: as in the model's `forward`, and so the next.
            speedup: or None.
            seconds: from now, after which nobody wants the answer; None for no deadline.
            truncate: cut off texts that are too long, instead of refusing them.

        Raises:
            Refusal: no answer, and why.
        """
        begin = time.monotonic()
        deadline = None if seconds is None else begin + seconds
        job = self._threads.submit(self._submit, texts, speed, speedup, begin, deadline, truncate)
        try:
            submitted = await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            job.add_done_callback(self._let_go_behind)  # it may have begun
            raise
        entered = time.monotonic()
        self.metrics.tokens.inc(submitted.tokens)
        try:
            answers = await self._answers(submitted.rows, submitted.leaving)
            _check_finite(answers)
        except BaseException as error:
            self._let_go(submitted)
            if isinstance(error, DeadlineError):
                raise Refusal(504, "Deadline", "the deadline passed before there was an answer") from None
            raise
        self._choice.leave(submitted.leaving, answered=True)
        self.metrics.stage_seconds.labels("pool").observe(time.monotonic() - entered)
        self._audit(submitted, answers)
        # What the criterion of scores compares is their change, which is in no range.
        uncertainty = [] if self.gives_scores else answers.uncertainty.tolist()
        exit_layer = answers.exit_layer.tolist()
        self.metrics.answered(exit_layer, uncertainty, submitted.leaving.setting)
        return TextAnswers(
            answers.logits,
            uncertainty,
            exit_layer,
            submitted.truncated,
            submitted.tokens,
            submitted.leaving.setting,
        )

    def close(self) -> None:
        """Answer everybody in flight, and end the threads. Copies of the audit, which nobody awaits, are given up."""
        self._threads.shutdown()
        for future in tuple(self._copies):
            future.cancel()
        self._pool.close()

    def _make_audits(self, share: float) -> dict[str, Audit]:
        if self.gives_scores:
            raise ValueError("an audit counts labels that full depth would not give, and this model gives scores")
        if not self._choice.settings:
            raise ValueError(
                "an audit compares answers of early exits with full depth's, and this model is not calibrated, so that "
                "texts run to full depth unless a request says otherwise; calibrate it first"
            )
        return {name: Audit.of_setting(self.model, setting, share) for name, setting in self._choice.settings.items()}

    def _step(self, step: Step) -> None:
        self.metrics.step(step)
        if self._choice.load is not None:
            self._choice.load.computed(step.seconds)

    def _submit(
        self,
        texts: Sequence[Text],
        speed: float | None,
        speedup: float | None,
        begin: float,
        deadline: float | None,
        truncate: bool,
    ) -> _Submitted:
        started = time.monotonic()
        window = self._tokenised(texts, truncate)
        now, tokens = time.monotonic(), len(window.input_ids)
        self.metrics.stage_seconds.labels("wait").observe(started - begin)
        self.metrics.stage_seconds.labels("tokenise").observe(now - started)
        leaving = self._choice.enter(speed, speedup, tokens, begin)
        try:
            rows = self._enter(window, leaving, deadline)
        except BaseException:
            self._choice.leave(leaving, answered=False)
            raise
        truncated = torch.zeros(len(texts), dtype=torch.bool)
        truncated[window.order] = window.truncated
        return _Submitted(window, rows, truncated.tolist(), tokens, leaving)

    def _tokenised(self, texts: Sequence[Text], truncate: bool) -> TokenisedWindow:
        tokenizer = self._own.tokenizer
        try:
            window = tokenised(
                texts, lambda: WindowTokeniser(tokenizer, self.max_length, self._vocabulary, self._stride)
            )
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
        tokens = len(window.input_ids)
        if tokens > self._settings.max_tokens or len(window) > self._settings.max_samples:
            raise too_large(f"{len(window)} texts with {tokens} tokens are too many at once; send them in parts")
        return window.to(self.model.device)

    def _enter(self, window: TokenisedWindow, leaving: Leaving, deadline: float | None) -> _Rows:
        """Let the rows of a window into the pool, with a deadline on the clock of `time.monotonic`, or none."""
        bounds = torch.cat((window.lengths.new_zeros(1), window.lengths.cumsum(0)))
        try:
            with self._room.entering():
                left = None if deadline is None else deadline - time.monotonic()
                futures = self._pool.submit(
                    window.input_ids,
                    bounds,
                    window.token_type_ids,
                    speed=leaving.speed,
                    speedup=leaving.speedup,
                    deadlines=[left] * len(window),
                )
        except ValueError as error:  # speed and speedup
            raise invalid(str(error)) from None
        return _Rows(futures, window.order, window.num_texts)

    def _enter_copies(self, window: TokenisedWindow, drawn: torch.Tensor) -> _Rows:
        """Let those texts into the pool again that were drawn, bool [n], on their way to full depth."""
        rows = self._enter(window.of_texts(drawn), FULL_DEPTH, None)
        self._copies.update(rows.futures)
        for future in rows.futures:
            future.add_done_callback(self._copies.discard)
        return rows

    async def _answers(self, rows: _Rows, leaving: Leaving) -> Answers:
        answers = await asyncio.gather(*map(asyncio.wrap_future, rows.futures))
        of_rows = Answers(
            torch.stack([row.logits for row in answers]),
            torch.tensor([row.uncertainty for row in answers]),
            torch.tensor([row.exit_layer for row in answers]),
        )
        return answers_of_texts(self.model, of_rows, rows.text_of_row, rows.texts, leaving.speed, leaving.speedup)

    def _audit(self, submitted: _Submitted, answers: Answers) -> None:
        """Count where the texts left, and let some of them, now that they are answered, run to full depth as well."""
        audit = self._audits.get(submitted.leaving.setting or "")
        if audit is None:
            return
        audit.add_exits(answers.exit_layer)
        drawn = audit.draw(submitted.window.num_texts)
        if drawn.any():
            task = asyncio.ensure_future(self._compare(audit, submitted.window, drawn, answers.logits))
            self._comparisons.add(task)  # or it might be forgotten before it is done
            task.add_done_callback(self._comparisons.discard)

    async def _compare(self, audit: Audit, window: TokenisedWindow, drawn: torch.Tensor, logits: torch.Tensor) -> None:
        try:
            rows = await asyncio.wrap_future(self._threads.submit(self._enter_copies, window, drawn))
            full_depth = await self._answers(rows, FULL_DEPTH)
        except Exception:  # no room, the service is closing, or of the encoder, which the next request meets, too
            self.metrics.audit_skipped.inc(int(drawn.sum()))
        else:
            audit.add_answers(logits[drawn], full_depth.logits)

    def _let_go(self, submitted: _Submitted) -> None:
        submitted.rows.cancel()
        self._choice.leave(submitted.leaving, answered=False)

    def _let_go_behind(self, job: Future[_Submitted]) -> None:
        if not job.cancelled() and job.exception() is None:
            self._let_go(job.result())


def _check_finite(answers: Answers) -> None:
    finite = answers.logits.isfinite()
    if not bool(finite.all()):
        position = int((~finite.all(dim=1)).nonzero()[0])
        raise Refusal(
            500,
            "NotFinite",
            f"the answer of text {position} (counted from 0) is not finite: NaN or inf in the weights",
        )
