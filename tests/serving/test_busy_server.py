"""Clients who come while the pool is busy: who is let in, who is told to come again, and who is let go of."""

from __future__ import annotations

import threading
import time

from helpers.waiting import wait_until


def test_who_leaves_or_comes_too_late_is_let_go_of(server, monkeypatch):
    from helpers.serving import Held, send_and_leave

    cancelled = server.metric("fastbert_cancelled_total")
    with Held(server, monkeypatch) as held:
        send_and_leave(server.address, "a good film", when=lambda: held.reached.wait(60), speed=0.0)
        assert held.reached.is_set()
        wait_until(lambda: server.metric("fastbert_cancelled_total") == cancelled + 1)
        got = []
        late = threading.Thread(
            target=lambda: got.append(server.request("POST", "/predict", {"inputs": "bad", "deadline_ms": 1}))
        )
        late.start()
        wait_until(lambda: server.service._pool.in_flight[0] == 2)
        time.sleep(0.002)
    late.join()
    status, _, answer = got[0]
    assert (status, answer["error_type"]) == (504, "Deadline")
    wait_until(lambda: server.service._pool.in_flight == (0, 0))


def test_too_many_at_once(tokenizer, monkeypatch):
    from helpers.serving import Held, patched_model, running

    with running(patched_model(), tokenizer, max_concurrent=1) as server, Held(server, monkeypatch) as held:
        got = []
        first = threading.Thread(target=lambda: got.append(server.predict("a good film")))
        first.start()
        assert held.reached.wait(60)
        status, headers, answer = server.request("POST", "/predict", {"inputs": "bad"})
        assert (status, answer["error_type"], headers["retry-after"]) == (429, "Overloaded", "1")
        held.free.set()
        first.join()
        assert len(got) == 1


def test_a_pool_without_room(tokenizer, monkeypatch):
    from helpers.serving import Held, patched_model, running

    with running(patched_model(), tokenizer, max_tokens=8) as server, Held(server, monkeypatch) as held:
        status, _, answer = server.request("POST", "/predict", {"inputs": "a good film is a good film"})
        assert (status, answer["error_type"]) == (413, "TooLarge")
        let_in = [threading.Thread(target=lambda: server.predict("a good film")) for _ in range(2)]
        for number, client in enumerate(let_in, 1):
            client.start()
            wait_until(lambda number=number: server.service._pool.in_flight == (number, 5 * number))
        assert held.reached.wait(60)
        status, headers, answer = server.request("POST", "/predict", {"inputs": "a good film"})
        assert (status, headers["retry-after"]) == (429, "1") and "2 texts with 10 tokens are in" in answer["error"]
        held.free.set()
        for client in let_in:
            client.join()


def test_the_largest_request_finds_room_where_the_smallest_does(tokenizer, monkeypatch):
    """Or, while single texts come and go, it would be told for ever to come again."""
    from helpers.serving import Held, patched_model, running

    largest = [["a good film is"]] * 5  # of 6 tokens each
    with running(patched_model(), tokenizer, max_tokens=30) as server:
        with Held(server, monkeypatch) as held:
            got = []
            clients = [
                threading.Thread(target=lambda inputs=inputs: got.append(server.predict(inputs)))
                for inputs in ("bad", largest)
            ]
            clients[0].start()
            assert held.reached.wait(60)
            clients[1].start()
            wait_until(lambda: server.service._pool.in_flight == (6, 33))
            assert server.request("POST", "/predict", {"inputs": "bad"})[0] == 429
            held.free.set()
            for client in clients:
                client.join()
        assert sorted(map(len, got)) == [3, 5]
