"""The pool: whoever gets no answer is told, refused or let go of, and takes nobody along."""

from __future__ import annotations

import threading

import pytest
import torch

from fastbert_kernels.engine.arrival import Arrival
from fastbert_kernels.engine.pool import DeadlineError, Pool, PoolFullError
from fastbert_kernels.engine.rule import ENTROPY_RULE, Rule
from fastbert_kernels.engine.spans import PackedState
from helpers.encoders import WIDTH
from helpers.pool_cases import COST, ROOMY, RULES, answers_of, arrival_of, assert_answer, encoder, pool_of, texts


def test_an_error_beside_the_layers_goes_to_those_in_the_step(monkeypatch):
    """As when there is no memory to merge states; whoever comes later is answered."""
    pool = pool_of()
    texts_of_step = pool.submit(arrival_of([10, 11], [0.0, 0.0])) + pool.submit(arrival_of([12], [0.0]))
    pool.step()
    with monkeypatch.context() as patched:
        patched.setattr(PackedState, "select", lambda self, places: 1 / 0)
        texts_of_step[1].cancel()
        assert pool.step()
    for future in (texts_of_step[0], texts_of_step[2]):
        assert isinstance(future.exception(timeout=0), ZeroDivisionError)
    assert pool.in_flight == (0, 0)
    (later,) = pool.submit(arrival_of([11], [0.0]))
    while pool.step():
        pass
    assert_answer(later, ENTROPY_RULE, 11, 0.0)


def test_a_full_pool_refuses_or_lets_wait():
    pool = pool_of(max_samples=3, max_tokens=60)
    pool.submit(arrival_of([1, 2], [0.0, 0.0]))
    assert pool.in_flight == (2, 5)
    with pytest.raises(PoolFullError, match="no room for 2 samples with 9 tokens: 2 of 3 samples and 5 of 60 tokens"):
        pool.submit(arrival_of([3, 4], [0.0, 0.0]))
    pool.submit(arrival_of([30], [0.0]))
    with pytest.raises(PoolFullError, match="no room for 1 samples with 1 tokens"):
        pool.submit(arrival_of([0], [0.0]), timeout=0.01)
    for numbers in ([0, 0, 0, 0], [36, 36]):
        with pytest.raises(ValueError, match="never fit into this pool of 3 samples with 60 tokens"):
            pool.submit(arrival_of(numbers, [0.0] * len(numbers)))
    assert pool.in_flight == (3, 36)
    late = []
    thread = threading.Thread(target=lambda: late.extend(pool.submit(arrival_of([5], [0.4]), timeout=None)))
    thread.start()
    while pool.wait_for_work() and (thread.is_alive() or pool.in_flight[0]):
        pool.step()
        if not pool.in_flight[0]:
            thread.join()
            if late and late[0].done():
                break
    assert_answer(late[0], ENTROPY_RULE, 5, 0.4)


def test_who_is_too_late_is_told():
    now = 0.0
    pool = pool_of(clock=lambda: now)
    futures = pool.submit(arrival_of([10, 11], [0.0, 0.0]), deadlines=[3.0, None])
    pool.step()
    now = 3.0
    while pool.step():
        pass
    with pytest.raises(DeadlineError, match="the deadline passed before the sample had an answer"):
        futures[0].result(timeout=0)
    assert_answer(futures[1], ENTROPY_RULE, 11, 0.0)


def test_an_answer_that_is_there_too_late_is_not_given(monkeypatch):
    """Three leave in one step of a second; the deadline of one passes meanwhile, that of another at its end."""
    now, advance = 0.0, type(encoder()).advance
    early = next(case for case, want in answers_of(ENTROPY_RULE).items() if int(want.exit_layer) == 1)

    def second_by_second(self, state, until):
        nonlocal now
        now += 1.0
        return advance(self, state, until)

    monkeypatch.setattr(type(encoder()), "advance", second_by_second)
    pool = pool_of(clock=lambda: now)
    futures = pool.submit(arrival_of([early[0]] * 3, [early[1]] * 3), deadlines=[0.9, 1.0, None])
    assert pool.step() and pool.in_flight == (0, 0)
    with pytest.raises(DeadlineError, match="the deadline passed before the sample had an answer"):
        futures[0].result(timeout=0)
    for future in futures[1:]:
        assert assert_answer(future, ENTROPY_RULE, *early) == 1


def test_an_error_of_the_encoder_goes_to_those_in_the_batch(monkeypatch):
    pool = pool_of()
    first = pool.submit(arrival_of([10], [0.0]))
    with monkeypatch.context() as patched:
        patched.setattr(type(encoder()), "advance", lambda self, state, until: 1 / 0)
        assert pool.step()
    with pytest.raises(ZeroDivisionError):
        first[0].result(timeout=0)
    (second,) = pool.submit(arrival_of([11], [0.0]))
    while pool.step():
        pass
    assert_answer(second, ENTROPY_RULE, 11, 0.0)


def test_an_error_of_the_embedding_goes_to_whose_texts_it_is_of():
    """Those who came meanwhile, of the same rule and of another, are answered."""

    def embed(texts):
        if any(len(rows) == len(broken) for rows in texts):
            raise ZeroDivisionError
        return torch.cat(texts)

    broken = texts()[20]
    pool = Pool(encoder(), COST, embed, **ROOMY)
    asked = [(10, ENTROPY_RULE), (20, ENTROPY_RULE), (11, RULES[4])]
    futures = [pool.submit(arrival_of([number], [0.0], rule))[0] for number, rule in asked]
    while pool.step():
        pass
    assert isinstance(futures[1].exception(timeout=0), ZeroDivisionError)
    assert_answer(futures[0], ENTROPY_RULE, 10, 0.0)
    assert_answer(futures[2], RULES[4], 11, 0.0)
    assert pool.in_flight == (0, 0)


def test_who_stops_the_steps_loses_nobody_who_has_not_begun():
    """Ctrl-C in the embedding of one rule: the texts of the other are answered by whoever steps on."""
    interrupted = [True]

    def embed(texts):
        if interrupted and interrupted.pop():
            raise KeyboardInterrupt
        return torch.cat(texts)

    pool = Pool(encoder(), COST, embed, **ROOMY)
    (first,) = pool.submit(arrival_of([10], [0.0], ENTROPY_RULE))
    (second,) = pool.submit(arrival_of([11], [0.0], RULES[4]))
    with pytest.raises(KeyboardInterrupt):
        pool.step()
    assert isinstance(first.exception(timeout=0), KeyboardInterrupt)
    while pool.step():
        pass
    assert_answer(second, RULES[4], 11, 0.0)


def test_a_closed_pool_lets_nobody_in_and_ends_when_it_is_empty():
    pool = pool_of()
    (future,) = pool.submit(arrival_of([10], [0.0]))
    pool.close()
    with pytest.raises(RuntimeError, match="this pool is closed"):
        pool.check_open()
    with pytest.raises(RuntimeError, match="this pool is closed"):
        pool.submit(arrival_of([10], [0.0]))
    while pool.wait_for_work():
        pool.step()
    assert_answer(future, ENTROPY_RULE, 10, 0.0)


def test_what_cannot_be_submitted():
    pool = pool_of()
    assert pool.submit(Arrival(torch.empty(0, WIDTH), [], torch.empty(0), ENTROPY_RULE)) == []
    with pytest.raises(ValueError, match="2 deadlines for 1 samples"):
        pool.submit(arrival_of([1], [0.0]), deadlines=[None, None])
    with pytest.raises(ValueError, match="a rule for 4 layers cannot run 5"):
        pool.submit(arrival_of([1], [0.0], Rule(layer_speeds=(None,) * 4)))
    for limits in ({"max_samples": 0}, {"max_tokens": 0}):
        with pytest.raises(ValueError, match="needs room for a sample"):
            pool_of(**limits)
    assert pool.in_flight == (0, 0) and not pool.step()
