"""The pool: samples of many arrivals on their way through one encoder, in batches that stay full.

Samples enter in front of layer 1 at any time, and are embedded together with all others whose first step it is. Those
who survive a layer wait there for others who do, and go on together when `engine.schedule` says so; an answer is out as
soon as its sample leaves. On a CPU no answer depends, by one bit, on who shared the batch, so answers and exit layers
are those of a run of the encoder on each arrival alone.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastbert_kernels.engine.arrival import Arrival, batch_of, parts
from fastbert_kernels.engine.bundle import Bundle
from fastbert_kernels.engine.layer_cost import LayerCost
from fastbert_kernels.engine.schedule import Schedule
from fastbert_kernels.engine.spans import Encoder, Left, PackedState


class PoolFullError(RuntimeError):
    """There is no room for more samples at the moment."""


class DeadlineError(RuntimeError):
    """A sample's deadline passed before it had an answer, and it was let go of."""


@dataclass(frozen=True)
class Answer:
    """What the exit head said at which a sample left.

    Attributes:
        logits: float32 [N], on the CPU.
        uncertainty: that the rule's criterion compares (its entropy for PATIENCE and at full depth); NaN where the
            logits are not finite.
        exit_layer: number of layers executed, 1..L; 0 where it left before the first.
    """

    logits: Tensor
    uncertainty: float
    exit_layer: int


def answers_of(left: Left) -> list[Answer]:
    """Return the answer of each sample that has left."""
    rows = zip(left.logits.cpu(), left.uncertainty.tolist(), left.exit_layer.tolist(), strict=True)
    return [Answer(*row) for row in rows]


def too_late() -> DeadlineError:
    """Return what the future of a sample has whose deadline passed."""
    return DeadlineError("the deadline passed before the sample had an answer")


@dataclass(frozen=True)
class Step:
    """One step of a pool, for whoever measures it.

    Attributes:
        layer: number of layers that the samples had behind them.
        until: number that those who are left have behind them now.
        samples: of the batch.
        tokens: of the batch.
        left: how many of the samples left.
        seconds: that it took, with the embedding of those whose first step it was.
    """

    layer: int
    until: int
    samples: int
    tokens: int
    left: int
    seconds: float


@dataclass(frozen=True)
class _Sample:
    future: Future[Answer]
    tokens: int
    deadline: float  # infinity for none


class Pool:
    """Samples in flight through one encoder.

    Any thread may submit; steps are taken by one at a time. Samples whose future was cancelled, and those whose
    deadline has passed, leave when their turn comes, without another layer. Whose deadline passes in the step in which
    it leaves has no answer either.
    """

    def __init__(
        self,
        encoder: Encoder,
        cost: LayerCost,
        embed: Callable[[Sequence[Any]], Tensor],
        *,
        max_tokens: int,
        max_samples: int,
        patience: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        observer: Callable[[Step], None] = lambda step: None,
    ) -> None:
        """
        Args:
            encoder: that all samples run through.
            cost: of one of its layers, see `engine.layer_cost`.
            embed: the texts of some arrivals, in order -> their rows in front of the first layer, [T, H]; on a CPU each
                as it is alone. It is called by whoever takes the steps.
            max_tokens: that are in flight together at most, H values each.
            max_samples: that are in flight together at most.
            patience: as of `engine.schedule.Schedule`.
            clock: returns seconds; deadlines are on it.
            observer: is told of every step, in the thread that takes it.

        Raises:
            ValueError: room for nobody, or negative patience.
        """
        if max_tokens < 1 or max_samples < 1:
            raise ValueError(f"a pool needs room for a sample, got max_tokens {max_tokens}, max_samples {max_samples}")
        self._encoder, self._cost, self._embed = encoder, cost, embed
        self._clock, self._observer = clock, observer
        self._max_tokens, self._max_samples = max_tokens, max_samples
        self._schedule: Schedule[Bundle] = Schedule(encoder.depth, cost, patience)
        self._count = 0  # samples that were let in so far
        self._samples: dict[int, _Sample] = {}  # in flight, by number
        self._tokens = 0  # of all samples in flight
        self._arrivals: list[Bundle] = []  # since the last step
        self._closed = False
        self._stepping = threading.Lock()
        self._changed = threading.Condition()  # guards all of the above but the schedule, which is the stepper's

    @property
    def in_flight(self) -> tuple[int, int]:
        """Samples in flight and their tokens."""
        with self._changed:
            return len(self._samples), self._tokens

    def now(self) -> float:
        """Return the time on the pool's clock, from which deadlines count."""
        return self._clock()

    def submit(
        self,
        arrival: Arrival,
        *,
        deadlines: Sequence[float | None] | None = None,
        timeout: float | None = 0.0,
    ) -> list[Future[Answer]]:
        """Let samples in, all of them or none.

        Cancel a future to let its sample go.

        Args:
            arrival: B samples. Those of one rule share their layers; each has its own Speed.
            deadlines: of each sample, on the pool's clock, or None for none.
            timeout: seconds to wait for room; None waits for as long as it takes.

        Returns:
            A future for each sample, in order. It fails with `DeadlineError` where the deadline passed before there was
            an answer.

        Raises:
            PoolFullError: there was no room in time.
            ValueError: more samples or tokens than there can be, another number of deadlines than samples, or a rule
                for another number of layers.
            RuntimeError: the pool is closed.
        """
        size = len(arrival)
        if deadlines is None:
            deadlines = [None] * size
        if len(deadlines) != size:
            raise ValueError(f"{len(deadlines)} deadlines for {size} samples")
        self.check_open()  # of nobody, too
        if size == 0:
            return []
        arrival.rule.check_fits(self._encoder.depth, self._encoder.num_labels)
        arrival, tokens = arrival.in_company(), arrival.tokens
        samples = [
            _Sample(Future(), length, math.inf if deadline is None else deadline)
            for length, deadline in zip(arrival.lengths, deadlines, strict=True)
        ]
        with self._changed:
            self._wait_for_room(size, tokens, timeout)
            numbers = list(range(self._count, self._count + size))  # in the order in which they are let in
            self._count += size
            self._samples.update(zip(numbers, samples, strict=True))
            self._tokens += tokens
            self._arrivals.append(self._bundle(arrival, numbers))
            self._changed.notify_all()
        return [sample.future for sample in samples]

    def step(self) -> bool:
        """Take the next step, and give the answers of those who leave to their futures.

        An error of the encoder or of the embedding goes to the futures of the samples in question, which leave.

        Returns:
            False where nobody waited.
        """
        with self._stepping:
            with self._changed:
                arrivals, self._arrivals = self._arrivals, []
            now = self._clock()
            for arrival in arrivals:
                self._schedule.add(arrival, now)
            taken = self._schedule.next(now)
            if not taken:
                return False
            try:
                ready, rest = self._ready(taken, now)
            except BaseException as error:
                self._fail([number for bundle in taken for number in bundle.numbers], error)
                return True
            for bundle in rest:
                self._schedule.add(bundle, now)
            if ready:
                self._advance(ready, now)
            return True

    def wait_for_work(self) -> bool:
        """Wait until there is something to do; return False where the pool was closed and is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._samples or self._closed)
            return bool(self._samples)

    def close(self) -> None:
        """Let nobody in from now on. Those in flight stay, for whoever steps on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def check_open(self) -> None:
        """Raise `RuntimeError` where the pool is closed."""
        if self._closed:
            raise RuntimeError("this pool is closed and lets nobody in")

    def abandon(self, error: BaseException) -> None:
        """Close the pool, and let everybody in flight go with an error."""
        self.close()
        with self._changed:
            numbers = list(self._samples)
        self._let_go(numbers, lambda number: error)

    def _wait_for_room(self, samples: int, tokens: int, timeout: float | None) -> None:
        if samples > self._max_samples or tokens > self._max_tokens:
            raise ValueError(
                f"{samples} samples with {tokens} tokens never fit into this pool of {self._max_samples} samples with "
                f"{self._max_tokens} tokens; submit them in parts"
            )

        def settled() -> bool:
            fits = len(self._samples) + samples <= self._max_samples and self._tokens + tokens <= self._max_tokens
            return fits or self._closed

        there_is = self._changed.wait_for(settled, timeout)
        self.check_open()
        if not there_is:
            raise PoolFullError(
                f"no room for {samples} samples with {tokens} tokens: {len(self._samples)} of {self._max_samples} "
                f"samples and {self._tokens} of {self._max_tokens} tokens are in flight; submit later"
            )

    def _ready(self, taken: Sequence[Bundle], now: float) -> tuple[list[Bundle], list[Bundle]]:
        """Embed those who have been taken for their first step.

        Returns:
            The bundles of the step, without those who are gone, and what has to wait again: the rest of an arrival that
            alone is too much for a step.
        """
        here = [kept for bundle in taken if (kept := self._without_gone(bundle, now)) is not None]
        ready = [bundle for bundle in here if not isinstance(bundle.samples, Arrival)]
        if len(ready) < len(here):
            ready += self._embedded([bundle for bundle in here if isinstance(bundle.samples, Arrival)])
            now = self._clock()
        rest: list[Bundle] = []
        if sum(bundle.tokens for bundle in ready) > 2 * self._schedule.full:  # then a single bundle was taken
            first = min(ready, key=lambda bundle: bundle.due)
            ready, rest = [first], [bundle for bundle in ready if bundle is not first]
        return [kept for bundle in ready if (kept := self._without_gone(bundle, now)) is not None], rest

    def _embedded(self, came: Sequence[Bundle]) -> list[Bundle]:
        """Return arrivals in front of the first layer: one bundle, or full ones where they are too much for a step.

        Those that cannot be embedded are let go of with the error.
        """
        arrivals = [bundle.samples for bundle in came if isinstance(bundle.samples, Arrival)]
        numbers = [number for bundle in came for number in bundle.numbers]
        try:
            return self._embed_together(arrivals, numbers)
        except Exception as error:
            if len(came) == 1:
                self._fail(numbers, error)
                return []
            return [bundle for one in came for bundle in self._embedded([one])]  # one may be at fault

    def _embed_together(self, arrivals: Sequence[Arrival], numbers: list[int]) -> list[Bundle]:
        batch = batch_of(self._embed([arrival.texts for arrival in arrivals]), arrivals)
        state = self._encoder.start(batch, arrivals[0].rule, torch.tensor(numbers, device=batch.hidden.device))
        if state.tokens <= 2 * self._schedule.full:
            return [self._bundle(state, numbers)]
        bundles = []
        for samples in parts([length for arrival in arrivals for length in arrival.lengths], self._schedule.full):
            first, state = (state, state) if samples == len(state) else state.split(samples)
            bundles.append(self._bundle(first, numbers[:samples]))
            numbers = numbers[samples:]
        return bundles

    def _bundle(self, samples: Arrival | PackedState, numbers: list[int]) -> Bundle:
        if isinstance(samples, PackedState):
            rows = samples.batch.hidden
            if rows.untyped_storage().nbytes() > 2 * rows.nbytes:  # for those who are elsewhere now, or have left
                samples.batch.hidden = rows.clone()
        return Bundle(samples, min(self._samples[number].deadline for number in numbers), numbers)

    def _without_gone(self, bundle: Bundle, now: float) -> Bundle | None:
        """Return the bundle without those who were cancelled or are too late, whom the pool lets go of; None for
        nobody. An arrival is embedded whole, unless all of it is gone."""
        gone = [
            number
            for number in bundle.numbers
            if (sample := self._samples[number]).future.cancelled() or sample.deadline <= now
        ]
        if not gone or (isinstance(bundle.samples, Arrival) and len(gone) < len(bundle.numbers)):
            return bundle
        self._let_go(gone, lambda number: too_late())
        places = [place for place, number in enumerate(bundle.numbers) if number in self._samples]
        if not places:
            return None
        assert isinstance(bundle.samples, PackedState)
        return self._bundle(bundle.samples.select(places), [bundle.numbers[place] for place in places])

    def _advance(self, bundles: Sequence[Bundle], begin: float) -> None:
        numbers = [number for bundle in bundles for number in bundle.numbers]
        try:
            states = [bundle.samples for bundle in bundles if isinstance(bundle.samples, PackedState)]
            state = states[0] if len(states) == 1 else PackedState.concatenate(states)
            layer, until, tokens = state.layer, self._next_stop(state), state.tokens
            left = self._encoder.advance(state, until)
            answers = dict(zip(left.indices.tolist(), answers_of(left), strict=True))
            staying = None if len(answers) == len(numbers) else self._bundle(state, state.indices.tolist())
        except BaseException as error:
            self._fail(numbers, error)
            return
        end = self._clock()
        results: dict[int, Answer | BaseException] = {
            number: too_late() if self._samples[number].deadline < end else answer for number, answer in answers.items()
        }
        self._let_go(list(results), results.__getitem__)
        if staying is not None:
            self._schedule.add(staying, end)
        self._observer(Step(layer, until, len(numbers), tokens, len(answers), end - begin))

    def _next_stop(self, state: PackedState) -> int:
        """Return the next layer that is worth a step and behind which the rule may let somebody out."""
        remaining = self._encoder.depth - state.layer
        later = range(state.layer + self._cost.layers_of_a_step(state.tokens, remaining), self._encoder.depth)
        return next((layer for layer in later if state.rule.asks(layer)), self._encoder.depth)

    def _fail(self, numbers: Sequence[int], error: BaseException) -> None:
        """Let those of the samples go with an error who are still there, and pass on what stops whoever steps, too."""
        self._let_go([number for number in numbers if number in self._samples], lambda number: error)
        if not isinstance(error, Exception):
            raise error  # Ctrl-C and its like

    def _let_go(self, numbers: Sequence[int], result: Callable[[int], Answer | BaseException]) -> None:
        with self._changed:
            gone = [(number, self._samples.pop(number)) for number in numbers]
            self._tokens -= sum(sample.tokens for _, sample in gone)
            self._changed.notify_all()
        for number, sample in gone:  # without the lock: callbacks of the futures run here
            if not sample.future.set_running_or_notify_cancel():
                continue
            outcome = result(number)
            if isinstance(outcome, Answer):
                sample.future.set_result(outcome)
            else:
                sample.future.set_exception(outcome)
