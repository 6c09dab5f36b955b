"""`pool(model)`: texts one by one, from several threads, with the answers of whole batches."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fastbert_kernels
from fastbert_kernels.engine.layer_cost import LayerCost
from fastbert_kernels.engine.pool import DeadlineError, PoolFullError
from fastbert_kernels.hosts import pool_entry
from helpers.criteria import exit_rules
from helpers.families import WITH_SEGMENTS, random_model
from helpers.models import padded_batch, spread_model, with_exit_zero

LENGTHS = [7, 30, 1, 33, 64, 5, 12, 2, 9, 41, 80, 6, 17, 25, 3, 22]
COST = LayerCost((32, 64), (1e-4, 1.1e-4))
SPEEDS = {
    "full depth": None,
    "one": 0.5,
    "per layer": [0.3, 0.5, 0.4],
    **exit_rules((1, 2, 3), 0.4),
}


@pytest.fixture(scope="module")
def model():
    return fastbert_kernels.patch(spread_model())


@pytest.fixture(scope="module")
def texts():
    torch.manual_seed(6)
    batch = padded_batch(LENGTHS)
    return [ids[:length] for ids, length in zip(batch["input_ids"], LENGTHS, strict=True)]


def packed(texts):
    bounds = torch.tensor([0, *map(len, texts)]).cumsum(0)
    return torch.cat(texts), bounds


def assert_answers(futures, want, rows=None):
    for row, future in zip(range(len(futures)) if rows is None else rows, futures, strict=True):
        got = future.result(timeout=60)
        assert torch.equal(got.logits, want.logits[row])
        assert (got.uncertainty, got.exit_layer) == (float(want.uncertainty[row]), int(want.exit_layer[row]))


@pytest.mark.parametrize("speed", SPEEDS.values(), ids=SPEEDS)
def test_answers_of_one_call(model, texts, speed):
    want = model.forward_packed(*packed(texts), speed=speed)
    with fastbert_kernels.pool(model, cost=COST) as pool:
        futures = pool.submit(*packed(texts), speed=speed)
        assert_answers(futures, want)
        ids, bounds = packed(texts[:1])
        assert_answers(pool.submit(cu_seqlens=bounds, input_ids=ids, speed=speed), want, [0])
    assert pool.in_flight == (0, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_answers_of_one_call_in_other_precisions(texts, dtype):
    """Of texts that come one by one, and share their batches with whoever is there."""
    model = fastbert_kernels.patch(spread_model(), dtype=dtype)
    want = model.forward_packed(*packed(texts), speed=0.5)
    assert len(want.exit_layer.unique()) > 1
    with fastbert_kernels.pool(model, cost=COST) as pool:
        futures = [pool.submit(*packed([text]), speed=0.5)[0] for text in texts]
        assert_answers(futures, want)


@pytest.mark.parametrize("family", ["bert", "electra-small", "roberta", "mpnet"])
def test_arrivals_are_embedded_as_they_are_alone(family, monkeypatch):
    """Together where every token is computed by itself; ELECTRA's projection is a product of PyTorch."""
    model = fastbert_kernels.patch(random_model(family))
    draw = torch.Generator().manual_seed(3)
    texts = [torch.randint(2, 90, (length,), generator=draw) for length in (5, 1, 12, 30, 3, 3, 17, 8)]
    held, hold = threading.Event(), threading.Event()

    def observer(step):
        held.set()
        hold.wait(60)

    segments = (torch.arange(len(texts[7])) > 3).long() if family in WITH_SEGMENTS else None
    given = [*(packed([text]) for text in texts[:7]), (*packed(texts[7:]), segments)]
    wanted = [model.forward_packed(*one) for one in given]
    embed, embedded = pool_entry.embed, []
    cost = LayerCost((32, 128), (1e-4, 1.1e-4))  # all the texts fit into a step
    with fastbert_kernels.pool(model, cost=cost, observer=observer) as pool:
        monkeypatch.setattr(pool_entry, "embed", lambda *parts: embedded.append(1) or embed(*parts))
        answers = [pool.submit(*given[0])]
        assert held.wait(60)
        answers += [pool.submit(*one) for one in given[1:]]  # while the first runs
        hold.set()
        for futures, want in zip(answers, wanted, strict=True):
            assert_answers(futures, want)
    assert len(embedded) == (8 if family == "electra-small" else 2)


def test_a_speed_for_each_text_from_many_threads(model, texts):
    speeds = torch.linspace(0, 1, len(texts))
    want = model.forward_packed(*packed(texts), speed=speeds)
    assert len(want.exit_layer.unique()) > 1

    def client(seed):
        for _ in range(20):
            rows = random.Random(seed).sample(range(len(texts)), 3)
            ids, bounds = packed([texts[row] for row in rows])
            assert_answers(pool.submit(ids, bounds, speed=speeds[rows], timeout=None), want, rows)

    with fastbert_kernels.pool(model, cost=COST, max_samples=8) as pool, ThreadPoolExecutor(6) as threads:
        list(threads.map(client, range(6)))


def test_the_cost_of_a_layer_is_measured(model, texts):
    steps = []
    with fastbert_kernels.pool(model, observer=steps.append) as pool:
        want = model.forward_packed(*packed(texts), speed=0.5)
        assert_answers(pool.submit(*packed(texts), speed=0.5), want)
    assert sum(step.left for step in steps) == len(texts) and all(step.seconds > 0 for step in steps)


def test_deadlines_count_from_the_call(model, texts):
    with fastbert_kernels.pool(model, cost=COST) as pool:
        futures = pool.submit(*packed(texts[:2]), speed=0.5, deadlines=[0.0, 60.0])
        with pytest.raises(DeadlineError):
            futures[0].result(timeout=60)
        assert_answers(futures[1:], model.forward_packed(*packed(texts[:2]), speed=0.5), [1])


def test_deadlines_of_those_who_need_no_layer(texts):
    """An answer of the head before the first layer may come too late as well; the others go on."""
    model = fastbert_kernels.patch(with_exit_zero(spread_model()).eval())
    want = model.forward_packed(*packed(texts), speed=0.5)
    at_zero = (want.exit_layer == 0).tolist()
    assert True in at_zero and False in at_zero
    with fastbert_kernels.pool(model, cost=COST) as pool:
        for deadline in (0.0, 60.0, None):
            futures = pool.submit(*packed(texts), speed=0.5, deadlines=[deadline if zero else None for zero in at_zero])
            late = [zero and deadline == 0.0 for zero in at_zero]
            for row, future in enumerate(futures):
                if late[row]:
                    assert isinstance(future.exception(timeout=60), DeadlineError)
                else:
                    assert_answers([future], want, [row])


def test_what_is_refused(model, texts):
    with fastbert_kernels.pool(model, cost=COST, max_samples=2) as pool:
        with pytest.raises(ValueError, match="16 samples .* never fit"):
            pool.submit(*packed(texts))
        with pytest.raises(ValueError, match="speed must lie in"):
            pool.submit(*packed(texts[:1]), speed=2.0)
        with pytest.raises(ValueError, match="with at least one token a text"):
            pool.submit(texts[0], torch.tensor([0, 0, len(texts[0])]))
        assert pool.in_flight == (0, 0)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(*packed(texts[:1]))
    pool.close()  # again


def test_models_without_a_pool():
    with pytest.raises(ValueError, match=r"is not patched; call fastbert_kernels.patch\(model\) first"):
        fastbert_kernels.pool(spread_model())
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=97)
    plain = fastbert_kernels.patch(BertForSequenceClassification(config).eval())
    with pytest.raises(ValueError, match="have no pool; call the patched model with whole batches"):
        fastbert_kernels.pool(plain)


def test_changed_weights_are_noticed(texts):
    model = fastbert_kernels.patch(spread_model())
    with fastbert_kernels.pool(model, cost=COST) as pool:
        pool.submit(*packed(texts[:1]))[0].result(timeout=60)
        with torch.no_grad():
            model.heads[0].classifier.weight.mul_(2)
        for future in pool.submit(*packed(texts[:2])):
            with pytest.raises(RuntimeError, match="weights have changed since its pool was made"):
                future.result(timeout=60)
        assert pool.in_flight == (0, 0)


def test_an_unpatched_model_is_noticed(texts):
    model = fastbert_kernels.patch(spread_model())
    with fastbert_kernels.pool(model, cost=COST) as pool:
        fastbert_kernels.unpatch(model)
        with pytest.raises(RuntimeError, match="has changed since its pool was made: .* is not patched"):
            pool.submit(*packed(texts[:1]))[0].result(timeout=60)


def test_nobody_leaves_before_the_first_layer_by_changed_weights(texts):
    model = fastbert_kernels.patch(with_exit_zero(spread_model()).eval())
    with fastbert_kernels.pool(model, cost=COST) as pool:
        assert pool.submit(*packed(texts), speed=1.0)[0].result(timeout=60).exit_layer == 0
        with torch.no_grad():
            model.layer_heads[0].classifier.weight.mul_(2)
        with pytest.raises(RuntimeError, match="weights have changed since its pool was made"):
            pool.submit(*packed(texts), speed=1.0)


def test_a_callers_memory_may_be_written_to_behind_submit(model, texts):
    held, hold = threading.Event(), threading.Event()

    def observer(step):
        held.set()
        hold.wait(60)

    with fastbert_kernels.pool(model, cost=COST, observer=observer) as pool:
        pool.submit(*packed(texts[:1]))
        assert held.wait(60)
        buffer, bounds = packed(texts[:4])
        segments, speeds = torch.arange(len(buffer)) % 2, torch.tensor([0.2, 0.5, 0.0, 1.0])
        want = model.forward_packed(buffer, bounds, segments, speed=speeds)
        futures = pool.submit(buffer, bounds, segments, speed=speeds)
        for memory, other in ((buffer, 3), (segments, 0), (speeds, 0.9)):
            memory.fill_(other)
        hold.set()
        assert_answers(futures, want)


def test_a_pool_that_is_forgotten_ends_its_thread(texts):
    model = fastbert_kernels.patch(copy.deepcopy(spread_model()))
    pool = fastbert_kernels.pool(model, cost=COST)
    futures, thread = pool.submit(*packed(texts)), pool._thread
    del pool
    gc.collect()
    thread.join(timeout=60)
    assert not thread.is_alive() and all(future.done() for future in futures)


def test_a_faulty_observer_leaves_nobody_waiting(model, texts, monkeypatch):
    seen = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda error: seen.set())

    def observer(step):
        raise ZeroDivisionError

    pool = fastbert_kernels.pool(model, cost=COST, observer=observer)
    futures = pool.submit(*packed(texts), speed=0.0)
    for future in futures:
        assert isinstance(future.exception(timeout=60), ZeroDivisionError) or future.result()
    assert any(future.exception() for future in futures) and seen.wait(60)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(*packed(texts))
    pool.close()


def _submit_in_child(pool, texts, answers):
    try:
        pool.submit(*packed(texts))
    except RuntimeError as error:
        answers.send(str(error))


def test_a_forked_child_is_told_to_make_its_own(model, texts):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with fastbert_kernels.pool(model, cost=COST) as pool:
        child = context.Process(target=_submit_in_child, args=(pool, texts, theirs))
        child.start()
        assert "make a pool in the child" in ours.recv()
        child.join()
        assert_answers(pool.submit(*packed(texts), speed=0.5), model.forward_packed(*packed(texts), speed=0.5))


def test_a_full_pool_refuses(model, texts):
    waiting, slow = threading.Event(), LayerCost((1,), (1.0,))  # so that a step is one layer, behind which nobody left
    with fastbert_kernels.pool(model, cost=slow, max_samples=2, observer=lambda step: waiting.wait(60)) as pool:
        first = pool.submit(*packed(texts[:2]), speed=0.0)
        with pytest.raises(PoolFullError):
            pool.submit(*packed(texts[:1]))
        waiting.set()
        assert_answers(first, model.forward_packed(*packed(texts[:2]), speed=0.0))
