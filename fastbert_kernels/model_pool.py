"""`pool(model)`: a patched model that answers texts as they come, in batches that stay full."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor, nn

from fastbert_kernels.engine.layer_cost import LayerCost, measure_layer_cost
from fastbert_kernels.engine.packed import PackedBatch
from fastbert_kernels.engine.pool import Answer, Pool, Step, answers_of, too_late
from fastbert_kernels.engine.spans import Encoder, Left
from fastbert_kernels.hosts.base import Entry, Host
from fastbert_kernels.patching import patch_of

MAX_TOKENS, MAX_SAMPLES = 65536, 4096
_PROBE_LENGTH = 32  # tokens of each text on which a layer is timed


class ModelPool:
    """A patched model behind a pool, with a thread that computes; made by `pool`.

    To be closed, or used in a `with` block, behind which everybody has an answer. A change of the model's layers or
    heads is noticed when the next samples are embedded, whose futures then fail; who is further is answered by the
    weights of before. Embeddings, and exit zero, are read as they are when they are asked.
    """

    def __init__(self, model: nn.Module, host: Host, encoder: Encoder, engine: Pool) -> None:
        self._model, self._host, self._encoder, self._pool = model, host, encoder, engine
        self._process = os.getpid()
        self._thread = threading.Thread(target=_work, args=(engine,), name="fastbert-pool", daemon=True)
        self._thread.start()
        # Behind the interpreter's end there is nothing to compute with.
        self._end = weakref.finalize(self, _end, engine, self._thread, self._process)

    @property
    def in_flight(self) -> tuple[int, int]:
        """Samples in flight and their tokens."""
        return self._pool.in_flight

    def submit(
        self,
        *inputs: Any,
        deadlines: Sequence[float | None] | None = None,
        timeout: float | None = 0.0,
        **options: Any,
    ) -> list[Future[Answer]]:
        """Let samples in, from any thread. A future has the answer of each, or `RuntimeError` where the model's weights
        or modules have changed since the pool was made.

        The answers are those of the model's own call, on a CPU bit for bit, whoever shares a batch with whom. Cancel a
        future to let its sample go.

        Args:
            *inputs: as the `Host.enter` of the model's host takes them; of a `fastbert_hf` model those of
                `forward_packed`.
            deadlines: of each sample, in seconds from now, or None for none. A sample with a deadline goes before
                others when it has to; if its answer comes too late all the same, its future fails with
                `engine.pool.DeadlineError`.
            timeout: seconds to wait for room; None waits for as long as it takes.
            **options: as `Host.enter` takes them; of a `fastbert_hf` model `speed` and `speedup`, also one Speed for
                each text.

        Returns:
            A future for each sample, in order.

        Raises:
            PoolFullError: there was no room in time (`engine.pool.PoolFullError`).
            TypeError, ValueError: inputs that the model does not take, or more than the pool ever holds.
            RuntimeError: the pool is closed, or the model in train mode; or layers or heads have changed where exit
                zero was asked.
        """
        if os.getpid() != self._process:
            raise RuntimeError("a pool's thread does not come along into a forked process; make a pool in the child")
        assert self._host.enter is not None
        now = self._pool.now()
        with torch.no_grad():
            entry = self._host.enter(self._model, self._encoder, *inputs, **options)
        self._pool.check_open()  # nor does it answer those who need no layer
        moments = None if deadlines is None else [None if given is None else now + given for given in deadlines]
        if entry.arrival is not None:  # which keeps the model for as long as it waits, and no longer
            texts = self._model, entry.arrival.texts
            entry = dataclasses.replace(entry, arrival=dataclasses.replace(entry.arrival, texts=texts))
        if entry.left is None:
            assert entry.arrival is not None
            return self._pool.submit(entry.arrival, deadlines=moments, timeout=timeout)
        _check_unchanged(self._model, self._encoder)  # nobody asks again for those who have left
        return self._submit_rest(entry, entry.left, moments, timeout)

    def _submit_rest(
        self, entry: Entry, left: Left, moments: Sequence[float | None] | None, timeout: float | None
    ) -> list[Future[Answer]]:
        """Let those in who were not answered before the first layer, and return the futures of all."""
        answered = dict(zip(left.indices.tolist(), answers_of(left), strict=True))
        size = len(answered) + (0 if entry.arrival is None else len(entry.arrival))
        if moments is not None and len(moments) != size:
            raise ValueError(f"{len(moments)} deadlines for {size} samples")
        staying = [place for place in range(size) if place not in answered]
        rest: list[Future[Answer]] = []
        if entry.arrival is not None:
            kept = None if moments is None else [moments[place] for place in staying]
            rest = self._pool.submit(entry.arrival, deadlines=kept, timeout=timeout)
        futures = dict(zip(staying, rest, strict=True))
        end = self._pool.now()
        for place, answer in answered.items():
            futures[place] = Future()
            if moments is not None and (moment := moments[place]) is not None and moment < end:
                futures[place].set_exception(too_late())
            else:
                futures[place].set_result(answer)
        return [futures[place] for place in range(size)]

    def close(self) -> None:
        """Let nobody in from now on, and return when everybody in flight has an answer or is gone."""
        self._end()

    def __enter__(self) -> ModelPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def pool(
    model: nn.Module,
    *,
    max_tokens: int = MAX_TOKENS,
    max_samples: int = MAX_SAMPLES,
    patience: float | None = None,
    cost: LayerCost | None = None,
    observer: Callable[[Step], None] = lambda step: None,
) -> ModelPool:
    """Make a pool of a patched model, for texts that come one by one and want their answers soon.

    Samples enter whenever they come; who survives a layer goes on with others who stand there, so that batches stay
    full in the deep layers, too. `engine.schedule` has the rule. It takes some tenths of a second, in which a layer is
    timed.

    Args:
        model: patched, in eval mode.
        max_tokens: in flight at most; each is a row of hidden states.
        max_samples: in flight at most.
        patience: seconds for which a sample may be passed over behind a layer for the sake of full batches; None: as
            long as a batch of twice the tokens of a full one takes for all layers.
        cost: seconds of a layer by tokens; None measures it.
        observer: is told of every step, in the thread that computes.

    Raises:
        ValueError: the model is not patched, is of a kind that has no pool, was changed, or a limit out of range.
    """
    state = patch_of(model)
    host, encoder = state.host, state.current(model)
    if host.enter is None or host.embed is None or host.pack is None or host.probe is None:
        raise ValueError(f"models of the kind {host.name} have no pool; call the patched model with whole batches")
    if cost is None:
        cost = _measure(model, host, encoder)
    engine = Pool(
        encoder,
        cost,
        functools.partial(_embed, host, encoder),
        max_tokens=max_tokens,
        max_samples=max_samples,
        patience=patience,
        observer=observer,
    )
    return ModelPool(model, host, encoder, engine)


def _embed(host: Host, encoder: Encoder, texts: Sequence[tuple[nn.Module, Any]]) -> Tensor:
    model = texts[0][0]
    _check_unchanged(model, encoder)
    assert host.embed is not None
    return host.embed(model, encoder, [given for _, given in texts])


def _check_unchanged(model: nn.Module, encoder: Encoder) -> None:
    """Raise `RuntimeError` where the model would no longer be answered by its pool's encoder."""
    try:
        current = patch_of(model).current(model)
    except ValueError as error:  # unpatched, or not to be patched any more
        raise RuntimeError(f"the model has changed since its pool was made: {error}") from error
    if current is not encoder:
        raise RuntimeError("the model's weights have changed since its pool was made; close it and make another")


def _measure(model: nn.Module, host: Host, encoder: Encoder) -> LayerCost:
    assert host.pack is not None and host.probe is not None
    embed, texts, generator = host.pack, host.probe, torch.Generator().manual_seed(0)

    def batch_of(tokens: int) -> PackedBatch:
        lengths = [_PROBE_LENGTH] * max(tokens // _PROBE_LENGTH, 1)
        return embed(model, encoder, *texts(model, lengths, generator))

    with torch.no_grad():
        return measure_layer_cost(encoder, batch_of)


@torch.no_grad()
def _work(engine: Pool) -> None:
    try:
        while engine.wait_for_work():
            engine.step()
    except BaseException as error:  # of the observer: nobody is left waiting for ever
        engine.abandon(error)
        raise


def _end(engine: Pool, thread: threading.Thread, process: int) -> None:
    if os.getpid() == process:
        engine.close()
        if thread is not threading.current_thread():  # where the last reference to the pool falls
            thread.join()
