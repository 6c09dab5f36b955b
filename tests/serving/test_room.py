"""The room for texts in flight: for large requests where there is some for small ones, and never for too many."""

from __future__ import annotations

import contextlib
import threading

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'fastbert-kernels[serve]'")

from fastbert_serving.errors import Refusal
from fastbert_serving.room import Room


@pytest.mark.parametrize(("samples", "tokens"), [(0, 10), (4, 0), (4, 10), (9, 99)])
def test_there_is_none_from_the_limits_on(samples, tokens):
    room = Room(lambda: (samples, tokens), 4, 10)
    with (
        pytest.raises(Refusal, match=f"^{samples} texts with {tokens} tokens are in flight") as told,
        room.entering(),
    ):
        raise AssertionError
    assert (told.value.status, told.value.retry_after) == (429, 1)


def test_who_fails_to_enter_leaves_no_trace():
    room = Room(lambda: (0, 0), 1, 1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), room.entering():
            raise ZeroDivisionError


def test_who_is_about_to_enter_is_counted_once():
    inside, told = [0, 0], []
    room = Room(lambda: tuple(inside), 4, 10)

    def come():
        with pytest.raises(Refusal) as refused, room.entering():
            raise AssertionError
        told.append(refused.value.message)

    client = threading.Thread(target=come)
    with room.entering():
        inside[:] = 4, 9
        client.start()
        client.join(0.2)  # or until it waits
    client.join()
    assert len(told) == 1 and told[0].startswith("4 texts with 9 tokens are in flight")


CLIENTS = 8


@pytest.mark.parametrize("limits", [(4, 100), (100, 10)], ids=["samples", "tokens"])
def test_threads_never_bring_in_twice_the_limit(limits):
    """Each waits for the others wherever these could come between: when it looks, and before it is in."""
    looking, entering, lock = threading.Barrier(CLIENTS), threading.Barrier(CLIENTS), threading.Lock()
    inside, refused = [0, 0], []

    def hold(barrier):
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(0.3)  # nobody comes, since they are kept out

    def in_flight():
        seen = tuple(inside)
        hold(looking)
        return seen

    room = Room(in_flight, *limits)

    def come():
        try:
            with room.entering():
                hold(entering)
                with lock:
                    inside[:] = inside[0] + 3, inside[1] + 9
        except Refusal as refusal:
            refused.append(refusal.message.partition(" are")[0])

    threads = [threading.Thread(target=come) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [6, 18] and refused == ["6 texts with 18 tokens"] * (CLIENTS - 2)
