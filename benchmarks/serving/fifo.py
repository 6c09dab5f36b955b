"""Batches without refill: who waits is taken first come, first served, and a batch runs to its end before the next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from fastbert_kernels.engine.pool import Answer

MOST_TEXTS = 32  # of a batch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Fifo(Generic[Item, Result]):
    """A queue, and a thread that answers what waits in batches of at most 32."""

    def __init__(self, run: Callable[[list[Item]], Sequence[Result]]) -> None:
        """
        Args:
            run: a batch -> the answer of each, in order.
        """
        self._run = run
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        self._running = 0
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting) + self._running

    def put(self, items: Sequence[Item]) -> list[Future[Result]]:
        """Let items wait for their batch; a future has the answer of each."""
        futures: list[Future[Result]] = [Future() for _ in items]
        with self._changed:
            self._waiting.extend(zip(items, futures, strict=True))
            self._changed.notify()
        return futures

    def close(self) -> None:
        """Answer everybody who waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @torch.inference_mode()
    def _work(self) -> None:
        while batch := self._next():
            items, futures = zip(*batch, strict=True)
            try:
                answers = self._run(list(items))
            except Exception as error:
                for future in futures:
                    future.set_exception(error)
                continue
            for future, answer in zip(futures, answers, strict=True):
                future.set_result(answer)

    def _next(self) -> list[tuple[Item, Future[Result]]]:
        """Return the next batch, without those whose client has left; an empty one at the end."""
        with self._changed:
            batch: list[tuple[Item, Future[Result]]] = []
            self._running = 0
            while not batch:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return []
                while self._waiting and len(batch) < MOST_TEXTS:
                    item, future = self._waiting.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((item, future))
            self._running = len(batch)
            return batch


@dataclass(frozen=True)
class Row:
    """A text as tokens.

    Attributes:
        input_ids: int64 [n].
        token_type_ids: int64 [n], or None.
        speed: that its client asked for, or None.
    """

    input_ids: Tensor
    token_type_ids: Tensor | None
    speed: float | None


class RowPool:
    """`Fifo` in the place of a pool behind `fastbert_serving.service.Service`."""

    def __init__(self, run: Callable[[list[Row]], Sequence[Answer]]) -> None:
        """
        Args:
            run: a batch -> the answer of each row, in order.
        """
        self._fifo: Fifo[Row, Answer] = Fifo(run)

    @property
    def in_flight(self) -> tuple[int, int]:
        """Rows that wait or run; their tokens are not counted."""
        return len(self._fifo), 0

    def submit(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor,
        token_type_ids: Tensor | None,
        *,
        speed: float | None,
        speedup: float | None,
        deadlines: Sequence[float | None],
    ) -> list[Future[Answer]]:
        """Let rows wait; arguments as of the pool of a `fastbert_hf` model. Neither speedup nor deadlines are known."""
        lengths = cu_seqlens.diff().tolist()
        segments = [None] * len(lengths) if token_type_ids is None else token_type_ids.split(lengths)
        rows = [Row(ids, own, speed) for ids, own in zip(input_ids.split(lengths), segments, strict=True)]
        return self._fifo.put(rows)

    def close(self) -> None:
        """Answer everybody who waits."""
        self._fifo.close()
