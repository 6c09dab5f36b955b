"""The room for texts in flight: for large requests where there is some for small ones, and never for too many."""

from __future__ import annotations

import random
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
        room.entering(1, 1),
    ):
        raise AssertionError
    assert (told.value.status, told.value.retry_after) == (429, 1)


def test_those_on_their_way_count_until_they_are_in_or_have_failed():
    room = Room(lambda: (0, 0), 4, 10)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), room.entering(4, 9):
            with pytest.raises(Refusal, match="^4 texts with 9 tokens"), room.entering(1, 1):
                raise AssertionError
            raise ZeroDivisionError


def test_threads_never_bring_in_twice_the_limit():
    lock, inside, most = threading.Lock(), [0, 0], [0, 0]
    room = Room(lambda: tuple(inside), 4, 10)

    def come(seed):
        draw = random.Random(seed)
        for _ in range(300):
            samples = draw.randint(1, 4)
            tokens = draw.randint(samples, 10)
            try:
                with room.entering(samples, tokens), lock:
                    inside[:] = inside[0] + samples, inside[1] + tokens
                    most[:] = map(max, most, inside)
            except Refusal:
                continue
            with lock:
                inside[:] = inside[0] - samples, inside[1] - tokens

    threads = [threading.Thread(target=come, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [0, 0] and 0 < most[0] < 8 and 0 < most[1] < 20
